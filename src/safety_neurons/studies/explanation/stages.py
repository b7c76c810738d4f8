"""Which stages a set's units have: each effect beside all units of the layer outside the set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.runs.explanation import LayerNull, Quantiles, StageName
from safety_neurons.significance import benjamini_hochberg
from safety_neurons.units import UnitSet

LEVEL = 0.05
"""The false discovery rate of each stage."""
TAIL, TAIL_UNITS, LEAST_TAIL = 0.1, 20, 10
"""Of the units outside so large a part, or so many, say how the tail of their effects falls; with
fewer than the last nothing is said."""
_HIGH = 0.95


def p_outside(effects: Float[Tensor, "unit"], units: UnitSet) -> Float[Tensor, "k"]:
    """Of each unit, how often units of its layer outside the set do as much.

    Args:
        effects: of all units of the space; not a number where there is none.

    Returns:
        (1 + those that do as much) ÷ (1 + all). Where none does, that is the same for a unit that
        does little more than all of them and for one that does a hundred times as much, so their
        tail is continued (after Knijnenburg et al. 2009). Not a number for units without an effect,
        and in layers of which nothing is outside.
    """
    found = torch.full((len(units),), torch.nan, dtype=torch.float64)
    places = units.space.blocks_of(units.flat)
    for place, key in enumerate(units.space.keys):
        mine = places == place
        if not bool(mine.any()):
            continue
        outside = _outside(effects, units, place).sort().values
        if not len(outside):
            continue
        own = effects[units.space.slice_of(key)][units.in_block(key)].double()
        less = torch.searchsorted(outside.contiguous(), own.contiguous(), right=False)
        p = (1 + len(outside) - less).double() / (1 + len(outside)) * _beyond(own, outside)
        found[mine] = torch.where(own.isnan(), torch.nan, p)
    return found


def stages_of(
    effects: Mapping[StageName, Float[Tensor, "unit"]], units: UnitSet
) -> tuple[list[dict[StageName, float]], list[list[StageName]]]:
    """The stages of each unit of a set.

    Args:
        effects: by stage, of all units; a stage is left out where it cannot be measured.

    Returns:
        p by stage, and the stages whose effect is above 0 and, corrected for how many units are
        looked at, beyond chance; both in the order of the set's positions.
    """
    values: list[dict[StageName, float]] = [{} for _ in range(len(units))]
    stages: list[list[StageName]] = [[] for _ in range(len(units))]
    for stage, effect in effects.items():
        p = p_outside(effect, units)
        known = (~p.isnan()).nonzero().flatten().tolist()
        corrected = benjamini_hochberg([float(p[i]) for i in known])
        for i, q in zip(known, corrected, strict=True):
            values[i][stage] = float(p[i])
            if q <= LEVEL and float(effect[units.flat[i]]) > 0:
                stages[i].append(stage)
    return values, stages


def nulls_of(effects: Mapping[StageName, Float[Tensor, "unit"]], units: UnitSet) -> list[LayerNull]:
    """What units outside the set do, layer by layer."""
    found = []
    for place, key in enumerate(units.space.keys):
        by_stage = {}
        for stage, effect in effects.items():
            outside = _outside(effect, units, place)
            if len(outside):
                by_stage[stage] = Quantiles(
                    median=float(outside.median()),
                    high=float(outside.quantile(_HIGH)),
                    most=float(outside.max()),
                )
        n = units.space.widths[place] - len(units.in_block(key))
        found.append(LayerNull(layer=key.layer, n=n, effects=by_stage))
    return found


def _beyond(own: Float[Tensor, "k"], outside: Float[Tensor, "outside"]) -> Float[Tensor, "k"]:
    """By what p falls for effects beyond all of the units outside (sorted), else 1.

    A generalised Pareto distribution is fitted to the tail by probability-weighted moments (Hosking
    and Wallis 1987); effects of units have heavy tails, which a faster fall would take for signs.

    Returns:
        Factors from 0 to 1.
    """
    count = max(int(TAIL * len(outside)), min(TAIL_UNITS, len(outside) // 4))
    if count < LEAST_TAIL:
        return torch.ones_like(own)
    excess = outside[-count:] - outside[-count - 1]
    weights = 1 - (torch.arange(1, count + 1, dtype=torch.float64) - 0.35) / count
    mean, weighted = float(excess.mean()), float((weights * excess).mean())
    if mean <= 0 or mean - 2 * weighted <= 0:
        return torch.ones_like(own)
    shape = max(2 - mean / (mean - 2 * weighted), 0.0)
    scale = 2 * mean * weighted / (mean - 2 * weighted) if shape > 0 else mean

    def log_above(x: Tensor) -> Tensor:
        return -torch.log1p(shape * x / scale) / shape if shape > 0 else -x / scale

    most = outside[-1]
    away = own.clamp(min=float(most)) - outside[-count - 1]
    return torch.exp(log_above(away) - log_above(excess[-1]))


def _outside(
    effects: Float[Tensor, "unit"], units: UnitSet, place: int
) -> Float[Tensor, "outside"]:
    """Effects of the units of one block that are outside the set, without those that have none."""
    key = units.space.keys[place]
    kept = torch.ones(units.space.widths[place], dtype=torch.bool)
    kept[units.in_block(key)] = False
    outside = effects[units.space.slice_of(key)][kept].double()
    return outside[~outside.isnan()]
