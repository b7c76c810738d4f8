"""Generation-time activation contrasting (Chen et al. 2025, section 3), streamed.

1. A completion of each prompt is given, written by one of the two models.
2. Both models read prompt + completion.
3. At every position from the last prompt token up to, not including, the last completion
   token, the activations of every unit in both models go into a few sums a unit.

Memory does not grow with prompts or tokens: the sums can be added, saved, and resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safety_neurons.engine import PairedRows, Role, Side
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.methods.bothsides import BothSides
from safety_neurons.models import ModelPair
from safety_neurons.units import BlockKey, UnitSpace


@dataclass
class ContrastSums:
    """Sums over completion positions, per unit, in float64; mergeable with `+`.

    Args:
        positions: how many positions were summed.
        squared_difference: of (aligned − unaligned)².
        aligned, unaligned: of each side's activation.
    """

    positions: int
    squared_difference: Float[Tensor, "unit"]
    aligned: Float[Tensor, "unit"]
    unaligned: Float[Tensor, "unit"]

    @classmethod
    def zero(cls, space: UnitSpace) -> ContrastSums:
        return cls(0, *(torch.zeros(space.total, dtype=torch.float64) for _ in range(3)))

    def __add__(self, other: ContrastSums) -> ContrastSums:
        return ContrastSums(
            self.positions + other.positions,
            self.squared_difference + other.squared_difference,
            self.aligned + other.aligned,
            self.unaligned + other.unaligned,
        )

    @property
    def change_score(self) -> Float[Tensor, "unit"]:
        """Root mean square difference between the two models' activations."""
        return (self.squared_difference / self.positions).sqrt()

    @property
    def mean_aligned(self) -> Float[Tensor, "unit"]:
        return self.aligned / self.positions

    @property
    def mean_unaligned(self) -> Float[Tensor, "unit"]:
        return self.unaligned / self.positions


class _Contrast(BothSides):
    """Adds one batch's activations of both sides to the sums, block by block."""

    def __init__(self, mask: Bool[Tensor, "batch pos"], space: UnitSpace) -> None:
        super().__init__(mask, space)
        self.sums = ContrastSums.zero(space)

    def take(
        self, block: BlockKey, aligned: Float[Tensor, "pos unit"], other: Float[Tensor, "pos unit"]
    ) -> None:
        span = self.space.slice_of(block)
        self.sums.squared_difference[span] = (aligned - other).square().sum(dim=0).cpu()
        self.sums.aligned[span] = aligned.sum(dim=0).cpu()
        self.sums.unaligned[span] = other.sum(dim=0).cpu()

    def end_pass(self) -> None:
        super().end_pass()
        self.sums.positions = self.positions


@torch.no_grad()
def contrast(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    space: UnitSpace | None = None,
) -> ContrastSums:
    """The sums of one batch of prompts (token ids) and their completions.

    Args:
        space: the units; by default the MLP neurons.

    Returns:
        Sums over this batch's positions.

    Raises:
        InterventionError: if a block was not seen on both sides.
    """
    batch = ForcedBatch.of(prompts, completions, pair)
    edit = _Contrast(batch.completion_positions, space or pair.space())
    counts: dict[Role, int] = dict.fromkeys(Side, len(batch))
    with PairedRows(pair, counts, edits=[edit]) as rows:
        rows.forward(dict.fromkeys(Side, batch.tokens), logits=None)
    return edit.sums


class ChangeScore:
    """Ranks by the root mean square of the difference between the two models' activations."""

    version = "change-score-1"
    label = "Contrasting activations"
    batch_share = 1.0

    def completions_of(self, contrasted: Side) -> Side:
        return contrasted

    def zero(self, space: UnitSpace) -> ContrastSums:
        return ContrastSums.zero(space)

    def measure(
        self,
        pair: ModelPair,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        space: UnitSpace,
    ) -> ContrastSums:
        return contrast(pair, prompts, completions, space)

    def scores(self, sums: ContrastSums) -> Float[Tensor, "unit"]:
        return sums.change_score


CHANGE_SCORE = ChangeScore()
