"""Rates, ratios of means, and their intervals.

A figure without enough rows is None, never 0. Intervals are bootstrap percentiles over
prompts; a ratio resamples the prompts of numerator and denominator together.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_ROWS = 8
"""Fewer prompts than this give no interval and no effect."""
MIN_GAP = 0.2
"""The least mean(aligned − unaligned) that an effect may be divided by."""
CONFIDENCE = 0.95
RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """Lower and upper bound at 95 % confidence."""

    low: float
    high: float


class _Bounded:
    """A figure whose interval may be missing."""

    interval: Interval | None

    @property
    def ci_low(self) -> float | None:
        return self.interval.low if self.interval else None

    @property
    def ci_high(self) -> float | None:
        return self.interval.high if self.interval else None


@dataclass(frozen=True)
class Rate(_Bounded):
    """Refusals ÷ all rows.

    Args:
        value: None without rows.
        n: all rows, the unscored ones included.
        unscored: rows without a verdict; they count as no refusal.
        interval: Wilson's, None with fewer than MIN_ROWS rows.
        bound_high: the rate if every unscored row were a refusal.
    """

    value: float | None
    n: int
    unscored: int
    interval: Interval | None
    bound_high: float | None


def rate(hits: int, n: int, unscored: int = 0) -> Rate:
    """The rate of `hits` among `n` rows, `unscored` of which have no verdict."""
    if n == 0:
        return Rate(None, 0, 0, None, None)
    interval = wilson(hits, n) if n >= MIN_ROWS else None
    return Rate(hits / n, n, unscored, interval, (hits + unscored) / n)


def wilson(hits: int, n: int) -> Interval:
    """Wilson's score interval of a proportion (1927)."""
    z = 1.959963984540054
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    # The bounds are rounded, and the rate itself must stay between them.
    return Interval(max(min(centre - half, hits / n), 0.0), min(max(centre + half, hits / n), 1.0))


@dataclass(frozen=True)
class Effect(_Bounded):
    """A causal effect as a ratio of means, None where it cannot be told.

    Args:
        value: sum(numerators) ÷ sum(denominators).
        n: prompts.
        interval: bootstrap percentiles, None where too many resamples have no gap.
    """

    value: float | None
    n: int
    interval: Interval | None


def ratio_of_means(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0
) -> Effect:
    """mean(numerators) ÷ mean(denominators) over the same prompts, with its interval."""
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    if top.shape != bottom.shape:
        raise ValueError(f"{len(top)} numerators and {len(bottom)} denominators were given.")
    n = len(top)
    if n < MIN_ROWS or bottom.mean() < MIN_GAP:
        return Effect(None, n, None)
    rows = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    tops, bottoms = top[rows].mean(axis=1), bottom[rows].mean(axis=1)
    usable = bottoms > 0
    interval = percentiles(tops[usable] / bottoms[usable]) if usable.mean() >= 0.99 else None
    return Effect(float(top.mean() / bottom.mean()), n, interval)


def exp_of_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0
) -> Interval | None:
    """The interval of exp(sum(numerators) ÷ sum(denominators)), such as a perplexity's.

    Returns:
        Its bounds by the bootstrap over rows; None with fewer than MIN_ROWS rows, or where they are
        too large for a number.
    """
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    if len(top) < MIN_ROWS:
        return None
    rows = np.random.default_rng(seed).integers(0, len(top), size=(RESAMPLES, len(top)))
    bounds = percentiles(top[rows].sum(axis=1) / bottom[rows].sum(axis=1))
    if bounds.high > math.log(sys.float_info.max):
        return None
    return Interval(math.exp(bounds.low), math.exp(bounds.high))


def mean_interval(values: Sequence[float], *, seed: int = 0) -> Interval | None:
    """Of a mean, by the bootstrap over rows; None with fewer than MIN_ROWS."""
    rows = np.asarray(values, dtype=np.float64)
    if len(rows) < MIN_ROWS:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(rows), size=(RESAMPLES, len(rows)))
    return percentiles(rows[drawn].mean(axis=1))


def percentiles(values: NDArray[np.float64]) -> Interval:
    """The bounds that hold 95 % of resampled values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean, None if there is nothing or anything is None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


@dataclass(frozen=True)
class Share(_Bounded):
    """How often something is so among `n`, with its interval."""

    value: float | None
    n: int
    interval: Interval | None


def share(hits: int, n: int) -> Share:
    """`hits` of `n`, with Wilson's interval; None where n is 0."""
    return Share(hits / n, n, wilson(hits, n)) if n else Share(None, 0, None)


def rogan_gladen(found: Share, sensitivity: Share, specificity: Share) -> Share:
    """A rate as it would be if the judge made no errors (Rogan and Gladen 1978).

    (p + specificity − 1) ÷ (sensitivity + specificity − 1), kept within 0 and 1. The interval is
    that of Lang and Reiczigel (2014), which takes up how few rows sensitivity and specificity were
    measured on.

    Returns:
        The corrected rate, None if there is nothing to correct or the judge does not tell the two
        apart (sensitivity + specificity of 1 or less).
    """
    if found.value is None or sensitivity.value is None or specificity.value is None:
        return Share(None, found.n, None)
    telling = sensitivity.value + specificity.value - 1
    if telling <= 0:
        return Share(None, found.n, None)
    value = min(max((found.value + specificity.value - 1) / telling, 0.0), 1.0)
    z = 1.959963984540054
    n, of_yes, of_no = found.n + z * z, sensitivity.n + 2, specificity.n + 2
    p = (found.n * found.value + z * z / 2) / n
    se = (sensitivity.n * sensitivity.value + 1) / of_yes
    sp = (specificity.n * specificity.value + 1) / of_no
    if se + sp <= 1:
        return Share(value, found.n, Interval(0.0, 1.0))
    centre = (p + sp - 1) / (se + sp - 1)
    yes, no = se * (1 - se) / of_yes, sp * (1 - sp) / of_no
    shift = 2 * z * z * (centre * yes - (1 - centre) * no)
    spread = math.sqrt(p * (1 - p) / n + centre**2 * yes + (1 - centre) ** 2 * no) / (se + sp - 1)
    low, high = centre + shift - z * spread, centre + shift + z * spread
    within = [min(max(bound, 0.0), 1.0) for bound in (low, high)]
    return Share(value, found.n, Interval(min(within[0], value), max(within[1], value)))


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Agreement of two lists of labels beyond chance (Cohen 1960).

    Returns:
        1 for the same labels everywhere, 0 for what chance would give; 1 where both lists hold one
        and the same label, which leaves nothing to chance.

    Raises:
        ValueError: if the lists are empty or differ in length.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"kappa needs two lists of one length, not {len(first)}, {len(second)}")
    n = len(first)
    same = sum(a == b for a, b in zip(first, second, strict=True)) / n
    counts, others = Counter(first), Counter(second)
    by_chance = sum(counts[label] * others[label] for label in counts) / n**2
    return 1.0 if by_chance == 1 else (same - by_chance) / (1 - by_chance)
