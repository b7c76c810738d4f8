"""Where models come from: a Hub id, a local folder, a GGUF file, the embedded pair.

A source is written `BASE` or `BASE+ADAPTER`. Weights are read from safetensors or GGUF
only (never pickle), and no code from a repository runs unless it is asked for.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from safety_neurons.errors import UserError, reading
from safety_neurons.models import adapters, embedded, gguf

_EMBEDDED = (embedded.UNALIGNED, *embedded.ADAPTERS)
_HUB_ID = re.compile(r"([\w.-]+/)?[\w.-]+(@[\w./-]+)?")
_TEXT_FILES = ["*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt"]


@dataclass(frozen=True)
class Source:
    """One side of a pair, as the user names it: a base model and perhaps an adapter."""

    base: str
    adapter: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `BASE` or `BASE+ADAPTER`.

        A path that exists is never split. Where names have a `+` of their own, the split is
        taken whose two parts exist.

        Returns:
            The two parts; the name of the embedded aligned model stands for its base and adapter.

        Raises:
            UserError: if a part is empty, or several splits would do.
        """
        if not text.strip():
            raise UserError("A model has an empty name; write BASE or BASE+ADAPTER.")
        if text in embedded.ADAPTERS:
            return cls(embedded.UNALIGNED, text)
        if "+" not in text or _exists(text):
            return cls(text)
        splits = [cls(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == "+"]
        splits = [split for split in splits if split.base and split.adapter]
        fitting = [s for s in splits if _exists(s.base) and _exists(s.adapter or "")] or [
            s for s in splits if _may_be(s.base) and _may_be(s.adapter or "")
        ]
        if not splits:
            raise UserError(f"'{text}' is no source; write BASE or BASE+ADAPTER.")
        if len(fitting) > 1:
            readings = " or as ".join(f"'{s.base}' with '{s.adapter}'" for s in fitting)
            raise UserError(
                f"'{text}' can be read as {readings}; give one of the folders another name."
            )
        return (fitting or splits[-1:])[0]

    def __str__(self) -> str:
        if self.adapter in embedded.ADAPTERS:
            return self.adapter
        return self.base if self.adapter is None else f"{self.base}+{self.adapter}"


def _exists(name: str) -> bool:
    try:
        return name in _EMBEDDED or Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL byte, no such user
        return False


def _may_be(name: str) -> bool:
    return _exists(name) or _HUB_ID.fullmatch(name) is not None


@dataclass(frozen=True)
class ResolvedAdapter:
    """An adapter found on this machine, with its PEFT configuration."""

    folder: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A source found on this machine: folders that hold safetensors.

    Args:
        source: as the user named it.
        location: what names the same from any working folder and on any later day: absolute
            paths, and Hub ids with their commit.
    """

    source: Source
    location: Source
    base: Path
    adapter: ResolvedAdapter | None

    @property
    def commit(self) -> str | None:
        """The Hub commit of the base, None for local files."""
        return self.base.name if self.base.parent.name == "snapshots" else None


def resolve(source: Source, *, trust_remote_code: bool = False) -> Resolved:
    """Find (download, convert) what `source` names.

    Returns:
        Folders on this machine, with the adapter's configuration if there is one.

    Raises:
        UserError: if there is no such model, or it cannot be loaded safely.
    """
    base = _base_folder(source.base, trust_remote_code=trust_remote_code)
    located = _located(source.base, base)
    if source.adapter is None:
        return Resolved(source, Source(located), base, None)
    if source.adapter in embedded.ADAPTERS:
        folder = embedded.adapter_folder(source.adapter)
    else:
        code = ["*.py"] if trust_remote_code else []
        folder = _folder(source.adapter, [*_TEXT_FILES, adapters.WEIGHTS, *code])
    adapter = ResolvedAdapter(folder, adapters.read_config(folder))
    return Resolved(source, Source(located, _located(source.adapter, folder)), base, adapter)


def _located(name: str, folder: Path) -> str:
    """`name` so that it means the same wherever and whenever it is read."""
    if name in _EMBEDDED:
        return name
    path = Path(name).expanduser()
    if path.exists():
        return os.path.abspath(path)
    return f"{name.partition('@')[0]}@{folder.name}"


def _base_folder(base: str, *, trust_remote_code: bool) -> Path:
    if base == embedded.UNALIGNED:
        return embedded.base_folder()
    path = Path(base).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UserError(f"The file '{base}' does not exist; check the path.")
        return gguf.converted(path)
    patterns = [*_TEXT_FILES, "*.safetensors", *(["*.py"] if trust_remote_code else [])]
    folder = _folder(base, patterns)
    is_adapter = (folder / "adapter_config.json").is_file()
    if not (folder / "config.json").is_file():
        hint = f"it is an adapter, so write BASE+{base}" if is_adapter else "it has no config.json"
        raise UserError(f"'{base}' holds no model ({hint}).")
    if is_adapter:
        raise UserError(
            f"'{base}' holds a model and an adapter, so it does not say which of them is meant; "
            "move the adapter into a folder of its own and name it as BASE+ADAPTER if it is wanted."
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"'{base}' has no weights in safetensors; pickled weights are not loaded, so save the "
            "model again with save_pretrained."
        )
    return folder


def _folder(name: str, patterns: list[str]) -> Path:
    path = Path(name).expanduser()
    if _exists(name) and path.is_dir():
        return path
    if _exists(name) or not _HUB_ID.fullmatch(name) or name.startswith((".", "~")):
        raise UserError(f"'{name}' is neither a folder, a .gguf file nor a Hub id (owner/name).")
    owner_and_name, _, revision = name.partition("@")
    with reading(
        name,
        fault="is no local folder and could not be had from the Hub",
        remedy="check the name, the network, and for gated models HF_TOKEN",
    ):
        return Path(
            snapshot_download(owner_and_name, revision=revision or None, allow_patterns=patterns)
        )
