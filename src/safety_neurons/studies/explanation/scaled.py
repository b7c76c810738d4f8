"""What interventions do to the log-odds of the model's own refusals, one after the other.

All passes on one prompt are alike below the first layer in which an intervention has units, so that
part is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import BlockTap, ModelGroup, PairedRows, Resumption, Role, Tokens
from safety_neurons.engine.resuming import entrance
from safety_neurons.errors import InterventionError
from safety_neurons.inference import ForcedBatch
from safety_neurons.interventions import Intervention, InterventionEdit
from safety_neurons.progress import Progress
from safety_neurons.units import SiteKind

REFUSAL_TOKENS = 12
"""So many tokens of a refusal are read: where a model says that it refuses."""
_ROWS = 128
"""The most rows of one pass."""
_SAME = 1e-4
"""What a pass that begins in the middle may differ in, as a part of the largest logit."""


@torch.no_grad()
def interventional_log_odds(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    refusals: Sequence[Sequence[int]],
    interventions: Sequence[Intervention],
    progress: Progress,
    *,
    label: str = "Single units",
) -> Float[Tensor, "intervention prompt"]:
    """By how much the log-odds of refusals change under each of several interventions.

    The log-odds of a refusal are those of its mean probability per token (geometric), p, over its
    first REFUSAL_TOKENS tokens: log p - log(1 - p).

    Args:
        prompts, refusals: token ids of each prompt and of the model's own refusal of it.
        interventions: none without units, and none that reads a donor.

    Returns:
        Changes, a row for each of `interventions`, float64.

    Raises:
        InterventionError: if one did not act, or the model's layers cannot be passed over.
    """
    batch = ForcedBatch.of(prompts, [refusal[:REFUSAL_TOKENS] for refusal in refusals], group)
    layers = [int(each.units.space.layers_of(each.units.flat).min()) for each in interventions]
    # An architecture that names no layers is read whole each time.
    named = {s.key.layer for s in group.members[role].sites if s.key.site is SiteKind.RESIDUAL}
    tap = BlockTap([entrance(layer) for layer in named & set(layers)])
    intact = _logits(group, role, batch.tokens, batch, [tap])
    before = _log_odds(batch, intact)
    _require_same(group, role, batch, tap, intact)
    changes = torch.empty(len(interventions), len(batch), dtype=torch.float64)
    together = max(_ROWS // len(batch), 1)
    for layer, places in progress.track(_passes(layers, together), label):
        edit = InterventionEdit([interventions[i] for i in places], role, device=group.device)
        rows = torch.arange(len(places) * len(batch), device=group.device)
        edit.assign(rows // len(batch), rows)
        resumed = None
        if (entered := tap.taken.get(entrance(layer))) is not None:
            resumed = Resumption(layer, entered.repeat(len(places), 1, 1))
        read = batch.tokens
        tokens = Tokens(read.ids.repeat(len(places), 1), read.mask.repeat(len(places), 1))
        logits = _logits(group, role, tokens, batch, [edit], resumed)
        for place, under in zip(places, logits.split(len(batch)), strict=True):
            changes[place] = _log_odds(batch, under) - before
    return changes


def _passes(layers: Sequence[int], together: int) -> list[tuple[int, list[int]]]:
    """Which interventions run in one pass, and the layer where it begins; deeper ones later."""
    of_layer: dict[int, list[int]] = {}
    for place, layer in enumerate(layers):
        of_layer.setdefault(layer, []).append(place)
    return [
        (layer, places[i : i + together])
        for layer, places in sorted(of_layer.items())
        for i in range(0, len(places), together)
    ]


def _logits(
    group: ModelGroup,
    role: Role,
    tokens: Tokens,
    batch: ForcedBatch,
    edits: Sequence[BlockTap | InterventionEdit],
    resumed: Resumption | None = None,
) -> Float[Tensor, "row completion_pos vocab"]:
    counts = {role: len(tokens.ids)}
    with PairedRows(group, counts, edits=edits, resumed=resumed) as rows:
        return rows.forward({role: tokens}, logits=batch.targets.shape[1])[role]


def _log_odds(
    batch: ForcedBatch, logits: Float[Tensor, "batch completion_pos vocab"]
) -> Float[Tensor, "batch"]:
    likelihoods = batch.log_likelihoods(logits).double().sum(dim=1)
    mean = (likelihoods / batch.scored.sum(dim=1)).clamp(max=-1e-9)
    return (mean - torch.log(-torch.expm1(mean))).cpu()


def _require_same(
    group: ModelGroup, role: Role, batch: ForcedBatch, tap: BlockTap, intact: Tensor
) -> None:
    """Show that this architecture's layers can be passed over, at the deepest layer."""
    if not tap.taken:
        return
    deepest = max(tap.taken)
    resumed = Resumption(deepest.layer, tap.taken[deepest])
    again = _logits(group, role, batch.tokens, batch, [], resumed)
    scored = batch.scored
    off = float((again - intact)[scored].abs().max() / intact[scored].abs().max())
    if not off <= _SAME:
        raise InterventionError(
            f"Begun at layer {deepest.layer}, the model gives other logits ({off:.1e} of the "
            "largest), so its layers cannot be passed over."
        )
