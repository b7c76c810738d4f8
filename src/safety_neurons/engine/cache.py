"""Keys and values of a batch whose rows change, in buffers with room.

transformers' dynamic cache copies everything for each new token, and again when rows are
selected: nearly half of the time of a patched decode on two cores. Here a new token is
written into room that is there, and of the rows only those that move are copied.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

_MORE_TOKENS = 32
"""Room for so many positions is made at once."""

_MORE_ROWS = 1.25
"""By how much the room for rows grows when it is too small."""


class RowCache(DynamicCache):
    """A dynamic cache whose rows can be selected cheaply. Not for use with gradients.

    Layers with sliding windows are transformers' own.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config=config)
        self.layers = [
            _RoomyLayer() if type(layer) is DynamicLayer else layer for layer in self.layers
        ]

    def reorder_cache(self, beam_idx: Int[Tensor, "new_batch"]) -> None:
        """Let new row i be old row `beam_idx[i]` (transformers' name); more or fewer rows."""
        moved = (beam_idx != torch.arange(len(beam_idx), device=beam_idx.device)).nonzero()
        for layer in self.layers:
            if isinstance(layer, _RoomyLayer):
                layer.select_rows(beam_idx, moved.flatten())
            else:
                layer.reorder_cache(beam_idx)  # type: ignore[arg-type]


class _RoomyLayer(DynamicLayer):
    """One layer; `keys` and `values` are views of what is filled of the buffers."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._buffers = (_Buffer(key_states), _Buffer(value_states))

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._buffers
        self.keys, self.values = keys.append(key_states), values.append(value_states)
        return self.keys, self.values

    def select_rows(self, rows: Tensor, moved: Tensor) -> None:
        if self.is_initialized:
            self.keys, self.values = (b.select_rows(rows, moved) for b in self._buffers)


class _Buffer:
    """`batch head pos dim`, of which the first rows and positions are filled."""

    def __init__(self, like: Float[Tensor, "batch head pos dim"]) -> None:
        self._held = like.new_empty((0, like.shape[1], 0, like.shape[3]))
        self._rows, self._length = len(like), 0

    @property
    def _filled(self) -> Float[Tensor, "batch head pos dim"]:
        return self._held[: self._rows, :, : self._length]

    def append(self, new: Float[Tensor, "batch head new_pos dim"]) -> Tensor:
        before = self._length
        self._reserve(self._rows, before + new.shape[2])
        self._length += new.shape[2]
        self._filled[:, :, before:] = new
        return self._filled

    def select_rows(self, rows: Tensor, moved: Tensor) -> Tensor:
        taken = self._filled.index_select(0, rows[moved])
        self._reserve(len(rows), self._length)
        self._rows = len(rows)
        self._filled.index_copy_(0, moved, taken)
        return self._filled

    def _reserve(self, rows: int, length: int) -> None:
        capacity, _, positions, _ = self._held.shape
        if rows <= capacity and length <= positions:
            return
        filled = self._filled
        rows = capacity if rows <= capacity else max(rows, int(_MORE_ROWS * capacity))
        positions = positions if length <= positions else length + _MORE_TOKENS
        shape = (rows, self._held.shape[1], positions, self._held.shape[3])
        self._held = self._held.new_empty(shape)
        self._held[: len(filled), :, : self._length] = filled
