"""The log-odds of a model's own refusals, and what interventions change of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import ModelGroup, PairedRows, Resumption, Role, SiteEdit, Tokens
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.inference.onebyone import entrances, layers_of, one_by_one, require_same
from safety_neurons.interventions import Intervention
from safety_neurons.progress import Progress

REFUSAL_TOKENS = 12
"""So many tokens of a refusal are read: where a model says that it refuses."""


@torch.no_grad()
def changed_log_odds(
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

    Args:
        prompts, refusals: token ids of each prompt and of the model's own refusal of it, of which
            the first REFUSAL_TOKENS tokens are read.
        interventions: none without units, and none that reads a donor.

    Returns:
        Changes, a row for each of `interventions`, float64.

    Raises:
        InterventionError: if one did not act, or the model's layers cannot be passed over.
    """
    batch = ForcedBatch.of(prompts, [refusal[:REFUSAL_TOKENS] for refusal in refusals], group)
    tap = entrances(group, role, layers_of(interventions))
    intact = _logits(group, role, batch.tokens, batch, [tap])
    before = _of_logits(batch, intact)
    if tap.taken:
        deepest = max(tap.taken)
        resumed = Resumption(deepest.layer, tap.taken[deepest])
        again = _logits(group, role, batch.tokens, batch, [], resumed)
        require_same(deepest.layer, intact[batch.scored], again[batch.scored])
    changes = torch.empty(len(interventions), len(batch), dtype=torch.float64)
    passes = one_by_one(group, role, batch.tokens, interventions, tap, progress, label)
    for each in passes:
        logits = _logits(group, role, each.tokens, batch, [each.edit], each.resumed)
        for place, under in zip(each.places, logits.split(len(batch)), strict=True):
            changes[place] = _of_logits(batch, under) - before
    return changes


def log_odds(nats: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Log-odds of a probability p that is given as log p, in float64: log p − log(1 − p)."""
    likelihood = nats.double().clamp(max=-1e-9)
    return likelihood - torch.log(-torch.expm1(likelihood))


def _logits(
    group: ModelGroup,
    role: Role,
    tokens: Tokens,
    batch: ForcedBatch,
    edits: Sequence[SiteEdit],
    resumed: Resumption | None = None,
) -> Float[Tensor, "row completion_pos vocab"]:
    counts = {role: len(tokens.ids)}
    with PairedRows(group, counts, edits=edits, resumed=resumed) as rows:
        return rows.forward({role: tokens}, logits=batch.targets.shape[1])[role]


def _of_logits(
    batch: ForcedBatch, logits: Float[Tensor, "batch completion_pos vocab"]
) -> Float[Tensor, "batch"]:
    """Of the mean probability per token (geometric) of each completion."""
    likelihoods = batch.log_likelihoods(logits).double().sum(dim=1)
    return log_odds(likelihoods / batch.scored.sum(dim=1)).cpu()
