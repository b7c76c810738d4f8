"""Adapters as they lie on disk: read, attached to a model in memory, or merged into it.

An (IA)³ adapter is never merged: merging folds its scale into the weights and so
changes what a neuron's activation means. `gating` runs an attached one on chosen rows.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from peft import PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from safety_neurons.engine import gating
from safety_neurons.engine.gating import RowSpan
from safety_neurons.engine.rounding import ALLOWED, distance
from safety_neurons.errors import UserError, reading
from safety_neurons.models import proofs
from safety_neurons.models.completeness import listed
from safety_neurons.models.proofs import Reference

WEIGHTS = "adapter_model.safetensors"

_VARIANTS = (
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
"""Settings of PEFT with which an adapter does more than add a product to shared weights."""

_BESIDE_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base's weights alone; PiSSA, OLoRA and others start from a
part that they take out of them, again at every load."""

_OWN = ("lora_", "ia3_l")
"""What the names of an adapter's own tensors hold."""
_PREFIX = "base_model.model."
_REMEDY = "give the base model that it was trained on"
_MERGE_REMEDY = "merge it into a checkpoint where it was trained, and give that"


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration, after checking that it can be loaded safely.

    Returns:
        The fields of `adapter_config.json`, as they stand there.

    Raises:
        UserError: without a configuration, with one that this PEFT does not know all of, or with
            weights only in pickle form.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise UserError(f"'{folder}' is no PEFT adapter (it has no adapter_config.json).")
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"The adapter '{folder}' has no {WEIGHTS}; pickled weights are not loaded, so save it "
            "again with safe_serialization=True."
        )
    with reading(file, remedy="save the adapter again"):
        config = dict(json.loads(file.read_text(encoding="utf-8")).items())
    kind = config.get("peft_type")
    if kind not in ("LORA", "IA3"):
        raise UserError(
            f"The adapter '{folder}' is of type {kind}; LoRA and (IA)³ are "
            "supported, for others merge it into a checkpoint of its own."
        )
    known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    unknown = {name for name, value in config.items() if value and name not in known}
    if unknown:  # PEFT would only warn, and leave out what they mean
        raise UserError(
            f"The adapter '{folder}' has settings that the installed PEFT does not know "
            f"({listed(unknown)}); install a newer peft."
        )
    return config


def can_gate(config: Mapping[str, Any]) -> bool:
    """Whether the adapter adds to fixed shared weights in a way that rows can switch off."""
    return (
        not config.get("modules_to_save")
        and config.get("bias", "none") == "none"
        and _is_beside_the_base(config)
        and not any(config.get(key) for key in _VARIANTS)
    )


def _is_beside_the_base(config: Mapping[str, Any]) -> bool:
    return config.get("init_lora_weights", True) in _BESIDE_THE_BASE


def probed(config: Mapping[str, Any]) -> list[int]:
    """Tokens without which a probe might not show what the adapter does."""
    trained = config.get("trainable_token_indices") or []
    by_module = trained.values() if isinstance(trained, Mapping) else [trained]
    indices = [token for tokens in by_module for token in tokens]
    return [*indices, *(config.get("alora_invocation_tokens") or [])]


def leaves_alone(folder: Path, model: PreTrainedModel) -> bool:
    """Whether every tensor of the base that lies among the adapter's is as in `model`.

    PEFT saves the base's embeddings with an adapter that targets them, and loads them over
    those of the model: for a model that serves both sides, over both.

    Returns:
        False if one of them is missing in `model`, or has another shape or other values there.
    """
    weights = folder / WEIGHTS
    with reading(weights, remedy="save the adapter again"), safe_open(weights, "pt") as file:
        carried = {n: file.get_tensor(n) for n in file.keys() if not _is_own(n)}  # noqa: SIM118
    held = model.state_dict()
    for name, tensor in carried.items():
        own = held.get(name.removeprefix(_PREFIX).replace(".base_layer.", "."))
        if own is None or own.shape != tensor.shape:
            return False
        if not torch.equal(tensor.to(own.device, own.dtype), own):
            return False
    return True


def _is_own(name: str) -> bool:
    return any(part in name for part in _OWN)


