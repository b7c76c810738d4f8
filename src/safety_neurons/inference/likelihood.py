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
    of_each = len(completions[0])
    flat = [completion for group in completions for completion in group]
    beginnings = [[completion[:-1] for completion in group] for group in completions]
    logits, real = _logits(group, role, prompts, beginnings, edits)
    targets = right_padded(flat, group).ids
    # Padding is left out before the softmax, which is what costs here.
    scored = real.bool()
    exact = logits[scored].to(torch.promote_types(logits.dtype, torch.float32))
    likelihoods = -cross_entropy(exact, targets[scored], reduction="none")
    each = torch.zeros_like(real, dtype=likelihoods.dtype).masked_scatter(scored, likelihoods)
    return each.sum(dim=1).view(-1, of_each), real.sum(dim=1).view(-1, of_each)


def opening_likelihoods(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    openings: Sequence[Sequence[int]],
    edits: Sequence[SiteEdit] = (),
) -> Float[Tensor, "batch opening"]:
    """As `log_likelihoods`, of the same openings behind every prompt: what several of them begin
    with is read once, and their last tokens are not read at all.

    Returns:
        The log-likelihood in nats of each opening, summed over its tokens.
    """
    exact, rows = _behind(group, role, prompts, openings, edits)
    normal = exact.logsumexp(dim=-1)
    found = []
    for opening, row in zip(openings, rows, strict=True):
        places = torch.arange(len(opening), device=exact.device)
        tokens = torch.tensor(opening, device=exact.device)
        found.append((exact[:, row, places, tokens] - normal[:, row, places]).sum(dim=1))
    return torch.stack(found, dim=1)


def opening_margins(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    openings: Sequence[Sequence[int]],
) -> Float[Tensor, "batch"]:
    """How far greedy decoding is from beginning with one of some openings, or within one.

    Where openings part, the likelier way is followed, as greedy decoding does. Of each token on the
    way it is the logit less the highest of all tokens that begin none of the openings there, and of
    these the least.

    Args:
        openings: none the beginning of another.

    Returns:
        Nats for each prompt: above 0 where a greedy answer begins with an opening, and by how
        much; below 0 where it does not, and how much is missing.
    """
    exact, rows = _behind(group, role, prompts, openings, ())
    found = []
    for opening, row in zip(openings, rows, strict=True):
        steps, followed = [], []
        for place, token in enumerate(opening):
            begun = tuple(opening[:place])
            ways = sorted({of[place] for of in openings if tuple(of[:place]) == begun})
            logits, index = exact[:, row, place], torch.tensor(ways, device=exact.device)
            others = logits.index_fill(1, index, float("-inf"))
            steps.append(logits[:, token] - others.amax(dim=1))
            followed.append(logits[:, token] >= logits[:, index].amax(dim=1))
        margin = torch.stack(steps).amin(dim=0)
        found.append(margin.where(torch.stack(followed).all(dim=0), float("-inf")))
    return torch.stack(found).amax(dim=0)


def _behind(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    openings: Sequence[Sequence[int]],
    edits: Sequence[SiteEdit],
) -> tuple[Float[Tensor, "batch row place vocabulary"], list[int]]:
    """Logits behind each prompt and the tokens of openings, and in which row each opening is."""
    read = opening_rows(openings)
    logits, _ = _logits(group, role, prompts, [read] * len(prompts), edits)
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    before = [tuple(opening[:-1]) for opening in openings]
    rows = [
        next(i for i, tokens in enumerate(read) if tokens[: len(begun)] == begun)
        for begun in before
    ]
    return exact.view(len(prompts), len(read), *exact.shape[1:]), rows


def opening_rows(openings: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """What must be read behind a prompt to know how likely each opening is.

    Returns:
        The openings without their last tokens, but for those that another one begins with.
    """
    kept: list[tuple[int, ...]] = []
    for tokens in sorted({tuple(opening[:-1]) for opening in openings}, key=len, reverse=True):
        if not any(longer[: len(tokens)] == tokens for longer in kept):
            kept.append(tokens)
    return kept


def _logits(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    beginnings: Sequence[Sequence[Sequence[int]]],
    edits: Sequence[SiteEdit],
) -> tuple[Float[Tensor, "row pos vocab"], Int[Tensor, "row pos"]]:
    """What comes behind each prompt and behind each token of some beginnings of answers.

    Args:
        beginnings: of each prompt, equally many; they may be empty.

    Returns:
        Logits, a row for each beginning, and where they are of a token that was read: at place 0
        behind the prompt, at place k behind k tokens.
    """
    device = group.device
    of_each = len(beginnings[0])
    longest = 1 + max(len(tokens) for of_prompt in beginnings for tokens in of_prompt)
    shared = len(shared_beginning(group, prompts, longest))
    # The last prompt token predicts the first completion token, so it is read with it.
    between = [list(prompt[shared:-1]) for prompt in prompts]
    read = [
        [prompt[-1], *tokens]
        for prompt, of_prompt in zip(prompts, beginnings, strict=True)
        for tokens in of_prompt
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
        new = right_padded(read, group)
        whole = Tokens(new.ids, torch.cat([mask, new.mask], dim=1))
        return rows.forward({role: whole}, logits=longest)[role], new.mask
