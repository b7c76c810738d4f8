"""GGUF files, converted once to safetensors and cached.

transformers' GGUF loader undoes the permutation of llama.cpp's q and k weights but takes
tens of seconds, so its result is kept under the file's hash, with digests of what was
written: a converted model that was changed or torn is made again.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_neurons.errors import reading
from safety_neurons.models.completeness import require_whole
from safety_neurons.storage import cache_folder, digests_of, remove, sha256_of, write_json

_WRITTEN = ".digests.json"
"""In a converted folder: name -> sha256 of every file that was written."""


def converted(file: Path) -> Path:
    """A folder with the model and tokenizer of `file` in float32 safetensors.

    Returns:
        A folder of the cache, the same one for all files of the same content.

    Raises:
        UserError: if transformers cannot read the file.
    """
    return convert_once(file, cache_folder() / "gguf" / sha256_of(file)[:16])


def convert_once(file: Path, folder: Path) -> Path:
    """Convert `file` into `folder` unless that is there already; all of it or nothing."""
    if is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        _convert(file, draft)
        written = sorted(path for path in draft.iterdir())
        names = [path.name for path in written]
        write_json(draft / _WRITTEN, dict(zip(names, digests_of(written), strict=True)))
        if not is_whole(folder):
            remove(folder)
        try:
            draft.rename(folder)
        except OSError:  # another process was faster
            if not is_whole(folder):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a converted model, every file as it was written."""
    try:
        written = json.loads((folder / _WRITTEN).read_text(encoding="utf-8"))
        return digests_of(folder / name for name in written) == list(written.values())
    except (OSError, ValueError, AttributeError):
        return False


def _convert(file: Path, folder: Path) -> None:
    with reading(file, remedy="give the original checkpoint instead"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model, loading = loaded
    require_whole(file, loading)
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
    for name in ("config.json", "generation_config.json"):
        _forget_version(folder / name)


def _forget_version(file: Path) -> None:
    """The same file shall be the same model after an upgrade of transformers."""
    if file.is_file():
        content = json.loads(file.read_text(encoding="utf-8"))
        content.pop("transformers_version", None)
        write_json(file, content)
