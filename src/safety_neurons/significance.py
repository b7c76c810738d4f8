"""Whether effects differ, and how many prompts it takes to tell: paired tests and sample sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from safety_neurons.statistics import (
    CONFIDENCE,
    MIN_GAP,
    MIN_ROWS,
    RESAMPLES,
    Effect,
    ratio_of_means,
)

POWER = 0.8
"""How often a difference that is there should be told."""


@dataclass(frozen=True)
class Difference:
    """One effect less another, on the same prompts.

    Args:
        effect: the difference with its interval; its value is None where effects are None.
        p: two-sided, by the same resamples; None without a value.
    """

    effect: Effect
    p: float | None


def effect_difference(
    first: Sequence[float],
    second: Sequence[float],
    denominators: Sequence[float],
    *,
    seed: int = 0,
) -> Difference:
    """Compare two settings by a paired bootstrap: prompts are resampled for both together.

    Args:
        first, second: the safety metric of each setting, prompt by prompt.
        denominators: aligned less unaligned, prompt by prompt.

    Returns:
        mean(first − second) ÷ mean(denominators). p is twice the share of resamples on the far side
        of 0 (ties on both), the data themselves counted as one resample, so it is never 0.
    """
    top = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    found = ratio_of_means(list(top), denominators, seed=seed)
    if found.value is None:
        return Difference(found, None)
    n = len(top)
    rows = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    drawn = top[rows].mean(axis=1)
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(found, min(2 * (beyond + 1) / (RESAMPLES + 1), 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many are looked at (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, i in enumerate(order):
        highest = max(highest, min((len(p_values) - place) * p_values[i], 1.0))
        corrected[i] = highest
    return corrected


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Whether one of two settings has a property more often on the same prompts (McNemar 1947).

    Args:
        first, second: 1 or 0, prompt by prompt.

    Returns:
        The two-sided p of the exact binomial test over prompts that differ; 1 if none does.
    """
    differ = [one - other for one, other in zip(first, second, strict=True) if one != other]
    n, more = len(differ), sum(each > 0 for each in differ)
    tail = sum(math.comb(n, i) for i in range(min(more, n - more) + 1)) / 2**n
    return min(2 * tail, 1.0)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p values corrected for the false discovery rate (Benjamini and Hochberg 1995).

    Args:
        p_values: of tests that are independent or go together.

    Returns:
        Corrected ones in the same order: of those at most q, about a share q is false.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i], reverse=True)
    corrected, least = [0.0] * len(p_values), 1.0
    for place, i in enumerate(order):
        least = min(least, p_values[i] * len(p_values) / (len(p_values) - place))
        corrected[i] = least
    return corrected


def prompts_needed(
    patched: Sequence[float],
    aligned: Sequence[float],
    unaligned: Sequence[float],
    *,
    effect: float = 0.9,
    other: float = 0.8,
) -> int | None:
    """How many prompts tell one effect from another, from what a few prompts show.

    A prompt adds (p − u) − R (a − u) to the error of an effect R. Where the two models differ, p is
    a draw with probability R, taken half-way between the two effects; elsewhere its square is what
    was seen. Two-sided at 95 %, with a POWER of 80 %.

    Args:
        patched, aligned, unaligned: refusals (1 or 0) of the same prompts under three settings.

    Returns:
        The number; None with fewer than MIN_ROWS prompts or a gap below MIN_GAP.
    """
    p, a, u = (np.asarray(of, dtype=np.float64) for of in (patched, aligned, unaligned))
    n = len(p)
    if n < MIN_ROWS or (a - u).mean() < MIN_GAP:
        return None
    middle = (effect + other) / 2
    alike = a == u
    seen = float(np.square(p - u)[alike].sum() / n)
    variance = float((~alike).mean()) * middle * (1 - middle) + seen
    normal = NormalDist()
    needed = normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)
    gap = float((a - u).mean())
    return math.ceil(needed**2 * variance / (abs(effect - other) * gap) ** 2)


def lasting_from(
    patched: Sequence[Sequence[float]],
    aligned: Sequence[float],
    unaligned: Sequence[float],
    shares: Sequence[float],
    effect: float,
    *,
    seed: int = 0,
) -> tuple[float | None, float | None] | None:
    """95 % bootstrap bounds, over prompts, of the smallest share from which an effect lasts.

    Args:
        patched: refusals at each of `shares`, which rise; `share prompt`.
        aligned, unaligned: refusals of the two models on the same prompts.
        effect: what is reached at that share and every larger one, such as 0.9.

    Returns:
        Both bounds, each one of `shares` or None where no share lasts; None where there are too
        few prompts, or too small a gap, for an effect.
    """
    a, u, p = (np.asarray(x, dtype=np.float64) for x in (aligned, unaligned, patched))
    n = len(a)
    if n < MIN_ROWS or (a - u).mean() < MIN_GAP:
        return None
    rows = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    gaps = (a - u)[rows].mean(axis=1)
    usable = gaps > 0
    gained = np.stack([(of_share - u)[rows].mean(axis=1) for of_share in p])
    reached = gained[:, usable] >= effect * gaps[usable] - 1e-9
    lasts = np.logical_and.accumulate(reached[::-1])[::-1]
    first = np.where(lasts.any(axis=0), lasts.argmax(axis=0), len(shares))
    low = int(np.percentile(first, 2.5, method="lower"))
    high = int(np.percentile(first, 97.5, method="higher"))
    named: list[float | None] = [*shares, None]
    return named[low], named[high]
