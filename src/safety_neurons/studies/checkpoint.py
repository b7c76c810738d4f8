"""How far an optimiser was when it was stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from safety_neurons.errors import UserError, reading
from safety_neurons.storage import digest, remove, write_whole

SAVE_EVERY = 20.0
"""Seconds between saves: what a stop can lose."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Checkpoint:
    """Trained weights, Adam's moments and the log of the steps done, in one file.

    Args:
        plan: a digest of all that decides the training.
    """

    def __init__(self, file: Path, plan: str) -> None:
        self._file, self._plan = file, plan
        self._saved = time.monotonic()

    def restore(
        self, trained: Mapping[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer
    ) -> list[dict[str, float]]:
        """Put weights and moments where the training was.

        Returns:
            The log of the steps done; empty, with nothing changed, where there is no checkpoint of
            this training or it is damaged.
        """
        wanted = {f"{part}.{name}" for name in trained for part in ("weight", *_MOMENTS)}
        try:
            with reading(self._file, remedy="remove it"), safe_open(self._file, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if metadata["plan"] != self._plan or set(tensors) != wanted:
                    return []
                if metadata["content"] != _content(tensors, metadata["log"]):
                    return []
                log: list[dict[str, float]] = json.loads(metadata["log"])
        except UserError:
            remove(self._file)
            return []
        for name, weight in trained.items():
            weight.data.copy_(tensors[f"weight.{name}"])
            optimiser.state[weight] = {
                "step": torch.tensor(float(len(log))),
                **{m: tensors[f"{m}.{name}"].to(weight.device) for m in _MOMENTS},
            }
        return log

    def save(
        self,
        trained: Mapping[str, torch.nn.Parameter],
        optimiser: torch.optim.Optimizer,
        log: list[dict[str, float]],
    ) -> None:
        """Keep what a stop after the last step of `log` needs, if the last save is a while ago."""
        if time.monotonic() - self._saved < SAVE_EVERY:
            return
        tensors = {f"weight.{name}": weight.detach() for name, weight in trained.items()}
        for name, weight in trained.items():
            tensors |= {f"{m}.{name}": optimiser.state[weight][m] for m in _MOMENTS}
        rows = json.dumps(log)
        metadata = {"plan": self._plan, "log": rows, "content": _content(tensors, rows)}
        write_whole(self._file, lambda draft: save_file(tensors, draft, metadata))
        self._saved = time.monotonic()


def _content(tensors: Mapping[str, torch.Tensor], log: str) -> str:
    hashes: dict[str, Any] = {
        name: hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }
    return digest(hashes, log)
