"""One model's logits on a few rows of tokens from all over its vocabulary, always the same."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import ALONE, PairedRows
from safety_neurons.inference.decoding import edits_of, left_padded
from safety_neurons.inference.settings import Setting
from safety_neurons.models import LoadedModel
from safety_neurons.models.proofs import probe_tokens


@torch.no_grad()
def probe_logits(
    model: LoadedModel, setting: Setting | None = None, *, vocabulary: int | None = None
) -> Float[Tensor, "row pos vocab"]:
    """What a model gives on the probe, perhaps under interventions.

    Args:
        vocabulary: of the probe, where models of several sizes read the same one; by default the
            model's own.

    Returns:
        Logits at every position.
    """
    tokens = probe_tokens(vocabulary or model.vocabulary).tolist()
    edits = edits_of([setting or Setting()], ALONE, model.device)
    with PairedRows(model, {ALONE: len(tokens)}, edits=edits) as rows:
        return rows.forward({ALONE: left_padded(tokens, model)}, logits=len(tokens[0]))[ALONE]
