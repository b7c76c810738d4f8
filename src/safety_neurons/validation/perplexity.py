"""What patching does to harmless answers: their perplexity under the patched model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from safety_neurons.activations import ForcedBatch
from safety_neurons.errors import UserError
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

    Raises:
        UserError: if a model finds a completion's likelihood to be no finite number, or all of
            them too unlikely for a perplexity.
    """
    recipient = sorted(settings.values(), key=lambda s: s.patch is None)[0].recipient
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
        for name, nats in _nats(pair, batch, own, others, donor).items():
            total[name] += nats
        tokens += int(batch.scored.sum())
    return {name: _perplexity(nats / tokens, name) for name, nats in total.items()}


def _perplexity(nats: float, name: str) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        raise UserError(
            f"Under the setting '{name}' a token of the given answers costs {nats:.0f} nats on "
            "average, which is too much for a perplexity; the model or the answers are broken."
        ) from None


def _nats(
    pair: ModelPair,
    batch: ForcedBatch,
    own: Mapping[str, NeuronSet],
    others: Sequence[str],
    donor: Side,
) -> dict[str, float]:
    """Of one batch under each setting, the negative log-likelihood of all completion tokens.

    Args:
        own: the patches of settings in which the recipient answers.
        others: settings in which the donor does.
    """
    # The logits are the largest tensors of a validation; they go when this returns.
    logits = _logits(pair, batch, list(own.values()), donor)
    of_setting = dict(zip(own, logits[donor.other].split(len(batch)), strict=True))
    of_setting |= dict.fromkeys(others, logits[donor])
    nats = {n: -float(batch.log_likelihoods(x).double().sum()) for n, x in of_setting.items()}
    for name, value in nats.items():
        if not math.isfinite(value):
            raise UserError(
                f"Under the setting '{name}' the likelihood of a given answer is not a finite "
                "number; try another --dtype (some architectures need float32)."
            )
    return nats


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
