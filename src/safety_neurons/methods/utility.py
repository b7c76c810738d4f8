"""Which units the aligned model's ordinary answers rest on: saliency, for comparison alone.

For each harmless prompt and each unit, the absolute value of the sum over positions of activation
× gradient of the mean-token log-likelihood of the model's own answer: the first-order estimate of
what setting the unit to 0 does to it. It is the score with which Wei et al. 2024 (arXiv 2402.05162,
after SNIP, Lee et al. 2019) tell weights of use from weights of safety, at neurons instead of
weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safety_neurons.engine import PairedRows, Side
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.methods.attribution import AttributionSums, OfAlignedAnswers, Tap
from safety_neurons.models import ModelPair
from safety_neurons.units import UnitSpace


class Utility(OfAlignedAnswers):
    """Ranks by the saliency of the aligned model's own answers."""

    version = "utility-1"
    label = "Saliency of harmless answers"
    batch_share = 0.25

    def measure(
        self,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        space: UnitSpace,
    ) -> AttributionSums:
        batch = ForcedBatch.of(prompts, completions, pair)
        tap = Tap(space)
        side = Side.ALIGNED
        with torch.enable_grad(), PairedRows(pair, {side: len(batch)}, edits=[tap]) as rows:
            logits = rows.forward({side: batch.tokens}, logits=batch.targets.shape[1])[side]
            means = batch.log_likelihoods(logits).sum(dim=1) / batch.scored.sum(dim=1)
            taken = [tap.taken[block, side] for block in space.keys]
            gradients = torch.autograd.grad(means.sum(), taken)
        sums = AttributionSums.zero(space)
        sums.prompts = len(batch)
        read = batch.read_positions[..., None]
        for block, x, gradient in zip(space.keys, taken, gradients, strict=True):
            of_prompt = (x.detach().double() * gradient.double() * read).sum(dim=1)
            sums.attribution[space.slice_of(block)] = of_prompt.abs().sum(dim=0).cpu()
        return sums


UTILITY = Utility()
