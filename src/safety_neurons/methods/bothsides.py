"""Both models' activations at the same tokens, block by block, whether or not they run together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from jaxtyping import Bool, Float
from torch import Tensor

from safety_neurons.engine import Activations, Role, Side
from safety_neurons.errors import InterventionError
from safety_neurons.units import BlockKey, UnitSpace


class BothSides(ABC):
    """A site edit that changes nothing and hands over what both sides compute.

    Args:
        mask: which positions are taken.
    """

    def __init__(self, mask: Bool[Tensor, "batch pos"], space: UnitSpace) -> None:
        self.space = space
        self._mask = mask
        self._waiting: dict[BlockKey, tuple[Role, Tensor]] = {}
        self._seen = 0

    @property
    def blocks(self) -> Collection[BlockKey]:
        return self.space.keys

    @property
    def positions(self) -> int:
        """How many are taken."""
        return int(self._mask.sum())

    @abstractmethod
    def take(
        self, block: BlockKey, aligned: Float[Tensor, "pos unit"], other: Float[Tensor, "pos unit"]
    ) -> None:
        """Both sides' activations of one block, in float64."""

    def __call__(self, block: BlockKey, sides: Activations) -> None:
        taken = {side: x[self._mask].double() for side, x in sides.items()}
        if len(taken) == 1:  # separate weights: the other side runs in a pass of its own
            if block not in self._waiting:
                self._waiting[block] = next(iter(taken.items()))
                return
            side, activations = self._waiting.pop(block)
            taken[side] = activations
        self.take(block, taken[Side.ALIGNED], taken[Side.UNALIGNED])
        self._seen += 1

    def end_pass(self) -> None:
        if self._seen != len(self.space.blocks) or self._waiting:
            raise InterventionError(
                f"Both sides' activations were seen in {self._seen} of "
                f"{len(self.space.blocks)} blocks."
            )
