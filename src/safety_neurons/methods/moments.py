"""Means over prompts of a figure for each unit, with intervals, from sums that can be added."""

from __future__ import annotations

from collections.abc import Mapping
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

    def tensors(self, name: str = "") -> dict[str, Tensor]:
        """As tensors by names that begin alike."""
        count = torch.tensor(self.prompts)
        return {f"{name}prompts": count, f"{name}total": self.total, f"{name}squares": self.squares}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], name: str = "") -> Moments:
        """What `tensors` gave."""
        prompts, total, squares = (tensors[f"{name}{of}"] for of in ("prompts", "total", "squares"))
        return cls(int(prompts), total, squares)

    @property
    def mean(self) -> Float[Tensor, "unit"]:
        return self.total / self.prompts

    @property
    def half_width(self) -> Float[Tensor, "unit"]:
        """Of the mean's interval at 95 % confidence; not a number with a single prompt."""
        n = self.prompts
        variance = (self.squares - n * self.mean.square()).clamp(min=0) / (n - 1)
        return _Z * torch.sqrt(variance / n)
