"""Adapters as they lie on disk: read, attached to a model in memory, or merged into it.

An (IA)³ adapter is never merged: merging folds its scale into the weights and so
changes what a neuron's activation means. `gating` runs an attached one on chosen rows.
"""

from __future__ import annotations

import json
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.ia3 import IA3Layer
from safetensors import safe_open
from transformers import PreTrainedModel

from safety_neurons.errors import UserError
from safety_neurons.models import gating
from safety_neurons.models.gating import RowSpan

WEIGHTS = "adapter_model.safetensors"


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
    loaded = [layer for _, layer in gating.layers(model, name)]
    # PEFT only warns of tensors without a place, and of places without a tensor.
    places = sum(1 if isinstance(layer, IA3Layer) else 2 for layer in loaded)
    with safe_open(folder / WEIGHTS, "pt") as file:
        tensors = len(file.keys())
    if tensors != places:
        raise UserError(
            f"The adapter '{folder}' has {tensors} tensors, but '{model.config._name_or_path}' has "
            f"places for {places}; give the base model that it was trained on."
        )
    gating.gates(
        model, name, RowSpan(0, 1)
    )  # refuses unsupported layers now, not in the first pass
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
