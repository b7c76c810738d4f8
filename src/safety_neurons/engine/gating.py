"""Adapters on chosen rows of a batch: one model in memory serves both sides of a pair.

PEFT's own mixed-adapter batches cover LoRA but not (IA)³, so the gating of rows is done
here: PEFT's wrappers are switched off and hooks on the base layers apply the adapter's
arithmetic, the same operations in the same order and precision, to the rows that want it.
Because the hooks sit on the base layer, an adapter on the down projection reads the neurons
as they are after patching.

The unembedding has hooks of its own (`head_gates`): it runs only where logits are asked for,
and on fewer rows than the rest of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from safety_neurons.engine.hooks import HookPoint
from safety_neurons.errors import InterventionError, UserError


@dataclass
class RowSpan:
    """Consecutive rows of a batch, first and behind last; they may move between two passes."""

    start: int
    stop: int

    def of(self, x: Tensor) -> Tensor:
        """These rows of `x`.

        Returns:
            A view of `x`, not a copy.

        Raises:
            InterventionError: if `x` has fewer rows.
        """
        if len(x) < self.stop:
            raise InterventionError(
                f"A module received {len(x)} rows where at least {self.stop} were planned."
            )
        return x[self.start : self.stop]

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        """`x` with `new` in place of these rows, in the precision of `x`."""
        if len(self) == len(x):
            return new.to(x.dtype)
        return torch.cat([x[: self.start], new.to(x.dtype), x[self.stop :]])

    def __len__(self) -> int:
        return self.stop - self.start


def gates(model: PreTrainedModel, adapter: str, rows: RowSpan) -> list[HookPoint]:
    """Hooks that apply `adapter` to `rows`, wherever they are, of every batch of `model`.

    Modules that text does not run through (an image encoder's) get none, nor does the
    unembedding.

    Returns:
        One hook for each of the other modules that `adapter` changes.

    Raises:
        UserError: if a layer of the adapter, the unembedding's too, cannot be gated.
    """
    head = unembedding(model)
    return [point for point in _points(model, adapter, rows) if point.module is not head]


def head_gates(model: PreTrainedModel, adapter: str, rows: RowSpan) -> list[HookPoint]:
    """Hooks that apply `adapter` at the unembedding, to `rows` of what it receives."""
    head = unembedding(model)
    return [point for point in _points(model, adapter, rows) if point.module is head]


def unembedding(model: PreTrainedModel) -> nn.Module:
    """The module that makes logits: the base layer, where PEFT wraps it."""
    head = model.get_output_embeddings()
    return head.get_base_layer() if isinstance(head, BaseTunerLayer) else head


def layers(model: PreTrainedModel, adapter: str) -> Iterator[tuple[str, BaseTunerLayer]]:
    """The modules of `model` that `adapter` changes, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and any(
            adapter in getattr(module, key) for key in module.adapter_layer_names
        ):
            yield name, module


def _points(model: PreTrainedModel, adapter: str, rows: RowSpan) -> list[HookPoint]:
    head = model.get_output_embeddings()
    read_by_text = {id(m) for m in (*model.get_decoder().modules(), *head.modules())}
    return [
        _gate(name, layer, adapter, rows)
        for name, layer in layers(model, adapter)
        if id(layer) in read_by_text
    ]


def _gate(name: str, layer: BaseTunerLayer, adapter: str, rows: RowSpan) -> HookPoint:
    label = f"{name}[{adapter}]"
    if isinstance(layer, IA3Layer):
        return _ia3_gate(label, layer, adapter, rows)
    if isinstance(layer, LoraLayer) and not _is_variant(layer, adapter):
        if adapter in layer.lora_A:
            return _lora_gate(label, layer, adapter, rows)
        if adapter in layer.lora_embedding_A:
            return _embedding_gate(label, layer, adapter, rows)
    raise UserError(f"The adapter's layer {label} ({type(layer).__name__}) is not supported.")


def _is_variant(layer: LoraLayer, adapter: str) -> bool:
    """Whether PEFT does something else here than to add a product of two matrices."""
    return adapter in layer.lora_variant or layer.lora_bias.get(adapter, False)


def _ia3_gate(label: str, layer: IA3Layer, adapter: str, rows: RowSpan) -> HookPoint:
    scale = layer.ia3_l[adapter].detach().flatten()

    def rescale_input(x: Tensor) -> Tensor | None:
        return rows.put(x, rows.of(x).to(scale.dtype) * scale) if len(rows) else None

    def rescale_output(_: Tensor, y: Tensor) -> Tensor | None:
        return rows.put(y, rows.of(y) * scale) if len(rows) else None

    if layer.is_feedforward:
        return HookPoint(label, layer.get_base_layer(), "input", rescale_input)
    return HookPoint(label, layer.get_base_layer(), "output", rescale_output)


def _lora_gate(label: str, layer: LoraLayer, adapter: str, rows: RowSpan) -> HookPoint:
    down = layer.lora_A[adapter].get_parameter("weight")
    up = layer.lora_B[adapter].get_parameter("weight")
    scaling = layer.scaling[adapter]

    def add_delta(x: Tensor, y: Tensor) -> Tensor | None:
        if not len(rows):
            return None
        narrow = functional.linear(rows.of(x).to(down.dtype), down)
        return rows.put(y, rows.of(y) + functional.linear(narrow, up) * scaling)

    return HookPoint(label, layer.get_base_layer(), "output", add_delta)


def _embedding_gate(label: str, layer: LoraLayer, adapter: str, rows: RowSpan) -> HookPoint:
    down, up = layer.lora_embedding_A[adapter].T, layer.lora_embedding_B[adapter].T
    scaling = layer.scaling[adapter]
    # Gemma's embeddings are scaled inside their module, whose output is what is added to.
    embed_scale = layer._get_embed_scale()

    def add_delta(ids: Tensor, y: Tensor) -> Tensor | None:
        if not len(rows):
            return None
        delta = functional.embedding(rows.of(ids), down) @ up * scaling
        if embed_scale is not None:
            delta = delta * embed_scale.to(delta.dtype)
        return rows.put(y, rows.of(y) + delta)

    return HookPoint(label, layer.get_base_layer(), "output", add_delta)
