"""Means over prompts of a figure for each unit, with intervals, from sums that can be added."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_Z = 1.959963984540054


@dataclass
class Moments:
    """Sums over prompts of each unit's figure and its square; mergeable with `+`."""

    prompts: int
    total: Float[Tensor, "unit"]
    squares: Float[Tensor, "unit"]

    @classmethod
    def of(cls, figures: Float[Tensor, "prompt unit"]) -> Moments:
        """Those of some prompts, float64."""
        exact = figures.double()
        return cls(len(figures), exact.sum(dim=0), exact.square().sum(dim=0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.prompts + other.prompts,
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def mean(self) -> Float[Tensor, "unit"]:
        return self.total / self.prompts

    @property
    def half_width(self) -> Float[Tensor, "unit"]:
        """Of the mean's interval at 95 % confidence; not a number with a single prompt."""
        n = self.prompts
        variance = (self.squares - n * self.mean.square()).clamp(min=0) / (n - 1)
        return _Z * torch.sqrt(variance / n)
