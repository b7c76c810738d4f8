"""Adapters on chosen rows of a batch: one model in memory serves both sides of a pair.

PEFT's own mixed-adapter batches cover LoRA but not (IA)³, so the gating of rows is done
here: PEFT's wrappers are switched off and hooks on the base layers apply the adapter's
arithmetic, the same operations in the same order, to the rows that want it. Because the
hooks sit on the base layer, an adapter on the down projection reads the neurons as they
are after patching.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from safety_neurons.errors import UserError
from safety_neurons.hooks import HookPoint


@dataclass
class RowSpan:
    """Consecutive rows of a batch, first and behind last; they may move between two passes."""

    start: int
    stop: int

    def of(self, x: Tensor) -> Tensor:
        """These rows of `x`, as a view."""
        return x[self.start : self.stop]

    def __len__(self) -> int:
        return self.stop - self.start


def gates(model: PreTrainedModel, adapter: str, rows: RowSpan) -> list[HookPoint]:
    """Hooks that apply `adapter` to `rows`, wherever they are, of every batch of `model`.

    Modules that text does not run through (an image encoder's) get none.
    """
    read_by_text = {id(m) for m in (*model.get_decoder().modules(), *_head(model).modules())}
    return [
        _gate(name, layer, adapter, rows)
        for name, layer in layers(model, adapter)
        if id(layer) in read_by_text
    ]


def _head(model: PreTrainedModel) -> nn.Module:
    """The unembedding."""
    return model.get_output_embeddings()


def layers(model: PreTrainedModel, adapter: str) -> Iterator[tuple[str, BaseTunerLayer]]:
    """The modules of `model` that `adapter` changes, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and any(
            adapter in getattr(module, key) for key in module.adapter_layer_names
        ):
            yield name, module


def _gate(name: str, layer: BaseTunerLayer, adapter: str, rows: RowSpan) -> HookPoint:
    label = f"{name}[{adapter}]"
    base = layer.get_base_layer()
    if isinstance(layer, IA3Layer):
        scale = layer.ia3_l[adapter].detach().flatten()

        def rescaled(x: Tensor) -> Tensor:
            x = x.clone()
            rows.of(x)[:] = (rows.of(x).to(scale.dtype) * scale).to(x.dtype)
            return x

        if layer.is_feedforward:
            return HookPoint(label, base, "input", rescaled)
        return HookPoint(label, base, "output", lambda _, y: rescaled(y))
    if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
        down = layer.lora_A[adapter].get_parameter("weight")
        up = layer.lora_B[adapter].get_parameter("weight")
        scaling = layer.scaling[adapter]

        def add_delta(x: Tensor, y: Tensor) -> Tensor:
            delta = torch.nn.functional.linear(rows.of(x).to(down.dtype), down)
            y = y.clone()
            rows.of(y)[:] += (torch.nn.functional.linear(delta, up) * scaling).to(y.dtype)
            return y

        return HookPoint(label, base, "output", add_delta)
    raise UserError(f"The adapter's layer {label} ({type(layer).__name__}) is not supported.")
