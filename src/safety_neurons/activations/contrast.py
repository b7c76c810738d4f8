"""Generation-time activation contrasting (Chen et al. 2025, section 3), streamed.

1. A completion of each prompt is given, written by one of the two models.
2. Both models read prompt + completion.
3. At every position from the last prompt token up to, not including, the last completion
   token, the activations of every neuron in both models go into a few sums a neuron.

Memory does not grow with prompts or tokens: the sums can be added, saved, and resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safety_neurons.activations.forcing import ForcedBatch
from safety_neurons.errors import InterventionError
from safety_neurons.models import ModelPair, NeuronLayout, PairedRows, Side
from safety_neurons.models.rows import Activations


@dataclass
class ContrastSums:
    """Sums over completion positions, per neuron, in float64; mergeable with `+`.

    Args:
        positions: how many positions were summed.
        squared_difference: of (aligned − unaligned)².
        aligned, unaligned: of each side's activation.
    """

    positions: int
    squared_difference: Float[Tensor, "neuron"]
    aligned: Float[Tensor, "neuron"]
    unaligned: Float[Tensor, "neuron"]

    @classmethod
    def zero(cls, layout: NeuronLayout) -> ContrastSums:
        return cls(0, *(torch.zeros(layout.total, dtype=torch.float64) for _ in range(3)))

    def __add__(self, other: ContrastSums) -> ContrastSums:
        return ContrastSums(
            self.positions + other.positions,
            self.squared_difference + other.squared_difference,
            self.aligned + other.aligned,
            self.unaligned + other.unaligned,
        )

    @property
    def change_score(self) -> Float[Tensor, "neuron"]:
        """Root mean square difference between the two models' activations."""
        return (self.squared_difference / self.positions).sqrt()

    @property
    def mean_aligned(self) -> Float[Tensor, "neuron"]:
        return self.aligned / self.positions

    @property
    def mean_unaligned(self) -> Float[Tensor, "neuron"]:
        return self.unaligned / self.positions


class _Contrast:
    """Adds one batch's activations of both sides to the sums, layer by layer."""

    def __init__(self, mask: Bool[Tensor, "batch pos"], layout: NeuronLayout) -> None:
        self.sums = ContrastSums.zero(layout)
        self._mask = mask
        self._layout = layout
        self._waiting: dict[int, tuple[Side, Tensor]] = {}
        self._seen = 0

    def __call__(self, layer: int, sides: Activations) -> Activations | None:
        taken = {side: x[self._mask].double() for side, x in sides.items()}
        if len(taken) == 1:  # separate weights: the other side runs in a pass of its own
            if layer not in self._waiting:
                self._waiting[layer] = next(iter(taken.items()))
                return None
            side, activations = self._waiting.pop(layer)
            taken[side] = activations
        span = self._layout.layer_slice(layer)
        aligned, unaligned = taken[Side.ALIGNED], taken[Side.UNALIGNED]
        self.sums.squared_difference[span] = (aligned - unaligned).square().sum(dim=0).cpu()
        self.sums.aligned[span] = aligned.sum(dim=0).cpu()
        self.sums.unaligned[span] = unaligned.sum(dim=0).cpu()
        self._seen += 1
        return None

    def end_pass(self) -> None:
        if self._seen != len(self._layout.widths) or self._waiting:
            raise InterventionError(
                f"Both sides' activations were seen in {self._seen} of "
                f"{len(self._layout.widths)} layers."
            )
        self.sums.positions = int(self._mask.sum())


@torch.no_grad()
def contrast(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> ContrastSums:
    """The sums of one batch of prompts (token ids) and their completions."""
    batch = ForcedBatch.of(prompts, completions, pair)
    edit = _Contrast(batch.completion_positions, pair.layout)
    counts = dict.fromkeys(Side, len(batch))
    with PairedRows(pair, counts, edits=[edit]) as rows:
        rows.forward(dict.fromkeys(Side, batch.tokens), logits=None)
    return edit.sums
