"""Greedy decoding of a model alone or a side of a pair, plain or under interventions.

The next token is always the recipient's; a donor, where one is read, is fed the same tokens. A
completion is the generated tokens up to and including the first end-of-sequence token.

Several settings of the same prompts are decoded together, and what they have in common is
computed once: the tokens that all prompts begin with (a system prompt), the donor's pass
over the prompts, and the donor's pass over completions as long as they are the same. Rows
that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from safety_neurons.engine import ModelGroup, PairedRows, Role, Tokens
from safety_neurons.errors import UserError
from safety_neurons.inference.settings import Setting
from safety_neurons.interventions import InterventionEdit, require_units

Completion = list[int]

# Leaving copies the caches of all rows that stay, so it waits until this share has ended.
_LEAVE_TOGETHER = 1 / 8


@torch.no_grad()
def decode(
    group: ModelGroup,
    prompts: Sequence[Sequence[int]],
    settings: Sequence[Setting],
    *,
    max_new_tokens: int,
) -> list[list[Completion]]:
    """Continue one batch of prompts greedily, once under each setting.

    Only tokens that all models have are chosen: where one side's embeddings are padded to
    more rows than the other's, the other could not read what stands there.

    Args:
        prompts: token ids of each prompt, of any lengths.
        settings: all of them with the same recipient. Unless one reads the donor, the other side
            of a pair does not run.
        max_new_tokens: where a completion without an end token is cut.

    Returns:
        For each setting, one completion of each prompt.

    Raises:
        InterventionError: if an intervention did not act.
        UserError: if the recipient's logits are not finite, or an intervention is at units that
            the models do not have.
        ValueError: if the settings have not one recipient in common.
    """
    recipients = {setting.recipient for setting in settings}
    if len(recipients) != 1:
        raise ValueError("Settings with different recipients need calls of their own.")
    for setting in settings:
        require_units(setting.interventions, group.space)
    batch = _DecodedRows(group, prompts, settings, max_new_tokens)
    with batch.rows:
        batch.prefill()
        while batch.step():
            pass
    flat = [_until_end(row, group.end_tokens) for row in batch.written.tolist()]
    return [flat[i : i + len(prompts)] for i in range(0, len(flat), len(prompts))]


def edits_of(
    settings: Sequence[Setting], recipient: Role, device: str | torch.device
) -> list[InterventionEdit]:
    """The edits that do the settings' first interventions, then their second ones, and so on.

    Returns:
        As many edits as the longest setting has interventions; rows are assigned to settings.
    """
    longest = max((len(setting.interventions) for setting in settings), default=0)
    padded = [(*s.interventions, *[None] * (longest - len(s.interventions))) for s in settings]
    return [
        InterventionEdit(stage, recipient, device=device) for stage in zip(*padded, strict=True)
    ]


class _DecodedRows:
    """The rows of one call of `decode`: recipient rows by setting and prompt, and donor rows.

    A donor row is one history of tokens, so recipient rows with the same history share it.

    Args (of the state):
        written: tokens of every setting and prompt, `setting*prompt new_pos`.
        which: of each live recipient row, its row of `written`.
        setting_of: of each live recipient row, its setting.
        donor_row: of each live recipient row, its donor row.
    """

    def __init__(
        self,
        group: ModelGroup,
        prompts: Sequence[Sequence[int]],
        settings: Sequence[Setting],
        max_new_tokens: int,
    ) -> None:
        self.group, self.prompts, self.recipient = group, prompts, settings[0].recipient
        self.device = group.device
        self.count = len(settings)
        self.shared = shared_beginning(group, prompts, max_new_tokens)
        self.edits = edits_of(settings, self.recipient, self.device)
        self.donor: Role | None = next((e.donor for e in self.edits if e.donor), None)
        # What all prompts begin with is read in one row.
        histories = 1 if self.shared else len(prompts)
        counts = {self.recipient: self.count * histories}
        if self.donor:
            counts[self.donor] = histories
        self.rows = PairedRows(
            group, counts, edits=self.edits, first=self.donor or self.recipient, cached=True
        )
        self.setting_of = self._range(self.count).repeat_interleave(len(prompts))
        self.donor_row = self._range(len(prompts)).repeat(self.count)
        self.which = self._range(self.count * len(prompts))
        self.ends = torch.tensor(sorted(group.end_tokens), dtype=torch.long, device=self.device)
        filler = next(iter(sorted(group.end_tokens)), 0)
        self.written = torch.full((len(self.which), max_new_tokens), filler, device=self.device)
        self.ended = torch.zeros_like(self.which, dtype=torch.bool)
        self.length = 0

    def _range(self, stop: int) -> Int[Tensor, "stop"]:
        return torch.arange(stop, device=self.device)

    def prefill(self) -> None:
        """Read the prompts and choose the first tokens."""
        shared = len(self.shared)
        if shared:
            ids = torch.tensor([self.shared], device=self.device)
            once, of_each = (
                Tokens(ids.expand(n, -1), torch.ones_like(ids).expand(n, -1))
                for n in (1, self.count)
            )
            self._forward(of_each, once, self._range(self.count), 0 * self._range(self.count))
            self._rearrange(self.which // len(self.prompts), 0 * self._range(len(self.prompts)))
        rest = left_padded([prompt[shared:] for prompt in self.prompts], self.group)
        mask = torch.cat([rest.mask.new_ones(len(rest.mask), shared), rest.mask], dim=1)
        tokens = Tokens(rest.ids, mask)
        repeated = Tokens(rest.ids.repeat(self.count, 1), mask.repeat(self.count, 1))
        self.recipient_mask, self.donor_mask = repeated.mask, mask
        self._choose(self._forward(repeated, tokens, self.setting_of, self.donor_row, logits=True))

    def step(self) -> bool:
        """Read the tokens chosen last and choose the next; False if there is nothing to do."""
        if self.length == self.written.shape[1] or bool(self.ended.all()):
            return False
        live = self._range(len(self.which))
        if self.ended.float().mean() >= _LEAVE_TOGETHER:
            live = live[~self.ended]
        self.which, self.setting_of, self.ended = (
            x[live] for x in (self.which, self.setting_of, self.ended)
        )
        read = self.written[self.which, self.length - 1]
        # Donor rows split where their recipients chose different tokens.
        self.donor_row, came_from, donor_reads = _split(self.donor_row[live], read)
        self._rearrange(live, came_from)
        self.recipient_mask = _longer(self.recipient_mask[live])
        self.donor_mask = _longer(self.donor_mask[came_from])
        logits = self._forward(
            Tokens(read[:, None], self.recipient_mask),
            Tokens(donor_reads[:, None], self.donor_mask),
            self.setting_of,
            self.donor_row,
            logits=True,
        )
        self._choose(logits)
        return True

    def _forward(
        self,
        recipient: Tokens,
        donor: Tokens,
        setting_of: Tensor,
        donor_row: Tensor,
        *,
        logits: bool = False,
    ) -> dict[Role, Tensor]:
        tokens: dict[Role, Tokens] = {self.recipient: recipient}
        if self.donor:
            tokens[self.donor] = donor
        for edit in self.edits:
            edit.assign(setting_of, donor_row)
        return self.rows.forward(tokens, logits=1 if logits else None, of=self.recipient)

    def _rearrange(self, recipient: Tensor, donor: Tensor) -> None:
        rows: dict[Role, Tensor] = {self.recipient: recipient}
        self.rows.rearrange({**rows, self.donor: donor} if self.donor else rows)

    def _choose(self, logits: dict[Role, Tensor]) -> None:
        of_both = logits[self.recipient][:, -1, : self.group.vocabulary]
        largest, chosen = of_both.max(dim=-1)
        if not bool(torch.isfinite(largest).all()):
            raise UserError(
                f"The {self.recipient} model's logits are not finite numbers, so no token can be "
                "chosen; try another --dtype (some architectures need float32)."
            )
        self.written[self.which, self.length] = chosen
        self.ended |= torch.isin(chosen, self.ends)
        self.length += 1


def left_padded(rows: Sequence[Sequence[int]], group: ModelGroup) -> Tokens:
    """Rows of token ids as one batch, padded on the left."""
    longest = max(len(row) for row in rows)
    return _padded(rows, [longest - len(row) for row in rows], group)


def right_padded(rows: Sequence[Sequence[int]], group: ModelGroup) -> Tokens:
    """Rows of token ids as one batch, padded on the right."""
    return _padded(rows, [0] * len(rows), group)


def _padded(rows: Sequence[Sequence[int]], starts: Sequence[int], group: ModelGroup) -> Tokens:
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), group.pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[i, start : start + len(row)] = torch.tensor(list(row))
        mask[i, start : start + len(row)] = 1
    return Tokens(ids.to(group.device), mask.to(group.device))


def shared_beginning(
    group: ModelGroup, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[int]:
    """The tokens that all prompts begin with, each prompt keeping at least one of its own.

    Returns:
        Token ids; empty for a single prompt, and where padding between them and the rest would
        count in a sliding window.
    """
    shortest = min(len(prompt) for prompt in prompts)
    longest = max(len(prompt) for prompt in prompts)
    if group.attention_window is not None and longest + max_new_tokens > group.attention_window:
        return []
    first, *others = prompts
    length = 0
    while length < shortest - 1 and all(p[length] == first[length] for p in others):
        length += 1
    return list(first[:length]) if len(prompts) > 1 else []


def _split(
    donor_row: Int[Tensor, "batch"], read: Int[Tensor, "batch"]
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "donor"], Int[Tensor, "donor"]]:
    """Give every history its donor row, now that row i goes on with token `read[i]`.

    Returns:
        Of each row its new donor row; of each donor row the old one that it goes on from,
        and the token that it reads. Most stay in their place, so that little is copied.
    """
    vocabulary = int(read.max()) + 1
    histories, of_row = torch.unique(donor_row * vocabulary + read, return_inverse=True)
    parents, count = histories // vocabulary, len(histories)
    place = torch.full_like(parents, -1)
    heirs = torch.cat([parents.new_ones(1), parents.diff()]).bool() & (parents < count)
    place[heirs] = parents[heirs]
    free = torch.ones_like(heirs)
    free[parents[heirs]] = False
    place[~heirs] = free.nonzero().flatten()
    came_from, reads = torch.empty_like(parents), torch.empty_like(parents)
    came_from[place], reads[place] = parents, histories % vocabulary
    return place[of_row], came_from, reads


def _longer(mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch longer"]:
    return torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)


def _until_end(tokens: list[int], ends: frozenset[int]) -> Completion:
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
    return tokens
