"""Who detects by itself and who passes on: units with the set's units in earlier layers held.

Behind the first units that tell harmful prompts apart, all that rests on them does, too. So one
pass is made for each layer, in which the set's units in the layers before it are held at their
harmless means, and what is left of its units' activity is their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Side
from safety_neurons.inference import Setting
from safety_neurons.interventions import Ablate, Intervention
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.explanation import Position, StageName
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.directions import places_in
from safety_neurons.studies.explanation.effects import Detection
from safety_neurons.units import Block, UnitSet, UnitSpace, UnitValues

PROMPTS = 16
"""So many prompts are read in each layer's pass."""
OWN = 0.5
"""A unit detects by itself if so much of what sets harmful prompts apart in it is its own."""


def own_activity(
    evaluator: Evaluator, harmful: PromptSet, units: UnitSet, means: UnitValues, of: Detection
) -> Float[Tensor, "k"]:
    """Of each unit of the set, what is left without the set's units in earlier layers.

    Args:
        means: harmless means that these are held at.
        of: what is known of all units on the same prompts.

    Returns:
        Parts of what sets harmful prompts apart, at the place where the unit detects best; 1 where
        nothing of the set comes before, not a number where nothing sets them apart.
    """
    space = units.space
    layers = space.layers_of(units.flat)
    best = torch.stack([(a.auroc - 0.5).abs() for a in of.areas.values()]).argmax(dim=0)
    few = PromptSet(harmful.name, harmful.prompts[:PROMPTS])
    places = [[p.content, [p.end], [p.tail]] for p in places_in(evaluator, few)]
    with_units = [block for block in space.blocks if len(units.in_block(block.key))]

    def read(blocks: Sequence[Block], *acts: Intervention) -> Float[Tensor, "place unit"]:
        """Means over few prompts; 0 for units of other blocks."""
        here = UnitSpace(tuple(blocks))
        found = evaluator.read(few, places, here, Setting(Side.ALIGNED, acts))
        means, whole = found.units.mean(dim=0), torch.zeros(len(Position), space.total)
        for block in blocks:
            whole[:, space.slice_of(block.key)] = means[:, here.slice_of(block.key)]
        return whole

    intact = read(with_units) - of.harmless
    own = torch.ones(len(units), dtype=torch.float64)
    for block in evaluator.progress.track(with_units, "Each layer alone"):
        before = UnitSet.of(units.flat[layers < block.key.layer], space)
        if not len(before):
            continue
        mine = space.blocks_of(units.flat) == space.keys.index(block.key)
        flat = units.flat[mine]
        left = read([block], Ablate(before, means)) - of.harmless
        own[mine] = left[best[flat], flat].double() / intact[best[flat], flat].double()
    return torch.where(own.isfinite(), own, torch.nan)


def parts_of(
    stages: Sequence[Sequence[StageName]], own: Float[Tensor, "k"]
) -> list[StageName | None]:
    """The one stage in which each unit stands in the causal test.

    It is the last of its stages; but a unit that detects by itself and does not steer stands in
    detection, whatever rests on it.

    Returns:
        A stage for each unit, None for units without any.
    """
    found: list[StageName | None] = []
    for of, alone in zip(stages, own.tolist(), strict=True):
        detects = StageName.DETECTION in of and alone >= OWN
        if StageName.STEERING in of:
            found.append(StageName.STEERING)
        elif detects:
            found.append(StageName.DETECTION)
        else:
            found.append(max(of, key=list(StageName).index, default=None))
    return found


def sets_of(parts: Sequence[StageName | None], units: UnitSet) -> Mapping[StageName, UnitSet]:
    """The units of each part."""
    return {
        stage: UnitSet.of(units.flat[[part is stage for part in parts]], units.space)
        for stage in StageName
    }
