"""Teacher forcing: prompts and given completions as one batch of tokens.

Prompts end in one common column (padding stands left of them, and right of the
completions), so that the positions which predict completion tokens are columns, too:

    column   0 …          start        …
    row 0    pad pad p p p p(last)  c0 c1 c2        predicts c0 c1 c2 c3
    row 1    p p p p p p p(last)    c0 pad pad      predicts c0 c1

The last completion token is never read: nothing after it is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from safety_neurons.engine import ModelGroup, Tokens


@dataclass(frozen=True)
class ForcedBatch:
    """Prompts with their completions.

    Args:
        tokens: what the models read, `batch pos`.
        targets: the completion tokens, `batch completion_pos`, padded with 0.
        scored: which of `targets` are real.
    """

    tokens: Tokens
    targets: Int[Tensor, "batch completion_pos"]
    scored: Bool[Tensor, "batch completion_pos"]

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        group: ModelGroup,
    ) -> ForcedBatch:
        """Lay out one batch; completions must not be empty."""
        width = max(len(p) for p in prompts)
        longest = max(len(c) for c in completions)
        ids = torch.full((len(prompts), width + longest), group.pad_id)
        mask = torch.zeros_like(ids)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            span = slice(width - len(prompt), width + len(completion))
            ids[row, span] = torch.tensor([*prompt, *completion])
            mask[row, span] = 1
        ids, mask = ids.to(group.device), mask.to(group.device)
        targets, scored = ids[:, width:], mask[:, width:].bool()
        read = mask.clone()
        read[torch.arange(len(read)), width + scored.sum(dim=1) - 1] = 0
        return cls(Tokens(ids[:, :-1].contiguous(), read[:, :-1].contiguous()), targets, scored)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def completion_positions(self) -> Bool[Tensor, "batch pos"]:
        """From the last prompt token up to, not including, the last completion token."""
        before = self.tokens.ids.shape[1] - self.scored.shape[1]
        left = torch.zeros(len(self), before, dtype=torch.bool, device=self.scored.device)
        return torch.cat([left, self.scored], dim=1)

    @property
    def read_positions(self) -> Bool[Tensor, "batch pos"]:
        """All positions that are not padding, the prompt's included."""
        return self.tokens.mask.bool()

    def log_likelihoods(
        self, logits: Float[Tensor, "batch completion_pos vocab"]
    ) -> Float[Tensor, "batch completion_pos"]:
        """The log-likelihood in nats of each target, 0 where there is none."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = torch.gather(logits, -1, self.targets[..., None]).squeeze(-1)
        return (chosen - torch.logsumexp(logits, dim=-1)) * self.scored
