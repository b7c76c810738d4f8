"""How far the safety neurons moved, beside random units of the same layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from safety_neurons.engine import Side
from safety_neurons.inference import Decoding
from safety_neurons.methods.drift import (
    Columns,
    DriftSums,
    function_drift,
    weight_drift,
)
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress
from safety_neurons.runs.audit import Drift, DriftFigure, LayerDrift
from safety_neurons.units import SiteKind, UnitSet

RANDOM_SETS = 200
_HIGH = 95


@dataclass(frozen=True)
class SafetyUnits:
    """The set that is looked at.

    Args:
        described: where it comes from, for the record.
        stages: parts of it by what they do, where an explanation says so.
    """

    units: UnitSet
    described: Mapping[str, object]
    stages: Mapping[str, UnitSet]


def drift_of(
    pair: ModelPair,
    safety: SafetyUnits,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    decoding: Decoding,
    at: str,
    progress: Progress,
    *,
    seed: int,
) -> Drift:
    """Compare units of a reference (the pair's aligned side) with those of a candidate.

    Args:
        prompts, completions: token ids that both models read.
        at: which positions these are, in words.

    Returns:
        The drift of the set, by layer and by stage.
    """
    units = safety.units
    space = units.space
    columns = Columns.of(pair, space)
    written = DriftSums.zero(space)
    batches = decoding.batches(prompts, settings=4)
    for rows in progress.track(batches, "Drift of the neurons"):
        written += function_drift(
            pair, [prompts[i] for i in rows], [completions[i] for i in rows], space, columns
        )
    weights = weight_drift(pair.sides[Side.ALIGNED], pair.sides[Side.UNALIGNED], space)
    drawn = [units.matched_random(seed + i) for i in range(RANDOM_SETS)]
    random = [of for of in drawn if of is not None]
    figures = _Figures(written, weights, random)
    return Drift(
        noun=SiteKind(space.kinds[0]).units,
        units=dict(safety.described),
        positions=written.positions,
        at=at,
        whole=figures.of(units),
        by_layer=[
            LayerDrift(layer=layer, **figures.of(units, layer).model_dump())
            for layer, count in enumerate(units.per_layer())
            if count
        ],
        by_stage={name: figures.of_part(part, units, seed) for name, part in safety.stages.items()},
        random_sets=len(random),
    )


@dataclass(frozen=True)
class _Figures:
    """Sums of all units, and random sets matched to the whole set."""

    function: DriftSums
    weights: DriftSums
    random: Sequence[UnitSet]

    def of(self, units: UnitSet, layer: int | None = None) -> DriftFigure:
        """Of the set, or of its units in one layer, which random sets are matched in."""
        return self._of(_in(units, layer), [_in(each, layer) for each in self.random])

    def of_part(self, part: UnitSet, whole: UnitSet, seed: int) -> DriftFigure:
        """Of a part of the set, beside sets drawn outside the whole of it."""
        drawn = (part.matched_random(seed + i, outside=whole) for i in range(RANDOM_SETS))
        return self._of(part, [of for of in drawn if of is not None])

    def _of(self, units: UnitSet, random: Sequence[UnitSet]) -> DriftFigure:
        found: dict[str, float] = {}
        moved = {"": self.function, "_weights": self.weights}
        for suffix, sums in moved.items():
            others = [of for each in random if (of := sums.of(each)) is not None]
            own = sums.of(units)
            if others and own is not None:
                found["random" + suffix] = float(np.mean(others))
                found[f"random{suffix}_high"] = float(np.percentile(others, _HIGH))
                found["p" + suffix] = (1 + sum(o >= own for o in others)) / (1 + len(others))
        return DriftFigure(
            k=len(units), function=self.function.of(units), weights=self.weights.of(units), **found
        )


def _in(units: UnitSet, layer: int | None) -> UnitSet:
    if layer is None:
        return units
    return UnitSet.of(units.flat[units.space.layers_of(units.flat) == layer], units.space)


def last_prompt_tokens(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """A completion for each prompt behind which nothing but its last token is looked at."""
    return [[prompt[-1]] for prompt in prompts]
