"""What is known of the set's units, one row each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safety_neurons.engine import Side
from safety_neurons.methods.moments import Moments
from safety_neurons.runs.explanation import (
    Area,
    ExplainedUnit,
    Figure,
    Position,
    StageName,
)
from safety_neurons.studies.explanation.effects import Areas, Effects
from safety_neurons.units import Ranking, UnitSet


@dataclass(frozen=True)
class Standing:
    """What each unit of a set is beside others, in the order of the set's positions.

    Args:
        p, stages: by unit.
        own: the part of its activity that is its own; not a number where there is none.
        parts: where it stands.
    """

    p: Sequence[Mapping[StageName, float]]
    stages: Sequence[list[StageName]]
    own: Sequence[float]
    parts: Sequence[StageName | None]


def unit_rows(
    units: UnitSet, ranking: Ranking, found: Effects, standing: Standing
) -> list[ExplainedUnit]:
    """A row for each unit of the set, by rank."""
    ranks = ranking.ranks
    space = units.space
    layers = space.layers_of(units.flat).tolist()
    numbers = space.coordinates_of(units.flat).tolist()
    exact = found.held.by_unit
    rows = [
        ExplainedUnit(
            unit=name,
            layer=layers[i],
            neuron=numbers[i],
            rank=int(ranks[unit]) + 1,
            detection=_areas(found.detection[Side.ALIGNED].areas, unit),
            detection_unaligned=_areas(found.detection[Side.UNALIGNED].areas, unit),
            mediation=_figure(found.mediation.direction, unit)
            if not found.by_stage[StageName.MEDIATION][unit].isnan()
            else None,
            later=float(found.mediation.later.mean[unit]) if layers[i] < max(layers) else None,
            mediation_exact=exact.get(unit),
            steering=None if found.steering is None else _figure(found.steering, unit),
            p=dict(standing.p[i]),
            stages=standing.stages[i],
            own=None if math.isnan(standing.own[i]) else standing.own[i],
            part=standing.parts[i],
        )
        for i, (unit, name) in enumerate(zip(units.flat.tolist(), units.names, strict=True))
    ]
    return sorted(rows, key=lambda row: row.rank)


def _areas(areas: Areas, unit: int) -> dict[Position, Area]:
    found = {}
    for position, of in areas.items():
        low, high = of.interval
        found[position] = Area(
            auroc=float(of.auroc[unit]), ci_low=float(low[unit]), ci_high=float(high[unit])
        )
    return found


def _figure(moments: Moments, unit: int) -> Figure:
    value, half = float(moments.mean[unit]), float(moments.half_width[unit])
    known = half == half  # with a single prompt there is no interval
    return Figure(
        value=value,
        ci_low=value - half if known else None,
        ci_high=value + half if known else None,
    )
