"""Slices of a model's tensors: what an intervention makes of them where weights can do the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Slices(ABC):
    """Some slices of one tensor, and what becomes of them.

    Args:
        index: which, along `axis`.
    """

    index: Int[Tensor, "slice"]
    axis: int

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor with these slices changed, and no others."""
        index = self.index.to(tensor.device)
        changed = self._changed(tensor.index_select(self.axis, index))
        return tensor.index_copy(self.axis, index, changed.to(tensor))

    @abstractmethod
    def _changed(self, slices: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ScaledSlices(Slices):
    """Slices times a factor."""

    factor: float

    def _changed(self, slices: Tensor) -> Tensor:
        return slices * self.factor


@dataclass(frozen=True)
class ReplacedSlices(Slices):
    """Slices that become others, in the order of `index`."""

    values: Tensor

    def _changed(self, slices: Tensor) -> Tensor:
        return self.values


@dataclass(frozen=True)
class BlendedSlices(ReplacedSlices):
    """Slices that go a part of the way to others.

    Args:
        strength: how far; 1 replaces them.
    """

    strength: float = 1.0

    def _changed(self, slices: Tensor) -> Tensor:
        return slices + self.strength * (self.values.to(slices) - slices)


@dataclass(frozen=True)
class WeighedSlices(Slices):
    """Slices times a factor each, in the order of `index`."""

    factors: Float[Tensor, "slice"]

    def _changed(self, slices: Tensor) -> Tensor:
        shape = [1] * slices.dim()
        shape[self.axis] = len(self.factors)
        return slices * self.factors.to(slices).view(shape)
