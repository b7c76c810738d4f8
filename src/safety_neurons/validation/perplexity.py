"""What patching does to harmless answers: their perplexity under the patched model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from safety_neurons.activations import ForcedBatch
from safety_neurons.generation import Decoding, PatchEdit
from safety_neurons.models import ModelPair, PairedRows, Side
from safety_neurons.neurons import NeuronSet
from safety_neurons.progress import Progress, Silent


@torch.no_grad()
def perplexity(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    recipient: Side,
    decoding: Decoding,
    *,
    patch: NeuronSet | None = None,
    progress: Progress | None = None,
    label: str = "Perplexity",
) -> float:
    """exp of the mean negative log-likelihood per completion token.

    Args:
        prompts, completions: token ids; the completions are given, not written.
        recipient: whose likelihood is measured.
        patch: its neurons that are overwritten with the other side's values, at every
            position that is read, as in patched generation.
    """
    total, tokens = 0.0, 0
    progress = progress or Silent()
    sides = [recipient] if patch is None else [recipient.other, recipient]
    for rows in progress.track(decoding.batches(prompts), label):
        batch = ForcedBatch.of([prompts[i] for i in rows], [completions[i] for i in rows], pair)
        edits = (
            [] if patch is None else [PatchEdit([patch], recipient.other, device=str(pair.device))]
        )
        counts = dict.fromkeys(sides, len(batch))
        with PairedRows(pair, counts, edits=edits, first=recipient.other) as forward:
            logits = forward.forward(
                dict.fromkeys(sides, batch.tokens), logits=batch.targets.shape[1]
            )
        total -= float(batch.log_likelihoods(logits[recipient]).double().sum())
        tokens += int(batch.scored.sum())
    return math.exp(total / tokens)
