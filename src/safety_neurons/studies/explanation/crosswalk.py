"""The refusal direction beside the set: who writes it, and what is left without either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Side
from safety_neurons.engine.effective import neighbours
from safety_neurons.errors import UserError
from safety_neurons.inference import Setting
from safety_neurons.interventions import AblateDirection, Steer
from safety_neurons.methods.direction import Directions, cosines
from safety_neurons.methods.steering import DirectEffects, columns_of
from safety_neurons.runs.explanation import (
    DirectionFigures,
    LayerCosines,
)
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.causal import CausalTest, Watched, area
from safety_neurons.studies.explanation.directions import (
    Chosen,
    directions_at,
)
from safety_neurons.studies.explanation.options import ExplanationPrompts
from safety_neurons.units import SiteKind, UnitSet, UnitSpace


def direction_figures(
    evaluator: Evaluator,
    prompts: ExplanationPrompts,
    chosen: Chosen,
    watched: Watched,
    test: CausalTest,
    random: Sequence[UnitSet],
) -> DirectionFigures:
    """What the refusal direction is, and what it has to do with the set.

    Args:
        random: sets of as many units in each layer.

    Returns:
        Figures on test prompts.

    Raises:
        UserError: with fewer than two test prompts of a kind.
    """
    group, units = evaluator.group, test.units
    streams = group.space(SiteKind.RESIDUAL)
    removal = AblateDirection.everywhere(chosen.difference, streams, "refusal direction")
    added = Steer.at(chosen.layer, chosen.difference.float(), streams)
    held = test.setting("ablate", Side.ALIGNED, units)
    settings = {
        "intact": Setting(Side.ALIGNED),
        "without_direction": Setting(Side.ALIGNED, (removal,)),
        "without_set": held,
        "without_both": Setting(Side.ALIGNED, (*held.interventions, removal)),
        "unaligned": Setting(Side.UNALIGNED),
        "unaligned_with_direction": Setting(Side.UNALIGNED, (added,)),
    }
    for side in Side:
        of_side = [s for s in settings.values() if s.recipient is side]
        evaluator.prepare(prompts.test, of_side, "Refusal direction")
    intact = test.seen(settings["intact"])
    between = float(intact.way[0].mean() - intact.way[1].mean())
    separated = area(*intact.way)
    if separated is None:
        raise UserError("Two test prompts of each kind are needed; give more prompts.")
    direct = _writes(evaluator, prompts, units.space, chosen, between)
    later = units.space.layers_of(units.flat) >= chosen.layer
    behind = UnitSet.of(units.flat[later], units.space)
    unaligned = directions_at(
        evaluator,
        Side.UNALIGNED,
        prompts.found,
        prompts.found_harmless,
        [chosen.position],
    )[0]
    drawn = [float(direct[units.flat].sum()) for units in random]
    return DirectionFigures(
        layer=chosen.layer,
        position=chosen.position,
        tried=chosen.tried,
        log_odds=chosen.log_odds,
        auroc=separated,
        gap=between * float(chosen.directions.gap[chosen.layer]),
        set_writes=float(direct[units.flat].sum()),
        random_writes=float(np.mean(drawn)) if drawn else None,
        cosines=_cosines(evaluator, units, chosen, unaligned, watched),
        refused={name: test.refusals(setting) for name, setting in settings.items()},
        set_left=_left(test, settings["without_direction"], behind),
        direction_left=float(test.seen(held).way[0].mean() / intact.way[0].mean()),
    )


def _writes(
    evaluator: Evaluator,
    prompts: ExplanationPrompts,
    space: UnitSpace,
    chosen: Chosen,
    between: float,
) -> Float[Tensor, "unit"]:
    """What each unit below the direction's layer writes along it, as a part of the gap."""
    direct = DirectEffects(evaluator.group, Side.ALIGNED, space)
    direction = chosen.directions.unit[chosen.layer]
    means = []
    for of in (prompts.test, prompts.harmless):
        encoded = evaluator.encoded(of)
        total = torch.zeros(space.total, dtype=torch.float64)
        for rows in evaluator.decoding.batches(encoded, settings=4):
            few = [encoded[i] for i in rows]
            total += direct.on_direction(few, direction, chosen.position).sum(dim=0)
        means.append(total / len(encoded))
    layers = space.layers_of(torch.arange(space.total))
    gap = between * float(chosen.directions.gap[chosen.layer])
    return (means[0] - means[1]).masked_fill(layers >= chosen.layer, 0.0) / gap


def _cosines(
    evaluator: Evaluator,
    units: UnitSet,
    chosen: Chosen,
    unaligned: Directions,
    watched: Watched,
) -> list[LayerCosines]:
    own = chosen.directions.difference
    model = evaluator.group.members[Side.ALIGNED]
    sites = {site.key: site for site in model.sites if site.key in units.space}
    beside = neighbours(model.model, list(sites.values()))
    between = cosines(own, unaligned.difference)
    told = own.any(dim=-1).tolist()
    to_chosen = cosines(own, chosen.difference.expand_as(own))
    found = []
    for key, site in sites.items():
        columns, written = units.in_block(key), None
        # Behind a norm a layer's units write what depends on all of them.
        if len(columns) and not beside[key].behind:
            difference = watched.difference[units.space.slice_of(key)][columns]
            weight = columns_of(model, site)[:, columns].double().cpu()
            vector = weight @ difference.double()
            written = float(cosines(vector[None], chosen.difference[None].double())[0])
        found.append(
            LayerCosines(
                layer=key.layer,
                unaligned=float(between[key.layer]) if told[key.layer] else None,
                chosen=float(to_chosen[key.layer]) if told[key.layer] else None,
                writes=written,
            )
        )
    return found


def _left(test: CausalTest, setting: Setting, units: UnitSet) -> float | None:
    """Of what sets harmful prompts apart in some units, the part that is left under a setting."""
    if not len(units):
        return None
    whole = test.activity(test.seen(Setting(Side.ALIGNED)), units).mean()
    left = test.activity(test.seen(setting), units).mean()
    return float(left / whole) if float(whole) != 0 else None
