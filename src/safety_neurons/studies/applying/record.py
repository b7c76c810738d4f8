"""What stands beside a changed checkpoint: what was changed, and what puts it back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from safety_neurons.models.exporting import Edited
from safety_neurons.runs.record import Record
from safety_neurons.runs.repair import ChangedTensor
from safety_neurons.storage import write_whole

RECORD, UNDO = "intervention.json", "undo.safetensors"


class AppliedRecord(Record):
    """What `intervention.json` holds.

    Args:
        intervention: as it describes itself.
        units: by the path of the module that receives them, coordinates there.
        model: what was changed, as manifests describe models.
        donor: whose weights were transplanted, described likewise; None for other interventions.
        provenance: where the units come from.
        refusals: harmful prompts refused before and after, and of how many; None where nothing was
            changed.
        difference: the largest difference of logits from those of the live intervention, as a part
            of the largest logit.
        dtype: of the checkpoint.
    """

    format: Literal["safety-neurons/applied/1"] = "safety-neurons/applied/1"
    intervention: dict[str, Any]
    units: dict[str, list[int]]
    model: dict[str, Any]
    donor: dict[str, Any] | None = None
    provenance: dict[str, Any]
    refusals: dict[str, float] | None = None
    difference: float
    dtype: str
    command: str | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    tensors: list[ChangedTensor]


class Kept:
    """Collects what an undo needs, tensor by tensor, while a checkpoint is written."""

    def __init__(self) -> None:
        self.tensors: list[ChangedTensor] = []
        self._slices: dict[str, Tensor] = {}

    def add(self, edited: Edited, index: Tensor, axis: int) -> None:
        """Keep those merged slices at `index` of one tensor that were changed."""
        merged, written = (
            tensor.index_select(axis, index).movedim(axis, 0).flatten(1)
            if tensor.dim() > 1
            else tensor[index][:, None]
            for tensor in (edited.merged, edited.written)
        )
        # By their bits: 0 and −0 are equal, and not the same.
        raw = (of.contiguous().view(torch.uint8) for of in (merged, written))
        index = index[torch.ne(*raw).any(dim=1)]
        if not len(index):
            return
        self.tensors.append(
            ChangedTensor(
                name=edited.name,
                file=edited.file,
                axis=axis,
                before=sha256_of_tensor(edited.merged),
                after=sha256_of_tensor(edited.written),
            )
        )
        self._slices[f"{edited.name}/slices"] = edited.merged.index_select(axis, index).contiguous()
        self._slices[f"{edited.name}/index"] = index.to(torch.int32)

    def write(self, folder: Path) -> None:
        """Write the slices."""
        write_whole(folder / UNDO, lambda draft: save_file(self._slices, draft))


def sha256_of_tensor(tensor: Tensor) -> str:
    """Of its bytes, row by row."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().tobytes()).hexdigest()
