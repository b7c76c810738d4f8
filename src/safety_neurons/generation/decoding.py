"""Greedy decoding of one side of a pair, plain or under dynamic activation patching.

The next token is always the recipient's; the donor is fed the same tokens. A completion
is the generated tokens up to and including the first end-of-sequence token.

Several patches of the same prompts are decoded together, and what they have in common is
computed once: the tokens that all prompts begin with (a system prompt), the donor's pass
over the prompts, and the donor's pass over completions as long as they are the same. Rows
that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from safety_neurons.errors import UserError
from safety_neurons.generation.patching import PatchEdit
from safety_neurons.models import ModelPair, PairedRows, Side, Tokens
from safety_neurons.neurons.sets import NeuronSet

Completion = list[int]

# Leaving copies the caches of all rows that stay, so it waits until this share has ended.
_LEAVE_TOGETHER = 1 / 8


@torch.no_grad()
def decode(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    recipient: Side,
    patches: Sequence[NeuronSet | None] = (None,),
    *,
    strengths: Sequence[float] | None = None,
    max_new_tokens: int,
) -> list[list[Completion]]:
    """Continue one batch of prompts greedily, once under each patch.

    Only tokens that both models have are chosen: where one side's embeddings are padded to
    more rows than the other's, the other could not read what stands there.

    Args:
        prompts: token ids of each prompt, of any lengths.
        recipient: the side that generates.
        patches: neurons to overwrite with the other side's values; None leaves the
            recipient as it is. If all are None, the other side does not run.
        strengths: for each patch, how far of the way to the donor's values (1 everywhere).
        max_new_tokens: where a completion without an end token is cut.

    Returns:
        For each patch, one completion of each prompt.

    Raises:
        InterventionError: if a patch did not act.
        UserError: if the recipient's logits are not finite.
    """
    batch = _Batch(pair, prompts, recipient, patches, strengths, max_new_tokens)
    with batch.rows:
        batch.prefill()
        while batch.step():
            pass
    flat = [_until_end(row, pair.end_tokens) for row in batch.written.tolist()]
    return [flat[i : i + len(prompts)] for i in range(0, len(flat), len(prompts))]


class _Batch:
    """The rows of one call of `decode`: recipient rows by patch and prompt, and donor rows.

    A donor row is one history of tokens, so recipient rows with the same history share it.

    Args (of the state):
        written: tokens of every patch and prompt, `patch*prompt new_pos`.
        which: of each live recipient row, its row of `written`.
        donor_of: of each live recipient row, its donor row.
    """

    def __init__(
        self,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        recipient: Side,
        patches: Sequence[NeuronSet | None],
        strengths: Sequence[float] | None,
        max_new_tokens: int,
    ) -> None:
        self.pair, self.prompts, self.recipient = pair, prompts, recipient
        self.device = pair.device
        self.count = len(patches)
        self.donor = recipient.other if any(p is not None for p in patches) else None
        self.shared = shared_beginning(pair, prompts, max_new_tokens)
        edits = []
        if self.donor:
            empty = NeuronSet.of(torch.empty(0), pair.layout)
            self.edit = PatchEdit(
                [empty if p is None else p for p in patches],
                self.donor,
                strengths=strengths,
                device=str(self.device),
            )
            edits = [self.edit]
        # What all prompts begin with is read in one row.
        histories = 1 if self.shared else len(prompts)
        counts = {recipient: self.count * histories}
        if self.donor:
            counts[self.donor] = histories
        self.rows = PairedRows(
            pair, counts, edits=edits, first=self.donor or recipient, cached=True
        )
        self.patch_of = self._range(self.count).repeat_interleave(len(prompts))
        self.donor_of = self._range(len(prompts)).repeat(self.count)
        self.which = self._range(self.count * len(prompts))
        self.ends = torch.tensor(sorted(pair.end_tokens), dtype=torch.long, device=self.device)
        filler = next(iter(sorted(pair.end_tokens)), 0)
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
        rest = left_padded([prompt[shared:] for prompt in self.prompts], self.pair)
        mask = torch.cat([rest.mask.new_ones(len(rest.mask), shared), rest.mask], dim=1)
        tokens = Tokens(rest.ids, mask)
        repeated = Tokens(rest.ids.repeat(self.count, 1), mask.repeat(self.count, 1))
        self.recipient_mask, self.donor_mask = repeated.mask, mask
        self._choose(self._forward(repeated, tokens, self.patch_of, self.donor_of, logits=True))

    def step(self) -> bool:
        """Read the tokens chosen last and choose the next; False if there is nothing to do."""
        if self.length == self.written.shape[1] or bool(self.ended.all()):
            return False
        live = self._range(len(self.which))
        if self.ended.float().mean() >= _LEAVE_TOGETHER:
            live = live[~self.ended]
        self.which, self.patch_of, self.ended = (
            x[live] for x in (self.which, self.patch_of, self.ended)
        )
        read = self.written[self.which, self.length - 1]
        # Donor rows split where their recipients chose different tokens.
        self.donor_of, came_from, donor_reads = _split(self.donor_of[live], read)
        self._rearrange(live, came_from)
        self.recipient_mask = _longer(self.recipient_mask[live])
        self.donor_mask = _longer(self.donor_mask[came_from])
        logits = self._forward(
            Tokens(read[:, None], self.recipient_mask),
            Tokens(donor_reads[:, None], self.donor_mask),
            self.patch_of,
            self.donor_of,
            logits=True,
        )
        self._choose(logits)
        return True

    def _forward(
        self,
        recipient: Tokens,
        donor: Tokens,
        patch_of: Tensor,
        donor_of: Tensor,
        *,
        logits: bool = False,
    ) -> dict[Side, Tensor]:
        tokens = {self.recipient: recipient}
        if self.donor:
            tokens[self.donor] = donor
            self.edit.assign(patch_of, donor_of)
        return self.rows.forward(tokens, logits=1 if logits else None, of=self.recipient)

    def _rearrange(self, recipient: Tensor, donor: Tensor) -> None:
        rows = {self.recipient: recipient}
        self.rows.rearrange({**rows, self.donor: donor} if self.donor else rows)

    def _choose(self, logits: dict[Side, Tensor]) -> None:
        of_both = logits[self.recipient][:, -1, : self.pair.vocabulary]
        largest, chosen = of_both.max(dim=-1)
        if not bool(torch.isfinite(largest).all()):
            raise UserError(
                f"The {self.recipient} model's logits are not finite numbers, so no token can be "
                "chosen; try another --dtype (some architectures need float32)."
            )
        self.written[self.which, self.length] = chosen
        self.ended |= torch.isin(chosen, self.ends)
        self.length += 1


def left_padded(rows: Sequence[Sequence[int]], pair: ModelPair) -> Tokens:
    """Rows of token ids as one batch, padded on the left."""
    longest = max(len(row) for row in rows)
    return _padded(rows, [longest - len(row) for row in rows], pair)


def right_padded(rows: Sequence[Sequence[int]], pair: ModelPair) -> Tokens:
    """Rows of token ids as one batch, padded on the right."""
    return _padded(rows, [0] * len(rows), pair)


def _padded(rows: Sequence[Sequence[int]], starts: Sequence[int], pair: ModelPair) -> Tokens:
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pair.pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[i, start : start + len(row)] = torch.tensor(list(row))
        mask[i, start : start + len(row)] = 1
    return Tokens(ids.to(pair.device), mask.to(pair.device))


def shared_beginning(
    pair: ModelPair, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[int]:
    """The tokens that all prompts begin with, each prompt keeping at least one of its own.

    Empty where padding between them and the rest would count in a sliding window.
    """
    shortest = min(len(prompt) for prompt in prompts)
    longest = max(len(prompt) for prompt in prompts)
    if pair.attention_window is not None and longest + max_new_tokens > pair.attention_window:
        return []
    first, *others = prompts
    length = 0
    while length < shortest - 1 and all(p[length] == first[length] for p in others):
        length += 1
    return list(first[:length]) if len(prompts) > 1 else []


def _split(
    donor_of: Int[Tensor, "batch"], read: Int[Tensor, "batch"]
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "donor"], Int[Tensor, "donor"]]:
    """Give every history its donor row, now that row i goes on with token `read[i]`.

    Returns:
        Of each row its new donor row; of each donor row the old one that it goes on from,
        and the token that it reads. Most stay in their place, so that little is copied.
    """
    vocabulary = int(read.max()) + 1
    histories, of_row = torch.unique(donor_of * vocabulary + read, return_inverse=True)
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
