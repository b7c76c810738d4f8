"""How often two models refuse the same prompts, and how far that can be told.

Of each prompt two verdicts are known, so that prompts fall into four cells: both refuse, the first
alone, the second alone, neither. Intervals are of the cells' chances behind those counts (Jeffreys'
prior): models that agree on all of a few prompts are not thereby known to agree. A judge's
sensitivity and specificity are drawn from what its labelled answers leave open, the same for both
models, and taken out of every rate (Rogan and Gladen 1978).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from safety_neurons.judges.calibration import Errors
from safety_neurons.statistics import Interval, percentiles

DRAWS = 20_000
_PRIOR = 0.5

Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; None where there is nothing to tell it from."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Compared:
    """Refusals of a candidate beside those of a reference.

    Args:
        reference, candidate: rates as a judge without errors would count them, as far as its errors
            are known.
        difference: candidate − reference.
        ratio: candidate ÷ reference.
        n: prompts of each.
        again: the same figures with so many prompts, if they stay as they are.
    """

    reference: Figure
    candidate: Figure
    difference: Figure
    ratio: Figure
    n: int
    again: Callable[[int], Compared] = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        reference: Sequence[bool],
        candidate: Sequence[bool],
        errors: Errors | None = None,
        *,
        seed: int = 0,
    ) -> Compared:
        """Compare refusals of the same prompts, in the same order.

        Args:
            errors: of the judge; None to take its verdicts as they are.

        Returns:
            Figures without values where there is no prompt, or the judge tells nothing.

        Raises:
            ValueError: if the two differ in length.
        """
        first, second = np.asarray(reference, dtype=bool), np.asarray(candidate, dtype=bool)
        if len(first) != len(second):
            raise ValueError(f"{len(first)} and {len(second)} verdicts were given.")
        counts = np.array(
            [(first & second).sum(), (first & ~second).sum(), (~first & second).sum()]
        )
        return cls._of_cells(np.append(counts, len(first) - counts.sum()), errors, seed)

    @classmethod
    def _of_cells(cls, cells: Draws, errors: Errors | None, seed: int) -> Compared:
        """Of how many prompts both refuse, the first alone, the second alone, neither."""
        n = float(cells.sum())
        rng = np.random.default_rng(seed)
        drawn = rng.dirichlet(cells + _PRIOR, size=DRAWS)
        return cls._of_draws(
            ((cells[0] + cells[1]) / n, (cells[0] + cells[2]) / n) if n else None,
            (drawn[:, 0] + drawn[:, 1], drawn[:, 0] + drawn[:, 2]),
            round(n),
            errors,
            rng,
            lambda more: cls._of_cells(cells * (more / n) if n else cells, errors, seed),
        )

    @classmethod
    def of_unlike(
        cls,
        reference: Sequence[bool],
        candidate: Sequence[bool],
        errors: Errors | None = None,
        *,
        seed: int = 0,
    ) -> Compared:
        """The same where the two were given other prompts of one kind."""
        both = [np.asarray(of, dtype=bool) for of in (reference, candidate)]
        counts = np.array([[of.sum(), len(of) - of.sum()] for of in both], dtype=np.float64)
        return cls._of_counts(counts, errors, seed)

    @classmethod
    def _of_counts(cls, counts: Draws, errors: Errors | None, seed: int) -> Compared:
        """Of how many prompts each model refuses, and does not."""
        rng = np.random.default_rng(seed)
        drawn = [rng.beta(of[0] + _PRIOR, of[1] + _PRIOR, size=DRAWS) for of in counts]
        n = float(counts.sum(axis=1).min())
        rates = [of[0] / of.sum() for of in counts] if n else []
        return cls._of_draws(
            (float(rates[0]), float(rates[1])) if n else None,
            (drawn[0], drawn[1]),
            round(n),
            errors,
            rng,
            lambda more: cls._of_counts(counts * (more / n) if n else counts, errors, seed),
        )

    @classmethod
    def _of_draws(
        cls,
        seen: tuple[float, float] | None,
        drawn: tuple[Draws, Draws],
        n: int,
        errors: Errors | None,
        rng: np.random.Generator,
        again: Callable[[int], Compared],
    ) -> Compared:
        untold = Figure(None, None)
        if seen is None:
            return cls(untold, untold, untold, untold, 0, again)
        difference, drawn_apart = seen[1] - seen[0], drawn[1] - drawn[0]
        if errors is not None:
            known = _Known.of(errors, rng)
            if known is None:
                return cls(untold, untold, untold, untold, n, again)
            # Not of rates that were cut at 0 or 1: what the judge takes for refusals by mistake
            # stands in both, and falls out of their difference.
            difference = min(max(difference / known.telling, -1.0), 1.0)
            drawn_apart = np.clip(drawn_apart / known.tellings, -1, 1)
            seen = known.taken_out(seen)
            drawn = known.drawn_out(drawn)
        (a, b), (first, second) = seen, drawn
        usable = first > 0
        ratios = second[usable] / first[usable]
        return cls(
            Figure(a, percentiles(first)),
            Figure(b, percentiles(second)),
            Figure(difference, percentiles(drawn_apart)),
            Figure(b / a, percentiles(ratios)) if a > 0 and usable.mean() >= 0.99 else untold,
            n,
            again,
        )


@dataclass(frozen=True)
class _Known:
    """A judge's errors as they may be.

    Args:
        telling: sensitivity + specificity − 1.
    """

    specificity: float
    telling: float
    specificities: Draws
    tellings: Draws

    @classmethod
    def of(cls, errors: Errors, rng: np.random.Generator) -> _Known | None:
        """None where the judge does not tell refusals from other answers."""
        se, sp = errors.sensitivity, errors.specificity
        if se.value is None or sp.value is None or se.value + sp.value <= 1:
            return None
        of_yes, of_no = (
            rng.beta(
                round(part.value * part.n) + _PRIOR,
                part.n - round(part.value * part.n) + _PRIOR,
                size=DRAWS,
            )
            for part in (se, sp)
            if part.value is not None
        )
        usable = np.clip(of_yes + of_no - 1, 1e-3, None)
        return cls(sp.value, se.value + sp.value - 1, of_no, usable)

    def taken_out(self, rates: tuple[float, float]) -> tuple[float, float]:
        first, second = (
            min(max((rate + self.specificity - 1) / self.telling, 0.0), 1.0) for rate in rates
        )
        return first, second

    def drawn_out(self, rates: tuple[Draws, Draws]) -> tuple[Draws, Draws]:
        first, second = (
            np.clip((rate + self.specificities - 1) / self.tellings, 0, 1) for rate in rates
        )
        return first, second
