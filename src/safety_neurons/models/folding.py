"""An adapter as changes of single tensors of its base, without the base in memory.

PEFT lays out the adapter over a model without storage and says how each of its layers acts; its few
tensors are read from its file. What a layer then does to one tensor of the base is a function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from peft import PeftModel
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from safety_neurons.engine import gating
from safety_neurons.errors import UserError, reading
from safety_neurons.models import adapters
from safety_neurons.models.sources import ResolvedAdapter

Fold = Callable[[Tensor], Tensor]
"""What a tensor of the base becomes; it is given and returned in a precision for sums."""

_NAME = "default"
_PREFIX = "base_model.model."
_REMEDY = "merge it into a checkpoint where it was trained, and give that"


@dataclass(frozen=True)
class Layout:
    """A model without storage: its modules, and the names of its parameters.

    Args:
        head, embedding: the names of the unembedding's weight and the embedding's.
    """

    model: PreTrainedModel
    head: str
    embedding: str

    @classmethod
    def of(cls, config: PreTrainedConfig, *, trust_remote_code: bool = False) -> Layout:
        """The model that `config` describes."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        names = {id(module): name for name, module in model.named_modules()}
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        found = cls(model, f"{names[id(head)]}.weight", f"{names[id(embedding)]}.weight")
        _ = found.parameters, found._renamings  # before PEFT renames modules
        return found

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Names and shapes, before any adapter was laid over the model."""
        return dict(self.model.state_dict())

    def parameter_of(self, name: str) -> str:
        """The parameter that a tensor of a checkpoint's file becomes, as transformers reads it.

        Returns:
            Its name; one that the model does not have where several tensors become one.
        """
        renamed, converted = rename_source_key(
            name, *self._renamings, self.model.base_model_prefix, self.parameters
        )
        return renamed if converted is None else f"{renamed} ({converted})"

    @cached_property
    def _renamings(self) -> tuple[list[WeightRenaming], list[WeightConverter]]:
        transforms = get_model_conversion_mapping(self.model)
        return (
            [each for each in transforms if isinstance(each, WeightRenaming)],
            [each for each in transforms if isinstance(each, WeightConverter)],
        )

    @property
    def tied(self) -> bool:
        """Whether embedding and unembedding are one tensor."""
        return bool(self.model.config.get_text_config().tie_word_embeddings)


def folds_of(layout: Layout, adapter: ResolvedAdapter, label: str) -> dict[str, Fold]:
    """What `adapter` does to tensors of its base.

    Args:
        layout: of the base; it is wrapped by PEFT hereafter.
        label: how the user named the adapter.

    Returns:
        A function for each parameter that it changes, by the name of the parameter.

    Raises:
        UserError: if it does more than to add products or to scale, or its tensors do not fit.
    """
    if not adapters.can_gate(adapter.config):
        raise UserError(
            f"The adapter '{label}' does more than to add to its base's weights or to scale them "
            f"(whole modules, biases, magnitudes); {_REMEDY}."
        )
    with reading(label, remedy=_REMEDY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PeftModel.from_pretrained(layout.model, str(adapter.folder), low_cpu_mem_usage=True)
    with reading(label, remedy=_REMEDY), safe_open(adapter.folder / adapters.WEIGHTS, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        folds: dict[str, Fold] = {}
        for name, layer in gating.layers(layout.model, _NAME):
            folds |= _folds(name, layer, held)
    return folds


def _folds(
    name: str, layer: BaseTunerLayer, held: Mapping[str, Tensor]
) -> Iterator[tuple[str, Fold]]:
    own = {
        key.removeprefix(f"{_PREFIX}{name}."): tensor
        for key, tensor in held.items()
        if key.startswith(f"{_PREFIX}{name}.")
    }
    turned = bool(getattr(layer, "fan_in_fan_out", False))  # as GPT-2's weights are kept
    if isinstance(layer, IA3Layer):
        scale = own["ia3_l"].flatten()
        outputs = not layer.is_feedforward
        yield f"{name}.weight", _scaling(scale, along_rows=outputs != turned)
        if outputs and getattr(layer.get_base_layer(), "bias", None) is not None:
            yield f"{name}.bias", lambda bias: bias * scale.to(bias.dtype)
    elif isinstance(layer, LoraLayer) and "lora_A.weight" in own:
        down, up = own["lora_A.weight"], own["lora_B.weight"]
        yield f"{name}.weight", _adding(up, down, layer.scaling[_NAME], turned=turned)
    elif isinstance(layer, LoraLayer):
        down, up = own["lora_embedding_A"], own["lora_embedding_B"]
        yield f"{name}.weight", _adding(up, down, layer.scaling[_NAME], turned=True)


def _scaling(scale: Tensor, *, along_rows: bool) -> Fold:
    def fold(weight: Tensor) -> Tensor:
        factors = scale.to(weight.dtype)
        return weight * (factors[:, None] if along_rows else factors)

    return fold


def _adding(up: Tensor, down: Tensor, scaling: float, *, turned: bool) -> Fold:
    def fold(weight: Tensor) -> Tensor:
        product = (up.to(weight.dtype) @ down.to(weight.dtype)) * scaling
        return weight + (product.T if turned else product)

    return fold
