"""One number for each unit, such as a mean activation, as a value with a name and a key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.errors import UserError
from safety_neurons.units.sets import UnitSet
from safety_neurons.units.space import BlockKey, UnitSpace


@dataclass(frozen=True, eq=False)
class UnitValues:
    """A number for each unit of a space; not finite where there is none.

    Args:
        values: float32, as many as the space has units.
        name: what they are, for people, such as `mean of the aligned model`.
    """

    values: Float[Tensor, "unit"]
    space: UnitSpace
    name: str

    def __post_init__(self) -> None:
        if self.values.shape != (self.space.total,):
            raise UserError(
                f"{tuple(self.values.shape)} values were given for {self.space.total} units."
            )

    @classmethod
    def at(cls, units: UnitSet, values: Float[Tensor, "k"], name: str) -> UnitValues:
        """Values of the units of a set alone, in the order of their positions."""
        if len(values) != len(units):
            raise UserError(f"{len(values)} values were given for {len(units)} units.")
        whole = torch.full((units.space.total,), torch.nan)
        whole[units.flat] = values.detach().cpu().float()
        return cls(whole, units.space, name)

    @cached_property
    def key(self) -> str:
        """The same for the same numbers, whatever they are called."""
        return _digest(self.space, self.values)

    def key_at(self, units: UnitSet) -> str:
        """The same for the same numbers of these units, whatever the others are."""
        return _digest(self.space, self.values[units.flat])

    def known(self, units: UnitSet) -> bool:
        """Whether each of `units` has a finite number."""
        return bool(torch.isfinite(self.values[units.flat]).all())

    def of(self, block: BlockKey) -> Float[Tensor, "width"]:
        """Those of one block."""
        return self.values[self.space.slice_of(block)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitValues) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _digest(space: UnitSpace, values: Float[Tensor, "k"]) -> str:
    content = hashlib.sha256(repr(space.blocks).encode())
    content.update(values.numpy().astype("<f4").tobytes())
    return content.hexdigest()[:20]
