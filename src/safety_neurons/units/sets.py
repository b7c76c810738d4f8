"""Sets of units, as values: algebra, and matched random controls."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.errors import UserError
from safety_neurons.units.space import BlockKey, UnitSpace

NEAREST = 5
"""Of so many units of nearly the same value one is drawn."""


@dataclass(frozen=True, eq=False)
class UnitSet:
    """Some of a model's units. Sets of the same units are equal, wherever they come from.

    Args:
        flat: sorted, distinct positions in the space.
        space: of the model whose units these are.
        provenance: where the set comes from, such as `{"ranking": ..., "share": ...}`.
    """

    flat: Int[Tensor, "k"]
    space: UnitSpace
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, flat: Tensor, space: UnitSpace, **provenance: Any) -> UnitSet:
        """The set of the units at `flat`, in any order.

        Returns:
            A set whose positions are sorted, each once.

        Raises:
            UserError: for positions that the model does not have.
        """
        flat = torch.unique(flat.long().cpu())
        if len(flat) and (flat[0] < 0 or flat[-1] >= space.total):
            raise UserError(f"A unit set reaches beyond the model's {space.total} units.")
        return cls(flat, space, provenance)

    @classmethod
    def all(cls, space: UnitSpace) -> UnitSet:
        return cls.of(torch.arange(space.total), space, share=1.0)

    @classmethod
    def none(cls, space: UnitSpace) -> UnitSet:
        return cls.of(torch.empty(0), space)

    @cached_property
    def key(self) -> str:
        """A name for these units of this space: the same for equal sets."""
        content = hashlib.sha256(repr(self.space.blocks).encode())
        content.update(self.flat.numpy().astype("<i8").tobytes())
        return content.hexdigest()[:20]

    def __len__(self) -> int:
        return len(self.flat)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnitSet) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __and__(self, other: UnitSet) -> UnitSet:
        return self._kept(torch.isin(self.flat, self._same_model(other).flat))

    def __sub__(self, other: UnitSet) -> UnitSet:
        return self._kept(~torch.isin(self.flat, self._same_model(other).flat))

    def __or__(self, other: UnitSet) -> UnitSet:
        joined = torch.cat([self.flat, self._same_model(other).flat])
        return UnitSet.of(joined, self.space)

    def _kept(self, mask: Tensor) -> UnitSet:
        return UnitSet(self.flat[mask], self.space)

    def _same_model(self, other: UnitSet) -> UnitSet:
        if self.space != other.space:
            raise UserError("Unit sets of differently shaped models cannot be combined.")
        return other

    @property
    def names(self) -> list[str]:
        """`L12.N345` for each unit."""
        return self.space.names_of(self.flat)

    def in_block(self, key: BlockKey) -> Int[Tensor, "in_block"]:
        """The set's units of one block, as coordinates within it."""
        span = self.space.slice_of(key)
        inside = self.flat[(self.flat >= span.start) & (self.flat < span.stop)]
        return inside - span.start

    def per_block(self) -> list[int]:
        """How many units of the set each block has."""
        blocks = self.space.blocks_of(self.flat)
        counts: list[int] = torch.bincount(blocks, minlength=len(self.space.blocks)).tolist()
        return counts

    def per_layer(self) -> list[int]:
        """How many units of the set each layer has."""
        return self.space.by_layer(self.per_block())

    def matched_by(self, values: Float[Tensor, "unit"], seed: int) -> UnitSet | None:
        """As many units in each block, outside the set, with about the same values.

        Args:
            values: one for each unit of the space, such as how much its mean activation differs.

        Returns:
            For each unit, one of the NEAREST in value that are left in its block, drawn with
            `seed`; None where too few are left.
        """
        generator = torch.Generator().manual_seed(seed)
        free = torch.ones(self.space.total, dtype=torch.bool)
        free[self.flat] = False
        drawn = []
        for unit in self.flat.tolist():
            place = int(self.space.blocks_of(torch.tensor(unit)))
            block = self.space.slice_of(self.space.keys[place])
            left = free[block].nonzero().flatten() + block.start
            if not len(left):
                return None
            nearest = (values[left] - values[unit]).abs().argsort(stable=True)[:NEAREST]
            taken = left[nearest[torch.randint(len(nearest), (1,), generator=generator)]]
            free[taken] = False
            drawn.append(taken)
        flat = torch.cat(drawn) if drawn else torch.empty(0)
        return UnitSet.of(flat, self.space, control="matched by magnitude", seed=seed)

    def matched_random(self, seed: int, *, outside: UnitSet | None = None) -> UnitSet | None:
        """As many units in each block, drawn outside the set; None where too few are left.

        Args:
            outside: a larger set that they are drawn outside of, such as one that this is part of.

        Returns:
            A set of the same space.
        """
        generator = torch.Generator().manual_seed(seed)
        whole = self if outside is None else self | outside
        drawn = []
        for block, taken in zip(self.space.blocks, self.per_block(), strict=True):
            left = torch.ones(block.width, dtype=torch.bool)
            left[whole.in_block(block.key)] = False
            free = left.nonzero().flatten()
            if len(free) < taken:
                return None
            order = torch.randperm(len(free), generator=generator)[:taken]
            drawn.append(free[order] + self.space.slice_of(block.key).start)
        return UnitSet.of(torch.cat(drawn), self.space, control="matched random", seed=seed)
