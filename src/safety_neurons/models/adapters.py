"""Adapters on chosen rows of a batch: one model in memory serves both sides of a pair.

PEFT's own mixed-adapter batches cover LoRA but not (IA)³, so the gating of rows is done
here: PEFT's wrappers are switched off and hooks on the base layers apply the adapter's
arithmetic, the same operations in the same order, to the rows that want it. Because the
hooks sit on the base layer, an adapter on the down projection reads the neurons as they
are after patching.

An (IA)³ adapter is never merged: merging folds its scale into the weights and so
changes what a neuron's activation means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from safety_neurons.errors import UserError
from safety_neurons.hooks import HookPoint

WEIGHTS = "adapter_model.safetensors"


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


def read_config(folder: Path) -> dict:
    """The adapter's configuration, after checking that it can be loaded safely.

    Raises:
        UserError: without a configuration, or with weights only in pickle form.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise UserError(f"'{folder}' is no PEFT adapter (it has no adapter_config.json).")
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"The adapter '{folder}' has no {WEIGHTS}; pickled weights are not loaded, so save it "
            "again with safe_serialization=True."
        )
    config = json.loads(file.read_text())
    if config.get("peft_type") not in ("LORA", "IA3"):
        raise UserError(
            f"The adapter '{folder}' is of type {config.get('peft_type')}; LoRA and (IA)³ are "
            "supported, for others merge it into a checkpoint of its own."
        )
    return config


def can_gate(config: dict) -> bool:
    """Whether the adapter adds to fixed shared weights in a way that rows can switch off."""
    variants = (
        "use_dora",
        "lora_bias",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "layer_replication",
        "target_parameters",
        "use_qalora",
        "use_bdlora",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "velora_config",
    )
    # Other named initialisations (PiSSA, OLoRA, …) take their start out of the base's weights.
    leaves_the_base = (True, False, None, "gaussian", "orthogonal", "eva")
    return (
        not config.get("modules_to_save")
        and config.get("bias", "none") == "none"
        and config.get("init_lora_weights", True) in leaves_the_base
        and not any(config.get(key) for key in variants)
    )


def attach(model: PreTrainedModel, folder: Path, name: str) -> None:
    """Load the adapter in `folder` into `model` as `name`, switched off.

    Raises:
        UserError: if the adapter was made for another model.
    """
    try:
        PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except (ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise UserError(
            f"The adapter '{folder}' does not fit the model '{model.config._name_or_path}' "
            f"({reason}); give the base model that it was trained on."
        ) from error
    loaded = [layer for _, layer in _layers(model, name)]
    # PEFT only warns of tensors without a place, and of places without a tensor.
    places = sum(1 if isinstance(layer, IA3Layer) else 2 for layer in loaded)
    with safe_open(folder / WEIGHTS, "pt") as file:
        tensors = len(file.keys())
    if tensors != places:
        raise UserError(
            f"The adapter '{folder}' has {tensors} tensors, but '{model.config._name_or_path}' has "
            f"places for {places}; give the base model that it was trained on."
        )
    gates(model, name, RowSpan(0, 1))  # refuses unsupported layers now, not in the first pass
    for layer in loaded:
        layer.enable_adapters(False)
        for key in layer.adapter_layer_names:
            getattr(layer, key).requires_grad_(False)


def merge(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """`model` with a LoRA adapter folded into its weights (never for (IA)³).

    Raises:
        UserError: if the adapter was made for another model.
    """
    try:
        loaded = PeftModel.from_pretrained(model, str(folder))
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"The adapter '{folder}' does not fit its base model ({error}); give the base model "
            "that it was trained on."
        ) from error
    places = get_peft_model_state_dict(loaded, save_embedding_layers=False).keys()
    with safe_open(folder / WEIGHTS, "pt") as file:
        tensors = set(file.keys())
    amiss = (places - tensors) | (tensors - places - loaded.state_dict().keys())
    if amiss:
        raise UserError(
            f"The adapter '{folder}' does not fit its base model ({len(amiss)} tensors are missing "
            f"or have no place, such as {min(amiss)}); give the base model that it was trained on."
        )
    return loaded.merge_and_unload()


def gates(model: PreTrainedModel, adapter: str, rows: RowSpan) -> list[HookPoint]:
    """Hooks that apply `adapter` to `rows`, wherever they are, of every batch of `model`.

    Modules that text does not run through (an image encoder's) get none.
    """
    read_by_text = {id(m) for m in (*model.get_decoder().modules(), *_head(model).modules())}
    return [
        _gate(name, layer, adapter, rows)
        for name, layer in _layers(model, adapter)
        if id(layer) in read_by_text
    ]


def _head(model: PreTrainedModel) -> nn.Module:
    """The unembedding."""
    return model.get_output_embeddings()


def _layers(model: PreTrainedModel, adapter: str) -> Iterator[tuple[str, BaseTunerLayer]]:
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
