"""What lies in a model's folder, read: configuration, weights, tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safety_neurons.errors import UserError, reading
from safety_neurons.models.completeness import require_whole
from safety_neurons.models.sources import Resolved

_TOKENIZER_REMEDY = "save its tokenizer again with save_pretrained"
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def load_config(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration in `folder`."""
    with reading(folder / "config.json", remedy=_MODEL_REMEDY):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


_MODEL_REMEDY = (
    "give a causal language model that save_pretrained wrote; one with code of its own needs "
    "--trust-remote-code"
)


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode, its weights frozen.

    Args:
        notes: sentences on what was found in its files and is not used.
    """

    model: PreTrainedModel
    notes: list[str]


def load_model(
    folder: Path, *, dtype: torch.dtype, device: str, trust_remote_code: bool = False
) -> LoadedModel:
    """The causal language model in `folder`.

    Returns:
        The model on `device` in evaluation mode, its weights frozen, and notes on its files.

    Raises:
        UserError: if it cannot be read, or its weights are not all there.
    """
    with reading(folder, remedy=_remedy(folder)):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
    model, loading = loaded
    notes = require_whole(folder, loading)
    _require_readable(folder / "generation_config.json")
    _require_end_tokens(folder, model)
    model.to(torch.device(device))
    return LoadedModel(model.eval().requires_grad_(False), notes)


def _require_readable(file: Path) -> None:
    """transformers goes on without one that it cannot read, and so without its end tokens."""
    if file.exists():
        with reading(file, remedy="save the model again, or remove the file"):
            dict(json.loads(file.read_text(encoding="utf-8")).items())


def _require_end_tokens(folder: Path, model: PreTrainedModel) -> None:
    declared = model.generation_config.eos_token_id
    ends = declared if isinstance(declared, list) else [declared]
    if not all(end is None or type(end) is int for end in ends):
        raise UserError(
            f"'{folder}' has end tokens that are no token numbers ({declared}); correct its "
            "generation_config.json."
        )


def _remedy(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quantisation = config.get("quantization_config") or {}
    if method := quantisation.get("quant_method"):
        return f"install the library of its quantisation ({method}), or give the model without it"
    return _MODEL_REMEDY


def load_tokenizer(
    resolved: Resolved, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that a side was trained with: its adapter's, where that has one.

    A chat template in the adapter's folder counts also where no tokenizer is there.

    Returns:
        A tokenizer that pads on the left.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    folder = tokenizer_folder(resolved)
    with reading(folder, remedy=_TOKENIZER_REMEDY):
        tokenizer = AutoTokenizer.from_pretrained(
            folder,
            config=AutoConfig.from_pretrained(resolved.base, trust_remote_code=trust_remote_code),
            trust_remote_code=trust_remote_code,
        )
        tokenizer.padding_side = "left"
        # What is wrong with its settings may show only when it is used.
        tokenizer.decode(tokenizer("Hello")["input_ids"], skip_special_tokens=True)
    tokenizer.chat_template = template_beside(resolved) or tokenizer.chat_template
    # transformers looks into `chat_template.json` for processors of images alone.
    tokenizer.chat_template = tokenizer.chat_template or _template_in(folder)
    return tokenizer


def tokenizer_folder(resolved: Resolved) -> Path:
    """Where a source's tokenizer lies: beside its adapter, if a vocabulary is there."""
    adapter = resolved.adapter
    return adapter.folder if adapter and _has_vocabulary(adapter.folder) else resolved.base


def template_beside(resolved: Resolved) -> str | dict[str, str] | None:
    """The chat template of an adapter that has no tokenizer of its own; it counts all the same."""
    if resolved.adapter is None or tokenizer_folder(resolved) != resolved.base:
        return None
    return _template_in(resolved.adapter.folder)


def unread_beside(resolved: Resolved) -> list[str]:
    """A sentence on settings in an adapter's folder that say nothing without a vocabulary there."""
    if resolved.adapter is None:
        return []
    names = ["generation_config.json"]
    if not _has_vocabulary(resolved.adapter.folder):
        names += ["added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"]
    there = [name for name in names if (resolved.adapter.folder / name).is_file()]
    if not there:
        return []
    return [
        f"Beside the adapter '{resolved.source.adapter}' lie {', '.join(there)}; what they say of "
        "tokens is not read, the base model's is (a chat template is)."
    ]


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARIES)


def _template_in(folder: Path) -> str | dict[str, str] | None:
    """The chat template that lies in a folder, beside a tokenizer or without one."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        with reading(plain, remedy=_TOKENIZER_REMEDY):
            text = plain.read_text(encoding="utf-8")
        if text:
            return text
    for name in ("tokenizer_config.json", "chat_template.json"):
        file = folder / name
        if file.is_file():
            with reading(file, remedy=_TOKENIZER_REMEDY):
                template = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
                if isinstance(template, list):  # several, each with a name
                    template = {each["name"]: each["template"] for each in template}
            if template:
                return template
    return None
