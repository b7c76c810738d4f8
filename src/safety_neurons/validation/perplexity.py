"""What patching does to harmless answers: their perplexity under the patched model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from safety_neurons.activations import ForcedBatch
from safety_neurons.generation import Decoding, PatchEdit, Setting
from safety_neurons.models import ModelPair, PairedRows, Side, Tokens
from safety_neurons.neurons import NeuronSet
from safety_neurons.progress import Progress, Silent


@torch.no_grad()
def perplexities(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    settings: Mapping[str, Setting],
    decoding: Decoding,
    *,
    progress: Progress | None = None,
    label: str = "Perplexity",
) -> dict[str, float]:
    """Under each setting, exp of the mean negative log-likelihood per completion token.

    Args:
        prompts, completions: token ids; the completions are given, not written.
        settings: by name. Patched ones overwrite every position that is read, as in patched
            generation; all of them must have the same recipient.

    All settings of a prompt go through one pass: the donor of the patched ones is read once,
    and its rows also serve the setting in which the donor itself answers, unpatched.
    """
    recipient = next((s.recipient for s in settings.values() if s.patch), Side.UNALIGNED)
    donor, empty = recipient.other, NeuronSet.of(torch.empty(0), pair.layout)
    own = {name: s.patch or empty for name, s in settings.items() if s.recipient is recipient}
    others = [name for name, s in settings.items() if s.recipient is donor]
    if any(settings[name].patch for name in others):
        raise ValueError("Patched settings with different recipients need calls of their own.")
    total, tokens = dict.fromkeys(settings, 0.0), 0
    # Logits are kept at every completion position, so batches are half as large.
    batches = decoding.batches(prompts, settings=2 * (len(own) + 1))
    for rows in (progress or Silent()).track(batches, label):
        batch = ForcedBatch.of([prompts[i] for i in rows], [completions[i] for i in rows], pair)
        logits = _logits(pair, batch, list(own.values()), donor)
        for name, found in zip(own, logits[recipient].split(len(batch)), strict=True):
            total[name] -= float(batch.log_likelihoods(found).double().sum())
        for name in others:
            total[name] -= float(batch.log_likelihoods(logits[donor]).double().sum())
        tokens += int(batch.scored.sum())
    return {name: math.exp(nats / tokens) for name, nats in total.items()}


def _logits(
    pair: ModelPair, batch: ForcedBatch, patches: list[NeuronSet], donor: Side
) -> dict[Side, Tensor]:
    """At completion positions: the donor's, `batch pos vocab`, and the recipient's,
    `patch*batch pos vocab`."""
    once, times = batch.tokens, len(patches)
    repeated = Tokens(once.ids.repeat(times, 1), once.mask.repeat(times, 1))
    edit = PatchEdit(patches, donor, device=str(pair.device))
    each = torch.arange(len(batch), device=pair.device)
    edit.assign(
        torch.arange(times, device=pair.device).repeat_interleave(len(batch)), each.repeat(times)
    )
    counts = {donor: len(batch), donor.other: times * len(batch)}
    with PairedRows(pair, counts, edits=[edit], first=donor) as rows:
        return rows.forward({donor: once, donor.other: repeated}, logits=batch.targets.shape[1])
