"""Units and how they are laid out: blocks of a model's activations, one behind the other.

A unit is one coordinate of what a site receives. All units of a site form a block, named by
its key (layer, site); a space is a row of blocks, and a unit is a position in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor


class SiteKind(StrEnum):
    """What kind of module input holds the units."""

    MLP = "mlp"
    """Neurons: the input of an MLP's down projection, after the gate and any adapter's scaling."""
    ATTENTION = "attention"
    """Channels of the input of the attention's output projection: all heads' outputs."""
    RESIDUAL = "residual"
    """Channels of the residual stream that enters a layer; what is steered, and not ranked."""

    @property
    def letter(self) -> str:
        """What stands before a unit's number: `L12.N345`, `L12.A67`."""
        return {"mlp": "N", "attention": "A", "residual": "R"}[self.value]

    @property
    def units(self) -> str:
        """What its units are called, several of them."""
        named = {
            "mlp": "neurons",
            "attention": "attention channels",
            "residual": "residual channels",
        }
        return named[self.value]

    @property
    def described(self) -> str:
        """For manifests and reports."""
        if self is SiteKind.RESIDUAL:
            return "residual stream that enters the layer"
        projection = {"mlp": "down projection", "attention": "attention's output projection"}
        return f"input of the {projection[self.value]}, after adapter scaling"


@dataclass(frozen=True, order=True)
class BlockKey:
    """Which block: a layer's units at one kind of site.

    Further fields with defaults (an expert, a dictionary of features) keep old keys valid.
    """

    layer: int
    site: SiteKind = SiteKind.MLP

    def name(self, unit: int) -> str:
        """`L12.N345`, for the unit at that coordinate of the block."""
        return f"L{self.layer}.{self.site.letter}{unit}"

    def __str__(self) -> str:
        return f"layer {self.layer} ({self.site})"


@dataclass(frozen=True)
class Block:
    """The units of one site.

    Args:
        width: how many they are.
    """

    key: BlockKey
    width: int


@dataclass(frozen=True)
class UnitSpace:
    """Blocks laid out in one flat vector of all N units."""

    blocks: tuple[Block, ...]

    @classmethod
    def neurons(cls, widths: Iterable[int]) -> UnitSpace:
        """The MLP neurons of layers with these widths."""
        return cls(tuple(Block(BlockKey(layer), width) for layer, width in enumerate(widths)))

    @property
    def keys(self) -> tuple[BlockKey, ...]:
        return tuple(block.key for block in self.blocks)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        return tuple(block.width for block in self.blocks)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each block begins, and behind the last."""
        return (0, *accumulate(self.widths))

    @property
    def total(self) -> int:
        """N, the number of all units."""
        return self.offsets[-1]

    @property
    def layers(self) -> int:
        """How many layers there are, counted to the last that has a block."""
        return max((key.layer for key in self.keys), default=-1) + 1

    @property
    def kinds(self) -> tuple[SiteKind, ...]:
        """The kinds of sites that it has."""
        held = {key.site for key in self.keys}
        return tuple(kind for kind in SiteKind if kind in held)

    @cached_property
    def _places(self) -> dict[BlockKey, int]:
        return {key: place for place, key in enumerate(self.keys)}

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._places

    def slice_of(self, key: BlockKey) -> slice:
        """Where a block's units are; KeyError for a block of another space."""
        place = self._places[key]
        return slice(self.offsets[place], self.offsets[place + 1])

    def blocks_of(self, flat: Int[Tensor, "k"]) -> Int[Tensor, "k"]:
        """For each unit, which of `blocks` it is in."""
        return torch.bucketize(flat, torch.tensor(self.offsets[1:]), right=True)

    def layers_of(self, flat: Int[Tensor, "k"]) -> Int[Tensor, "k"]:
        """The layer of each unit."""
        return torch.tensor([key.layer for key in self.keys])[self.blocks_of(flat)]

    def coordinates_of(self, flat: Int[Tensor, "k"]) -> Int[Tensor, "k"]:
        """The coordinate of each unit within its block."""
        return flat - torch.tensor(self.offsets)[self.blocks_of(flat)]

    def names_of(self, flat: Int[Tensor, "k"]) -> list[str]:
        """`L12.N345` for each unit."""
        places, units = self.blocks_of(flat).tolist(), self.coordinates_of(flat).tolist()
        return [self.keys[a].name(b) for a, b in zip(places, units, strict=True)]

    def by_layer(self, counts: Sequence[int]) -> list[int]:
        """Counts of each block as counts of each layer, whatever sites a layer has."""
        summed = [0] * self.layers
        for key, count in zip(self.keys, counts, strict=True):
            summed[key.layer] += count
        return summed
