"""Where models come from: a Hub id, a local folder, a GGUF file, the embedded pair.

A source is written `BASE` or `BASE+ADAPTER`. Weights are read from safetensors or GGUF
only (never pickle), and no code from a repository runs unless it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safety_neurons.errors import UserError
from safety_neurons.models import adapters, embedded, gguf


@dataclass(frozen=True)
class Source:
    """One side of a pair, as the user names it: a base model and perhaps an adapter."""

    base: str
    adapter: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `BASE` or `BASE+ADAPTER`; a path that exists is never split at its `+`."""
        if text == embedded.ALIGNED:
            return cls(embedded.UNALIGNED, embedded.ALIGNED)
        if "+" not in text or Path(text).exists():
            return cls(text)
        base, _, adapter = text.rpartition("+")
        if not base or not adapter:
            raise UserError(f"'{text}' is no source; write BASE or BASE+ADAPTER.")
        return cls(base, adapter)

    def __str__(self) -> str:
        if self.adapter == embedded.ALIGNED:
            return embedded.ALIGNED
        return self.base if self.adapter is None else f"{self.base}+{self.adapter}"


@dataclass(frozen=True)
class ResolvedAdapter:
    """An adapter found on this machine, with its PEFT configuration."""

    folder: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A source found on this machine: folders that hold safetensors."""

    source: Source
    base: Path
    adapter: ResolvedAdapter | None

    @property
    def revision(self) -> str:
        """What pins the weights: a Hub commit, or `local` with the configuration's hash."""
        if self.base.parent.name == "snapshots":
            return self.base.name
        return "local:" + gguf.sha256(self.base / "config.json")[:12]

    @property
    def adapter_hash(self) -> str | None:
        """The first digits of the adapter weights' sha256, None without an adapter."""
        return (
            None
            if self.adapter is None
            else gguf.sha256(self.adapter.folder / adapters.WEIGHTS)[:12]
        )


def resolve(source: Source, *, trust_remote_code: bool = False) -> Resolved:
    """Find (download, convert) what `source` names.

    Raises:
        UserError: if there is no such model, or it cannot be loaded safely.
    """
    base = _base_folder(source.base, trust_remote_code=trust_remote_code)
    if source.adapter is None:
        return Resolved(source, base, None)
    folder = (
        embedded.adapter_folder()
        if source.adapter == embedded.ALIGNED
        else _folder(source.adapter, ["adapter_config.json", adapters.WEIGHTS])
    )
    return Resolved(source, base, ResolvedAdapter(folder, adapters.read_config(folder)))


def _base_folder(base: str, *, trust_remote_code: bool) -> Path:
    if base == embedded.UNALIGNED:
        return embedded.base_folder()
    path = Path(base)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"The file '{base}' does not exist; check the path.")
        return gguf.converted(path)
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    folder = _folder(base, patterns + (["*.py"] if trust_remote_code else []))
    if not (folder / "config.json").is_file():
        raise UserError(f"'{base}' holds no model (it has no config.json).")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"'{base}' has no weights in safetensors; pickled weights are not loaded, so save the "
            "model again with save_pretrained."
        )
    return folder


def _folder(name: str, patterns: list[str]) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"'{name}' is neither a folder, a .gguf file nor a Hub id (owner/name).")
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"'{name}' is no local folder and could not be had from the Hub ({reason}); check the "
            "name, the network, and for gated models HF_TOKEN."
        ) from error


def load_config(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration in `folder`."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError) as error:
        raise _unloadable(folder, error) from error


def load_model(
    folder: Path, *, dtype: torch.dtype, device: str, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The causal language model in `folder`, in evaluation mode, its weights frozen."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (ValueError, OSError, KeyError) as error:
        raise _unloadable(folder, error) from error
    model.to(torch.device(device))  # type: ignore[arg-type]
    return model.eval().requires_grad_(False)


def _unloadable(folder: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0][:200]
    return UserError(
        f"'{folder}' could not be loaded as a causal language model ({reason}); models with code "
        "of their own need --trust-remote-code."
    )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, padding on the left, with a padding token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError) as error:
        raise UserError(
            f"'{folder}' has no tokenizer that can be loaded; save one beside the model with "
            "save_pretrained."
        ) from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def best_generation_dtype(device: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo")
    has = flags.is_file() and any(flag in flags.read_text() for flag in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if has and "AVX512" in capabilities else torch.float32


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"
