"""Which units the aligned model's ordinary answers rest on: saliency, for comparison alone.

For each harmless prompt and each unit, the absolute value of the sum over positions of activation
× gradient of the mean-token log-likelihood of the model's own answer: the first-order estimate of
what setting the unit to 0 does to it. It is the score with which Wei et al. 2024 (arXiv 2402.05162,
after SNIP, Lee et al. 2019) tell weights of use from weights of safety, at neurons instead of
weights.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Activations, PairedRows, Side
from safety_neurons.errors import InterventionError
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.methods.attribution import AttributionSums
from safety_neurons.models import ModelPair
from safety_neurons.units import BlockKey, UnitSpace


class _Tap:
    """Keeps one model's activations in the graph."""

    def __init__(self, blocks: Collection[BlockKey]) -> None:
        self.blocks = blocks
        self.taken: dict[BlockKey, Tensor] = {}

    def __call__(self, block: BlockKey, sides: Activations) -> Activations:
        ((side, x),) = sides.items()
        if not x.requires_grad:
            x.requires_grad_()
        self.taken[block] = x
        return {side: x}

    def end_pass(self) -> None:
        if missed := set(self.blocks) - set(self.taken):
            raise InterventionError(f"Nothing was seen of {min(missed)}.")


class Utility:
    """Ranks by the saliency of the aligned model's own answers."""

    version = "utility-1"
    label = "Saliency of harmless answers"
    batch_share = 0.25

    def completions_of(self, contrasted: Side) -> Side:
        return Side.ALIGNED

    def zero(self, space: UnitSpace) -> AttributionSums:
        return AttributionSums.zero(space)

    def measure(
        self,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        space: UnitSpace,
    ) -> AttributionSums:
        batch = ForcedBatch.of(prompts, completions, pair)
        tap = _Tap(space.keys)
        side = Side.ALIGNED
        with torch.enable_grad(), PairedRows(pair, {side: len(batch)}, edits=[tap]) as rows:
            logits = rows.forward({side: batch.tokens}, logits=batch.targets.shape[1])[side]
            means = batch.log_likelihoods(logits).sum(dim=1) / batch.scored.sum(dim=1)
            taken = [tap.taken[block] for block in space.keys]
            gradients = torch.autograd.grad(means.sum(), taken)
        sums = AttributionSums.zero(space)
        sums.prompts = len(batch)
        read = batch.read_positions[..., None]
        for block, x, gradient in zip(space.keys, taken, gradients, strict=True):
            of_prompt = (x.detach().double() * gradient.double() * read).sum(dim=1)
            sums.attribution[space.slice_of(block)] = of_prompt.abs().sum(dim=0).cpu()
        return sums

    def scores(self, sums: AttributionSums) -> Float[Tensor, "unit"]:
        return sums.score


UTILITY = Utility()
