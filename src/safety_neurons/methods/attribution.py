"""Attribution of the aligned model's answers to units, by gradients.

For each prompt, the sum over all patched positions, the prompt's included, of

    (donor − recipient activation) × ∂ L / ∂ activation

where L is the mean-token log-likelihood of the aligned model's own completion, the
donor is the aligned model, and the gradient is the average of those in either model's
own run. It is the first-order estimate of what patching that unit alone does to L
(attribution patching; Nanda 2023, Syed et al. 2023), with the trapezium rule between
the two ends. Signed: a unit that would lower L has a negative score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Activations, PairedRows, Role, Side
from safety_neurons.errors import InterventionError
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.models import ModelPair
from safety_neurons.units import BlockKey, UnitSpace


@dataclass
class AttributionSums:
    """Sums over prompts of each unit's attribution, in nats; mergeable with `+`."""

    prompts: int
    attribution: Float[Tensor, "unit"]

    @classmethod
    def zero(cls, space: UnitSpace) -> AttributionSums:
        return cls(0, torch.zeros(space.total, dtype=torch.float64))

    def __add__(self, other: AttributionSums) -> AttributionSums:
        return AttributionSums(self.prompts + other.prompts, self.attribution + other.attribution)

    @property
    def score(self) -> Float[Tensor, "unit"]:
        """Mean attribution per prompt."""
        return self.attribution / self.prompts


class Tap:
    """Keeps every block's activations in the graph, for their gradients."""

    def __init__(self, space: UnitSpace) -> None:
        self.blocks = space.keys
        self.taken: dict[tuple[BlockKey, Role], Tensor] = {}

    def __call__(self, block: BlockKey, sides: Activations) -> Activations:
        for side, x in sides.items():
            if not x.requires_grad:
                x.requires_grad_()
            self.taken[block, side] = x
        return sides

    def end_pass(self) -> None:
        if missed := set(self.blocks) - {block for block, _ in self.taken}:
            raise InterventionError(f"Nothing was seen of {min(missed)}.")


def attribute(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    aligned_completions: Sequence[Sequence[int]],
    space: UnitSpace | None = None,
) -> AttributionSums:
    """The sums of one batch of prompts (token ids) and the aligned side's own completions.

    Args:
        space: the units; by default the MLP neurons.

    Returns:
        Sums over this batch's prompts.
    """
    batch = ForcedBatch.of(prompts, aligned_completions, pair)
    space = space or pair.space()
    tap = Tap(space)
    counts: dict[Role, int] = dict.fromkeys(Side, len(batch))
    with torch.enable_grad(), PairedRows(pair, counts, edits=[tap]) as rows:
        logits = rows.forward(dict.fromkeys(Side, batch.tokens), logits=batch.targets.shape[1])
        lengths = batch.scored.sum(dim=1)
        means = [batch.log_likelihoods(logits[side]).sum(dim=1) / lengths for side in Side]
        keys = list(tap.taken)
        gradients = torch.autograd.grad(torch.stack(means).sum(), [tap.taken[key] for key in keys])
    by_key = dict(zip(keys, gradients, strict=True))
    sums = AttributionSums.zero(space)
    sums.prompts = len(batch)
    read = batch.read_positions
    for block in space.keys:
        a, u = (block, Side.ALIGNED), (block, Side.UNALIGNED)
        difference = (tap.taken[a] - tap.taken[u]).detach()[read].double()
        gradient = (by_key[a] + by_key[u])[read].double() / 2
        sums.attribution[space.slice_of(block)] = (difference * gradient).sum(0).cpu()
    return sums


class OfAlignedAnswers:
    """What methods have in common that score the aligned model's own answers with these sums."""

    def completions_of(self, contrasted: Side) -> Side:
        return Side.ALIGNED

    def zero(self, space: UnitSpace) -> AttributionSums:
        return AttributionSums.zero(space)

    def scores(self, sums: AttributionSums) -> Float[Tensor, "unit"]:
        return sums.score


class Attribution(OfAlignedAnswers):
    """Ranks by the attribution of the aligned model's own answers."""

    version = "attribution-1"
    label = "Attributing answers to units"
    # Gradients hold every layer's activations.
    batch_share = 0.25

    def measure(
        self,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        space: UnitSpace,
    ) -> AttributionSums:
        return attribute(pair, prompts, completions, space)


ATTRIBUTION = Attribution()
