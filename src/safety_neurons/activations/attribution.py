"""Attribution of the aligned model's answers to neurons, by gradients.

For each prompt, the sum over all patched positions, the prompt's included, of

    (donor − recipient activation) × ∂ L / ∂ activation

where L is the mean-token log-likelihood of the aligned model's own completion, the
donor is the aligned model, and the gradient is the average of those in either model's
own run. It is the first-order estimate of what patching that neuron alone does to L
(attribution patching; Nanda 2023, Syed et al. 2023), with the trapezium rule between
the two ends. Signed: a neuron that would lower L has a negative score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.activations.forcing import ForcedBatch
from safety_neurons.models import ModelPair, NeuronLayout, PairedRows, Side
from safety_neurons.models.rows import Activations


@dataclass
class AttributionSums:
    """Sums over prompts of each neuron's attribution, in nats; mergeable with `+`."""

    prompts: int
    attribution: Float[Tensor, "neuron"]

    @classmethod
    def zero(cls, layout: NeuronLayout) -> AttributionSums:
        return cls(0, torch.zeros(layout.total, dtype=torch.float64))

    def __add__(self, other: AttributionSums) -> AttributionSums:
        return AttributionSums(self.prompts + other.prompts, self.attribution + other.attribution)

    @property
    def score(self) -> Float[Tensor, "neuron"]:
        """Mean attribution per prompt."""
        return self.attribution / self.prompts


class _Tap:
    """Keeps every layer's activations in the graph, for their gradients."""

    def __init__(self) -> None:
        self.taken: dict[tuple[int, Side], Tensor] = {}

    def __call__(self, layer: int, sides: Activations) -> Activations:
        for side, x in sides.items():
            if not x.requires_grad:
                x.requires_grad_()
            self.taken[layer, side] = x
        return sides

    def end_pass(self) -> None:
        """Nothing to check: a layer that was not tapped has no gradient below."""


def attribute(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    aligned_completions: Sequence[Sequence[int]],
) -> AttributionSums:
    """The sums of one batch of prompts (token ids) and the aligned side's own completions."""
    batch = ForcedBatch.of(prompts, aligned_completions, pair)
    tap = _Tap()
    counts = dict.fromkeys(Side, len(batch))
    with torch.enable_grad(), PairedRows(pair, counts, edits=[tap]) as rows:
        logits = rows.forward(dict.fromkeys(Side, batch.tokens), logits=batch.targets.shape[1])
        lengths = batch.scored.sum(dim=1)
        means = [batch.log_likelihoods(logits[side]).sum(dim=1) / lengths for side in Side]
        keys = list(tap.taken)
        gradients = torch.autograd.grad(torch.stack(means).sum(), [tap.taken[key] for key in keys])
    by_key = dict(zip(keys, gradients, strict=True))
    sums = AttributionSums.zero(pair.layout)
    sums.prompts = len(batch)
    read = batch.read_positions
    for layer in range(len(pair.layout.widths)):
        a, u = (layer, Side.ALIGNED), (layer, Side.UNALIGNED)
        difference = (tap.taken[a] - tap.taken[u]).detach()[read].double()
        gradient = (by_key[a] + by_key[u])[read].double() / 2
        sums.attribution[pair.layout.layer_slice(layer)] = (difference * gradient).sum(0).cpu()
    return sums
