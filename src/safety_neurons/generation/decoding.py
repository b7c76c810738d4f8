"""Greedy decoding of one side of a pair, plain or under dynamic activation patching.

The next token is always the recipient's; the donor is fed the same tokens. A completion
is the generated tokens up to and including the first end-of-sequence token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from safety_neurons.errors import InterventionError
from safety_neurons.generation.patching import PatchEdit
from safety_neurons.models import ModelPair, PairedRows, Side, Tokens
from safety_neurons.neurons.sets import NeuronSet

Completion = list[int]


@torch.no_grad()
def decode(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    recipient: Side,
    *,
    patch: NeuronSet | None = None,
    max_new_tokens: int,
) -> list[Completion]:
    """Continue one batch of prompts greedily.

    Args:
        prompts: token ids of each prompt, of any lengths.
        recipient: the side that generates.
        patch: neurons to overwrite with the other side's values; None runs the recipient
            alone.
        max_new_tokens: where a completion without an end token is cut.

    Returns:
        One completion for each prompt.
    """
    sides = (recipient,) if patch is None else (recipient.other, recipient)
    edits = [] if patch is None else [PatchEdit(patch, recipient.other, device=str(pair.device))]
    tokens = left_padded(prompts, pair)
    ends = torch.tensor(sorted(pair.end_tokens), device=pair.device)
    written: list[Tensor] = []
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=pair.device)
    counts = {side: len(prompts) for side in sides}
    with PairedRows(pair, counts, edits=edits, first=recipient.other, cached=True) as rows:
        while True:
            logits = rows.forward({side: tokens for side in sides})[recipient]
            largest, chosen = logits[:, -1].max(dim=-1)
            if not bool(torch.isfinite(largest).all()):
                raise InterventionError(
                    "The model's logits are not finite numbers, so no token can be chosen; "
                    "try another --dtype (some architectures need float32)."
                )
            written.append(chosen)
            finished |= torch.isin(chosen, ends)
            if len(written) == max_new_tokens or bool(finished.all()):
                break
            ones = torch.ones_like(chosen)[:, None]
            tokens = Tokens(chosen[:, None], torch.cat([tokens.mask, ones], dim=-1))
    return [_until_end(row, pair.end_tokens) for row in torch.stack(written, dim=1).tolist()]


def left_padded(prompts: Sequence[Sequence[int]], pair: ModelPair) -> Tokens:
    """Prompts as one batch, padded on the left."""
    longest = max(len(ids) for ids in prompts)
    pad = pair.tokenizer.pad_token_id
    ids: Int[Tensor, "batch pos"] = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return Tokens(ids.to(pair.device), mask.to(pair.device))


def _until_end(tokens: list[int], ends: frozenset[int]) -> Completion:
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
    return tokens
