"""Take a change back: the merged model, bit for bit, from the changed slices."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor

from safety_neurons.errors import UserError, reading
from safety_neurons.models.exporting import read_tensors, write_tensors
from safety_neurons.runs.repair import REPAIR, ChangedTensor, RepairRecord
from safety_neurons.storage import whole_folder
from safety_neurons.studies.applying.record import (
    RECORD,
    UNDO,
    AppliedRecord,
    sha256_of_tensor,
)

_OWN = (RECORD, REPAIR, UNDO, "README.md")
_REMEDY = "apply the intervention again"


def undo(folder: str | Path, out: str | Path) -> Path:
    """Write the model that was in `folder` before `apply` or `repair` changed it.

    Args:
        out: a folder that does not exist yet.

    Returns:
        The folder, a checkpoint with the adapter folded in and nothing else changed.

    Raises:
        UserError: if `folder` was not written by `apply` or `repair`, its weights are not those
            that were written, or `out` exists.
    """
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise UserError(f"'{out}' exists already; name another folder.")
    records = [folder / name for name in (RECORD, REPAIR) if (folder / name).is_file()]
    if not records or not (folder / UNDO).is_file():
        raise UserError(
            f"'{folder}' was not written by apply or repair (it has no {RECORD} or {REPAIR} with "
            f"{UNDO})."
        )
    kept = read_tensors(folder / UNDO)
    changed: dict[str, list[ChangedTensor]] = {}
    for tensor in _changed_in(records[0]):
        changed.setdefault(tensor.file, []).append(tensor)
    with whole_folder(out) as draft:
        for file in sorted(folder.iterdir()):
            if file.name in changed:
                tensors = _restored(file, changed[file.name], kept)
                write_tensors(tensors, draft / file.name)
            elif file.is_file() and file.name not in _OWN:
                shutil.copyfile(file, draft / file.name)
    return out


def _changed_in(record: Path) -> list[ChangedTensor]:
    with reading(record, remedy=_REMEDY):
        text = record.read_text(encoding="utf-8")
        if record.name == RECORD:
            return AppliedRecord.parsed(text).tensors
        return RepairRecord.parsed(text).tensors


def _restored(
    file: Path, changed: list[ChangedTensor], kept: dict[str, Tensor]
) -> dict[str, Tensor]:
    tensors = read_tensors(file)
    for one in changed:
        tensor, slices = tensors.get(one.name), kept.get(f"{one.name}/slices")
        if tensor is None or slices is None or sha256_of_tensor(tensor) != one.after:
            raise UserError(
                f"'{one.name}' in '{file}' is not what was written, so there is nothing to take "
                "back; undo belongs to the very weights that it was written with."
            )
        index = kept[f"{one.name}/index"].long()
        tensors[one.name] = tensor.index_copy(one.axis, index, slices)
        if sha256_of_tensor(tensors[one.name]) != one.before:
            raise UserError(f"'{file.with_name(UNDO)}' does not give '{one.name}' back; {_REMEDY}.")
    return tensors
