"""What interventions do to given answers: their perplexity under each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from safety_neurons.engine import ModelGroup, PairedRows, Role, Tokens
from safety_neurons.errors import UserError
from safety_neurons.inference.answers import Decoding
from safety_neurons.inference.decoding import edits_of
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.inference.settings import Setting
from safety_neurons.interventions import require_units
from safety_neurons.progress import Progress, Silent


@torch.no_grad()
def perplexities(
    group: ModelGroup,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    settings: Mapping[str, Setting],
    decoding: Decoding,
    *,
    progress: Progress | None = None,
    label: str = "Perplexity",
) -> dict[str, float]:
    """Under each setting, exp of the mean negative log-likelihood per completion token.

    All settings of a prompt go through one pass: the donor is read once, and its rows also serve
    the setting in which the donor itself answers, without interventions.

    Args:
        prompts, completions: token ids; the completions are given, not written.
        settings: by name. Interventions act at every position that is read, as in generation;
            all settings that have any must have the same recipient.

    Returns:
        Perplexities by the settings' names.

    Raises:
        UserError: if a model finds a completion's likelihood to be no finite number, or all of
            them too unlikely for a perplexity; or if an intervention is at other models' units.
        ValueError: if settings with interventions have different recipients.
    """
    recipient = max(settings.values(), key=lambda s: len(s.interventions)).recipient
    own = {name: s for name, s in settings.items() if s.recipient is recipient}
    others = {name: s for name, s in settings.items() if s.recipient is not recipient}
    if any(setting.interventions for setting in others.values()):
        raise ValueError("Settings with interventions on both sides need calls of their own.")
    for setting in own.values():
        require_units(setting.interventions, group)
    total, tokens = dict.fromkeys(settings, 0.0), 0
    # Logits are kept at every completion position, so batches are half as large.
    batches = decoding.batches(prompts, settings=2 * (len(own) + 1))
    for rows in (progress or Silent()).track(batches, label):
        batch = ForcedBatch.of([prompts[i] for i in rows], [completions[i] for i in rows], group)
        for name, nats in _nats(group, batch, own, others).items():
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
    group: ModelGroup,
    batch: ForcedBatch,
    own: Mapping[str, Setting],
    others: Mapping[str, Setting],
) -> dict[str, float]:
    """Of one batch under each setting, the negative log-likelihood of all completion tokens.

    Args:
        own: settings in which the recipient of the interventions answers.
        others: settings in which the other side does, as it is.

    Returns:
        Sums in nats, by the settings' names.

    Raises:
        UserError: if a likelihood is not a finite number.
    """
    # The logits are the largest tensors of a validation; they go when this returns.
    logits = _logits(group, batch, list(own.values()), {s.recipient for s in others.values()})
    recipient = next(iter(own.values())).recipient
    of_setting = dict(zip(own, logits[recipient].split(len(batch)), strict=True))
    of_setting |= {name: logits[setting.recipient] for name, setting in others.items()}
    nats = {n: -float(batch.log_likelihoods(x).double().sum()) for n, x in of_setting.items()}
    for name, value in nats.items():
        if not math.isfinite(value):
            raise UserError(
                f"Under the setting '{name}' the likelihood of a given answer is not a finite "
                "number; try another --dtype (some architectures need float32)."
            )
    return nats


def _logits(
    group: ModelGroup, batch: ForcedBatch, settings: Sequence[Setting], others: set[Role]
) -> dict[Role, Tensor]:
    """Logits of one batch at completion positions, under all settings in one pass.

    Returns:
        By role: the recipient's, `setting*batch pos vocab`, and those of `others` (or of the
        donor), `batch pos vocab`.
    """
    once, times, recipient = batch.tokens, len(settings), settings[0].recipient
    edits = edits_of(settings, recipient, group.device)
    each = torch.arange(len(batch), device=group.device)
    which = torch.arange(times, device=group.device).repeat_interleave(len(batch))
    for edit in edits:
        edit.assign(which, each.repeat(times))
    beside = others | {edit.donor for edit in edits if edit.donor}
    tokens: dict[Role, Tokens] = dict.fromkeys(beside, once)
    tokens[recipient] = Tokens(once.ids.repeat(times, 1), once.mask.repeat(times, 1))
    counts = {role: len(read.ids) for role, read in tokens.items()}
    first = next(iter(beside), recipient)
    with PairedRows(group, counts, edits=edits, first=first) as rows:
        return rows.forward(tokens, logits=batch.targets.shape[1])
