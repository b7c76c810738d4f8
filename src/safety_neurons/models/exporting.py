"""A model as one plain folder: adapters folded in, single tensors changed, shard by shard.

Nothing is held but one shard: each tensor is read, changed in float32 (or its own precision where
that is higher), cast back once, and written under the name that it has in its file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from safety_neurons.errors import UserError, reading
from safety_neurons.models.checkpoints import load_config, template_beside, tokenizer_folder
from safety_neurons.models.folding import Fold, Layout, folds_of
from safety_neurons.models.identity import CODE, CONFIGS, TOKENIZER
from safety_neurons.models.sources import Resolved
from safety_neurons.storage import whole_folder

_INDEX = "model.safetensors.index.json"
_WEIGHTS = "*.safetensors"
_REMEDY = "save the model again with save_pretrained"

Edit = Callable[[Tensor], Tensor]
"""What a merged tensor becomes, in the precision of sums."""


@dataclass(frozen=True)
class Edited:
    """A tensor that was edited, as it was merged and as it was written.

    Args:
        parameter: its name in the model.
        name, file: its name in the checkpoint, and the file that holds it.
    """

    parameter: str
    name: str
    file: str
    merged: Tensor
    written: Tensor


def export(
    resolved: Resolved,
    out: str | Path,
    edits: Mapping[str, Edit] | None = None,
    *,
    seen: Callable[[Edited], None] | None = None,
    beside: Callable[[Path], None] | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write what `resolved` names as a checkpoint that transformers loads without PEFT.

    Args:
        out: a folder that does not exist yet.
        edits: further changes, by the names of the model's parameters.
        seen: is shown every tensor that was edited.
        beside: writes what else belongs into the folder, before it gets its name.

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
    adapter = resolved.adapter
    folds = {} if adapter is None else folds_of(layout, adapter, str(resolved.source.adapter))
    changed = folds.keys() | (edits or {}).keys()
    untied = tied and bool(changed & {layout.head, layout.embedding})
    with whole_folder(out) as draft:
        _Writer(resolved.base, draft, layout, folds, edits or {}, untied, seen).write()
        _copy_the_rest(resolved, draft, untied=untied)
        if beside is not None:
            beside(draft)
    return out


def stored_dtype(resolved: Resolved) -> torch.dtype:
    """The precision in which the base's weights are kept.

    Returns:
        That of the first tensor.

    Raises:
        UserError: if its weights cannot be read.
    """
    shard = min(resolved.base.glob(_WEIGHTS))
    with reading(shard, remedy=_REMEDY), safe_open(shard, "pt") as file:
        dtype: torch.dtype = file.get_tensor(min(file.keys())).dtype
        return dtype


@dataclass(frozen=True)
class _Writer:
    """Writes the shards of a checkpoint anew.

    Args:
        untied: whether embedding and unembedding, one tensor so far, become two.
    """

    base: Path
    out: Path
    layout: Layout
    folds: Mapping[str, Fold]
    edits: Mapping[str, Edit]
    untied: bool
    seen: Callable[[Edited], None] | None

    def write(self) -> None:
        """All shards, and their index where the checkpoint has one."""
        head, embedding = self.layout.head, self.layout.embedding
        wanted = self.folds.keys() | self.edits.keys()
        shards = sorted(self.base.glob(_WEIGHTS))
        located = dict(_located(shards, self.layout, wanted | {embedding, head}))
        parted = self.untied and head not in located.values()
        lacking = wanted - set(located.values()) - ({head} if parted else set())
        if lacking:
            raise UserError(
                f"The checkpoint '{self.base}' has no tensor that is '{min(lacking)}' of the "
                f"model, so it cannot be changed; {_REMEDY}."
            )
        index: dict[str, str] = {}
        for shard in shards:
            tensors = read_tensors(shard)
            for name, tensor in list(tensors.items()):
                parameter = located.get(name, "")
                tensors[name] = self._changed(tensor, parameter, name, shard.name)
                if parted and parameter == embedding:
                    own = self._changed(tensor, head, head, shard.name)
                    tensors[head] = own.clone()  # safetensors holds no tensor twice
            write_tensors(tensors, self.out / shard.name)
            index |= dict.fromkeys(tensors, shard.name)
        if (self.base / _INDEX).is_file():
            with reading(self.base / _INDEX, remedy=_REMEDY):
                content = json.loads((self.base / _INDEX).read_text(encoding="utf-8"))
            content["weight_map"] = index
            text = json.dumps(content, indent=2) + "\n"
            (self.out / _INDEX).write_text(text, encoding="utf-8")

    def _changed(self, tensor: Tensor, parameter: str, name: str, file: str) -> Tensor:
        fold, edit = self.folds.get(parameter), self.edits.get(parameter)
        if fold is None and edit is None:
            return tensor
        stored = tensor.dtype
        precise = tensor.to(torch.promote_types(stored, torch.float32))
        precise = precise if fold is None else fold(precise)
        merged = precise.to(stored).contiguous()
        if edit is None:
            return merged
        written = edit(precise).to(stored).contiguous()
        if self.seen is not None:
            self.seen(Edited(parameter, name, file, merged, written))
        return written


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name; UserError if it cannot be read."""
    with reading(file, remedy=_REMEDY), safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """A file as transformers reads it, for all to read."""
    save_file(dict(tensors), file, {"format": "pt"})
    file.chmod(0o644)


def _located(shards: list[Path], layout: Layout, wanted: set[str]) -> Iterator[tuple[str, str]]:
    """Names in files with the parameters that they are, of those wanted."""
    for shard in shards:
        with reading(shard, remedy=_REMEDY), safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if (parameter := layout.parameter_of(name)) in wanted:
                    yield name, parameter


def _copy_the_rest(resolved: Resolved, out: Path, *, untied: bool) -> None:
    """Configuration and code; the tokenizer and chat template that the source is read with."""
    homes = {CONFIGS: resolved.base, CODE: resolved.base, TOKENIZER: tokenizer_folder(resolved)}
    for patterns, home in homes.items():
        for file in (found for pattern in patterns for found in home.glob(pattern)):
            place = out / file.relative_to(home)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    if (template := template_beside(resolved)) is not None:
        _write_template(template, out)
    if untied:
        file = out / "config.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        for part in (content, content.get("text_config", {})):
            if "tie_word_embeddings" in part or part is content:
                part["tie_word_embeddings"] = False
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_template(template: str | dict[str, str], out: Path) -> None:
    """One template, or several by name, where transformers looks for them."""
    named = {"default": template} if isinstance(template, str) else template
    for name, text in named.items():
        file = out / "chat_template.jinja"
        if name != "default":
            file = out / "additional_chat_templates" / f"{name}.jinja"
            file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
