"""What interventions do to given answers: their perplexity under each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from safety_neurons.statistics import Interval, exp_of_ratio


@dataclass(frozen=True)
class Surprisals:
    """What given answers cost under each setting.

    Args:
        nats: by setting, of each prompt's completion.
        tokens: of each prompt's completion.
    """

    nats: Mapping[str, Sequence[float]]
    tokens: Sequence[int]

    def perplexity(self, setting: str) -> float:
        """exp of the mean negative log-likelihood per completion token.

        Returns:
            The perplexity of all completions together.

        Raises:
            UserError: if it is too large a number.
        """
        return _perplexity(sum(self.nats[setting]) / sum(self.tokens), setting)

    def interval(self, setting: str, *, seed: int = 0) -> Interval | None:
        """Of the perplexity, by the bootstrap over prompts; None with fewer than MIN_ROWS."""
        return exp_of_ratio(self.nats[setting], self.tokens, seed=seed)


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
    """Under each setting, the perplexity of `surprisals`; it raises what that does.

    Returns:
        Perplexities by the settings' names.

    Raises:
        UserError: if completions are too unlikely for a perplexity.
    """
    found = surprisals(
        group, prompts, completions, settings, decoding, progress=progress, label=label
    )
    return {name: found.perplexity(name) for name in settings}


@torch.no_grad()
def surprisals(
    group: ModelGroup,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    settings: Mapping[str, Setting],
    decoding: Decoding,
    *,
    progress: Progress | None = None,
    label: str = "Perplexity",
) -> Surprisals:
    """Under each setting, the negative log-likelihood of each completion.

    All settings of a prompt go through one pass: the donor is read once, and its rows also serve
    the setting in which the donor itself answers, without interventions.

    Args:
        prompts, completions: token ids; the completions are given, not written.
        settings: by name. Interventions act at every position that is read, as in generation;
            all settings that have any must have the same recipient.

    Returns:
        Sums by the settings' names, in the order of `prompts`.

    Raises:
        UserError: if a model finds a completion's likelihood to be no finite number; or if an
            intervention is at other models' units.
        ValueError: if settings with interventions have different recipients.
    """
    recipient = max(settings.values(), key=lambda s: len(s.interventions)).recipient
    own = {name: s for name, s in settings.items() if s.recipient is recipient}
    others = {name: s for name, s in settings.items() if s.recipient is not recipient}
    if any(setting.interventions for setting in others.values()):
        raise ValueError("Settings with interventions on both sides need calls of their own.")
    for setting in own.values():
        require_units(setting.interventions, group.space)
    nats = {name: [0.0] * len(prompts) for name in settings}
    # Logits are kept at every completion position, so batches are half as large.
    batches = decoding.batches(prompts, settings=2 * (len(own) + 1))
    for rows in (progress or Silent()).track(batches, label):
        batch = ForcedBatch.of([prompts[i] for i in rows], [completions[i] for i in rows], group)
        for name, of_rows in _nats(group, batch, own, others).items():
            for i, value in zip(rows, of_rows, strict=True):
                nats[name][i] = value
    return Surprisals(nats, [len(completion) for completion in completions])


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
) -> dict[str, list[float]]:
    """Of one batch under each setting, each completion's negative log-likelihood.

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
    nats = {
        name: (-batch.log_likelihoods(of).double().sum(dim=1)).tolist()
        for name, of in of_setting.items()
    }
    for name, values in nats.items():
        if not all(map(math.isfinite, values)):
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
