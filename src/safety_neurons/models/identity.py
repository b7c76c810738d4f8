"""What a model is, by the content of every file that decides what it does.

Names do not tell: weights, a chat template or end tokens can be replaced in place, a
relative path means another folder elsewhere, and a Hub id another commit tomorrow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from safety_neurons.errors import UserError
from safety_neurons.storage import digest, digests_of
from safety_neurons.storage.digests import Signature, signature_of

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
CONFIGS = ("config*.json", "generation_config*.json")
"""A configuration may name another version of itself, which transformers then reads instead."""
TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens*.json",
    "chat_template*",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "vocab*",
    "merges*",
    "tekken*",
    "spiece*",
    "sentencepiece*",
    "*.model",
    "*.model.*",
    "*.tiktoken",
)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
CODE = ("**/*.py",)


@dataclass(frozen=True)
class Contents:
    """The deciding files of one side.

    Args:
        files: name -> sha256; those of the adapter's folder begin with `adapter/`.
        signatures: of each file, to see whether it changes while the model is loaded.
    """

    files: dict[str, str]
    signatures: dict[Path, Signature] = field(repr=False)

    @classmethod
    def of(cls, base: Path, adapter: Path | None, *, code: bool = False) -> Contents:
        """Read every deciding file.

        Args:
            code: whether code that lies beside the model runs.

        Returns:
            Digests and signatures of the files in both folders.
        """
        more = CODE if code else ()
        named = _found(base, (*WEIGHTS, *CONFIGS, *TOKENIZER, *more), "")
        if adapter is not None:
            named |= _found(adapter, (*ADAPTER, *TOKENIZER, *more), "adapter/")
        signatures = {file: signature_of(file) for file in named.values()}
        return cls(dict(zip(named, digests_of(named.values()), strict=True)), signatures)

    @property
    def digest(self) -> str:
        """One name for all of it."""
        return digest(self.files)

    def require_unchanged(self) -> None:
        """Raise UserError if a file was changed since its content was read."""
        for file, signature in self.signatures.items():
            if not file.exists() or signature_of(file) != signature:
                raise UserError(f"'{file}' was changed while it was loaded; run the command again.")


def _found(folder: Path, patterns: tuple[str, ...], prefix: str) -> dict[str, Path]:
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {prefix + file.relative_to(folder).as_posix(): file for file in sorted(files)}


def differences(earlier: dict[str, str], now: dict[str, str]) -> list[str]:
    """Names of files whose content is another, or that are there on one side only."""
    return sorted(name for name in {*earlier, *now} if earlier.get(name) != now.get(name))
