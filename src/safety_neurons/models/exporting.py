"""A model as one plain folder: adapters folded in, single tensors changed, shard by shard.

Nothing is held but one shard: each tensor is read, changed in float32 (or its own precision where
that is higher), cast back once, and written under the name that it has in its file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from safety_neurons.errors import UserError, reading
from safety_neurons.models.checkpoints import load_config
from safety_neurons.models.folding import Fold, Layout, folds_of
from safety_neurons.models.sources import Resolved
from safety_neurons.storage import remove

_INDEX = "model.safetensors.index.json"
_WEIGHTS = "*.safetensors"
_ADAPTERS_OWN = ("adapter_config.json", "adapter_model.safetensors", "README.md")
_REMEDY = "save the model again with save_pretrained"

Edit = Callable[[str, Tensor], Tensor]
"""What a merged tensor becomes, given the name of its parameter; called for those it names."""


def export(
    resolved: Resolved,
    out: str | Path,
    edits: Mapping[str, Edit] | None = None,
    *,
    trust_remote_code: bool = False,
) -> Path:
    """Write what `resolved` names as a checkpoint that transformers loads without PEFT.

    Args:
        out: a folder that does not exist yet.
        edits: further changes, by the names of the model's parameters.

    Returns:
        The folder.

    Raises:
        UserError: if it exists, the checkpoint is quantised, the adapter cannot be folded in, or a
            tensor that is to be changed is not found.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"'{out}' exists already; name another folder.")
    config = load_config(resolved.base, trust_remote_code=trust_remote_code)
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"'{resolved.source}' is quantised, so its weights cannot be changed one by one; give "
            "the model without quantisation."
        )
    layout = Layout.of(config, trust_remote_code=trust_remote_code)
    tied = layout.tied
    changes = _changes(layout, resolved, edits or {})
    draft = out.with_name(f".{out.name}.draft")
    remove(draft)
    draft.mkdir(parents=True)
    try:
        untied = tied and bool(changes.keys() & {layout.head, layout.embedding})
        _write_shards(resolved.base, draft, layout, changes, untied=untied)
        _copy_the_rest(resolved, draft, untied=untied)
        draft.rename(out)
    finally:
        remove(draft)
    return out


def _changes(layout: Layout, resolved: Resolved, edits: Mapping[str, Edit]) -> dict[str, Fold]:
    """What becomes of each parameter: the adapter's part first, then the edit."""
    adapter = resolved.adapter
    folds = {} if adapter is None else folds_of(layout, adapter, str(resolved.source.adapter))

    def both(name: str) -> Fold:
        fold, edit = folds.get(name), edits.get(name)

        def change(tensor: Tensor) -> Tensor:
            tensor = tensor if fold is None else fold(tensor)
            return tensor if edit is None else edit(name, tensor)

        return change

    return {name: both(name) for name in folds.keys() | edits.keys()}


def _write_shards(
    base: Path, out: Path, layout: Layout, changes: Mapping[str, Fold], *, untied: bool
) -> None:
    wanted = set(changes)
    shards = sorted(base.glob(_WEIGHTS))
    located = dict(_located(shards, layout, wanted | ({layout.embedding} if untied else set())))
    head_is_there = layout.head in located.values()
    lacking = wanted - set(located.values()) - ({layout.head} if untied else set())
    if lacking:
        raise UserError(
            f"The checkpoint '{base}' has no tensor that is '{min(lacking)}' of the model, so it "
            f"cannot be changed; {_REMEDY}."
        )
    index: dict[str, str] = {}
    for shard in shards:
        written = _read(shard)
        for name in list(written):
            tensor, parameter = written[name], located.get(name, "")
            written[name] = _changed(tensor, changes.get(parameter))
            if untied and parameter == layout.embedding and not head_is_there:
                written[layout.head] = _changed(tensor, changes.get(layout.head)).clone()
        save_file(written, out / shard.name, {"format": "pt"})
        index |= dict.fromkeys(written, shard.name)
    if (base / _INDEX).is_file():
        with reading(base / _INDEX, remedy=_REMEDY):
            content = json.loads((base / _INDEX).read_text(encoding="utf-8"))
        content["weight_map"] = index
        (out / _INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read(shard: Path) -> dict[str, Tensor]:
    with reading(shard, remedy=_REMEDY), safe_open(shard, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _changed(tensor: Tensor, change: Fold | None) -> Tensor:
    if change is None:
        return tensor
    precise = torch.promote_types(tensor.dtype, torch.float32)
    return change(tensor.to(precise)).to(tensor.dtype).contiguous()


def _located(shards: list[Path], layout: Layout, wanted: set[str]) -> Iterator[tuple[str, str]]:
    """Names in files with the parameters that they are, of those wanted."""
    for shard in shards:
        with reading(shard, remedy=_REMEDY), safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if (parameter := layout.parameter_of(name)) in wanted:
                    yield name, parameter


def _copy_the_rest(resolved: Resolved, out: Path, *, untied: bool) -> None:
    """Configuration, tokenizer, templates; those of an adapter over those of its base."""
    for file in sorted(resolved.base.iterdir()):
        if file.is_file() and file.suffix != ".safetensors" and file.name != _INDEX:
            shutil.copyfile(file, out / file.name)
    if resolved.adapter is not None:
        for file in sorted(resolved.adapter.folder.iterdir()):
            is_settings = file.suffix in (".json", ".jinja", ".model", ".txt")
            if file.is_file() and is_settings and file.name not in _ADAPTERS_OWN:
                shutil.copyfile(file, out / file.name)
    if untied:
        file = out / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        for part in (content, content.get("text_config", {})):
            if "tie_word_embeddings" in part or part is content:
                part["tie_word_embeddings"] = False
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
