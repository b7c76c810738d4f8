"""How likely a model finds several completions of each prompt, with gradients.

Preference training compares two completions of one prompt. Each prompt is read once for
both, and what all prompts begin with (a system prompt) is read once for the whole batch;
gradients flow through the caches. Logits are computed at completion positions alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from safety_neurons.engine import ModelGroup, PairedRows, Role, SiteEdit, Tokens
from safety_neurons.inference.decoding import (
    Completion,
    left_padded,
    right_padded,
    shared_beginning,
)


def log_likelihoods(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Completion]],
    edits: Sequence[SiteEdit] = (),
) -> tuple[Float[Tensor, "batch completion"], Int[Tensor, "batch completion"]]:
    """The log-likelihood in nats of each completion under one model.

    Args:
        prompts: token ids of each prompt.
        role: which model of the group.
        completions: of each prompt, equally many completions, none of them empty.
        edits: what happens at sites meanwhile; gradients flow through it, too.

    Returns:
        Sums over the tokens of a completion, and how many tokens it has.
    """
    device = group.device
    of_each = len(completions[0])
    flat = [completion for group in completions for completion in group]
    longest = max(len(completion) for completion in flat)
    shared = len(shared_beginning(group, prompts, longest))
    # The last prompt token predicts the first completion token, so it is read with it.
    between = [list(prompt[shared:-1]) for prompt in prompts]
    read = [
        [prompt[-1], *completion[:-1]]
        for prompt, group in zip(prompts, completions, strict=True)
        for completion in group
    ]
    mask = torch.ones(1 if shared else len(prompts), shared, dtype=torch.long, device=device)
    with PairedRows(group, {role: len(mask)}, edits=edits, cached=True) as rows:
        if shared:
            ids = torch.tensor([prompts[0][:shared]], device=device)
            rows.forward({role: Tokens(ids, mask)}, logits=None)
            mask = mask.repeat(len(prompts), 1)
            rows.rearrange({role: torch.zeros(len(prompts), dtype=torch.long)})
        if any(between):
            tokens = left_padded(between, group)
            mask = torch.cat([mask, tokens.mask], dim=1)
            rows.forward({role: Tokens(tokens.ids, mask)}, logits=None)
        rows.rearrange({role: torch.arange(len(prompts)).repeat_interleave(of_each)})
        mask = mask.repeat_interleave(of_each, dim=0)
        new, targets = right_padded(read, group), right_padded(flat, group).ids
        real = new.mask
        tokens = Tokens(new.ids, torch.cat([mask, real], dim=1))
        logits = rows.forward({role: tokens}, logits=longest)[role]
    # Padding is left out before the softmax, which is what costs here.
    scored = real.bool()
    exact = logits[scored].to(torch.promote_types(logits.dtype, torch.float32))
    likelihoods = -cross_entropy(exact, targets[scored], reduction="none")
    each = torch.zeros_like(real, dtype=likelihoods.dtype).masked_scatter(scored, likelihoods)
    return each.sum(dim=1).view(-1, of_each), real.sum(dim=1).view(-1, of_each)
