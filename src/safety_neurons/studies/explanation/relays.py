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
from safety_neurons.inference.reading import read_at
from safety_neurons.interventions import Ablate
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.explanation import Position, StageName
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.directions import places_in
from safety_neurons.studies.explanation.effects import Detection
from safety_neurons.units import UnitSet, UnitSpace, UnitValues

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
    difference = of.harmful - of.harmless
    found = torch.ones(len(units), dtype=torch.float64)
    places = [[p.content, [p.end], [p.tail]] for p in places_in(evaluator, harmful)]
    held = [layer for layer in sorted(set(layers.tolist())) if layer > int(layers.min())]
    for layer in evaluator.progress.track(held, "Each layer alone"):
        before = UnitSet.of(units.flat[layers < layer], space)
        blocks = tuple(block for block in space.blocks if block.key.layer == layer)
        read = read_at(
            evaluator.group,
            evaluator.encoded(harmful),
            places,
            UnitSpace(blocks),
            Setting(Side.ALIGNED, (Ablate(before, means),)),
            evaluator.decoding,
        ).units.mean(dim=0)
        of_layer = torch.cat([torch.arange(space.total)[space.slice_of(b.key)] for b in blocks])
        left = torch.zeros(len(Position), space.total)
        left[:, of_layer] = read
        here = (layers == layer).nonzero().flatten()
        mine = units.flat[here]
        at = best[mine]
        away = left[at, mine].double() - of.harmless[at, mine].double()
        found[here] = away / difference[at, mine].double()
    known = difference[best[units.flat], units.flat] != 0
    return torch.where(known, found, torch.nan)


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
