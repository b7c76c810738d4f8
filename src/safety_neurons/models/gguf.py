"""GGUF files, converted once to safetensors and cached.

transformers' GGUF loader undoes the permutation of llama.cpp's q and k weights but takes
tens of seconds, so its result is kept under the file's hash.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_neurons.errors import UserError


def cache_folder() -> Path:
    """Where converted models are kept: $SAFETY_NEURONS_CACHE or the user's cache folder."""
    chosen = os.environ.get("SAFETY_NEURONS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "safety-neurons"


def converted(file: Path) -> Path:
    """A folder with the model and tokenizer of `file` in float32 safetensors.

    Raises:
        UserError: if transformers cannot read the file.
    """
    digest = sha256(file)
    return convert_once(file, cache_folder() / "gguf" / digest[:16])


def convert_once(file: Path, folder: Path) -> Path:
    """Convert `file` into `folder` unless that is there already; all of it or nothing."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        _convert(file, draft)
        try:
            draft.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, RuntimeError, OSError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"'{file}' could not be read as a GGUF model ({reason}); give the original checkpoint "
            "instead."
        ) from error
    # A model loaded from GGUF calls itself quantised and refuses to be saved, so its
    # dequantised weights move into a plain one.
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sha256(file: Path) -> str:
    """The sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