def attach(
    model: PreTrainedModel, folder: Path, name: str, label: str, tokens: Int[Tensor, "batch pos"]
) -> Reference:
    """Load the adapter in `folder` into `model` as `name`, and leave it switched off.

    Args:
        label: how the user named the adapter.
        tokens: a probe.

    Returns:
        PEFT's own logits on the probe, with the adapter alone.

    Raises:
        UserError: if the adapter was made for another model, does nothing, or cannot be gated.
    """
    without = proofs.logits_of(model, tokens)
    adapted = _loaded(model, folder, name, label)
    loaded = [layer for _, layer in gating.layers(model, name)]
    # Refuses unsupported layers now, not in the first pass.
    gating.gates(model, name, RowSpan(0, 1))
    for layer in loaded:
        layer.enable_adapters(True)
        layer.set_adapter(name)
    reference = Reference.of(label, adapted, tokens)
    proofs.require_effect(label, reference.logits, without)
    for layer in loaded:
        layer.enable_adapters(False)
        for key in layer.adapter_layer_names:
            getattr(layer, key).requires_grad_(False)
    return reference


@dataclass(frozen=True)
class Merged:
    """A model with an adapter folded into its weights, and PEFT's own logits on the probe."""

    model: PreTrainedModel
    reference: Reference


def merge(
    base: Callable[[], PreTrainedModel],
    folder: Path,
    config: Mapping[str, Any],
    label: str,
    tokens: Int[Tensor, "batch pos"],
) -> Merged:
    """A base model with a LoRA adapter folded into its weights (never for (IA)³).

    Args:
        base: loads the base model, in a precision in which sums are exact enough.

    Returns:
        The merged model, and PEFT's own logits on `tokens` from before the merge.

    Raises:
        UserError: if the adapter was made for another model, does nothing, or if merging gives
            another model than PEFT's own layers, or another one at every load.
    """
    model = base()
    without = proofs.logits_of(model, tokens)
    adapted = _loaded(model, folder, "default", label, seed=0)
    reference = Reference.of(label, adapted, tokens)
    if not _is_beside_the_base(config):
        again = proofs.logits_of(_loaded(base(), folder, "default", label, seed=1), tokens)
        if distance(again, reference.logits) > ALLOWED[torch.float64]:
            raise UserError(
                f"The adapter '{label}' gives another model at every load, as its start "
                f"({config.get('init_lora_weights')}) is drawn at random; save it again with "
                "PEFT's path_initial_model_for_weight_conversion, or merge it where it was trained."
            )
    proofs.require_effect(label, reference.logits, without)
    with reading(label, remedy=_MERGE_REMEDY, fault="cannot be merged into its base model"):
        merged = adapted.merge_and_unload()
    proofs.require_same(label, proofs.logits_of(merged, tokens), reference)
    return Merged(merged, reference)


def _loaded(
    model: PreTrainedModel, folder: Path, name: str, label: str, *, seed: int = 0
) -> PeftModel:
    """`model` in PEFT's wrapper, with every tensor of the adapter in its place."""
    misfit = f"does not fit the model '{model.config._name_or_path}'"
    with reading(label, remedy=_REMEDY, fault=misfit):
        # PEFT warns of names that do not fit; they are compared below.
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            adapted = PeftModel.from_pretrained(model, str(folder), adapter_name=name).eval()
            wanted = get_peft_model_state_dict(
                adapted, adapter_name=name, save_embedding_layers=False
            ).keys()
        with safe_open(folder / WEIGHTS, "pt") as file:
            given = set(file.keys())
    _require_fit(label, given, set(wanted), adapted)
    return adapted


def _require_fit(label: str, given: set[str], wanted: set[str], adapted: PeftModel) -> None:
    """Demand that each tensor has a place and each place a tensor, by their names."""
    of_the_base = {
        name for name in given - wanted if not _is_own(name) and name in adapted.state_dict()
    }
    faults = [
        f"{len(names)} {what}: {listed(names)}"
        for what, names in (
            ("tensors have no place in the model", given - wanted - of_the_base),
            ("places of the model get no tensor", wanted - given),
        )
        if names
    ]
    if faults:
        raise UserError(
            f"The adapter '{label}' does not fit the model '{adapted.config._name_or_path}' "
            f"({'; '.join(faults)}); {_REMEDY}."
        )
