"""Sums over batches that survive a stop: saved on the way, resumed where they were."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from safety_neurons.artifacts import digest, write_whole
from safety_neurons.generation import Completion
from safety_neurons.progress import Progress

S = TypeVar("S", bound=Any)
Batch = tuple[list[list[int]], list[Completion]]

SAVE_EVERY = 20.0
"""Seconds between saves: what a stop can lose."""


def accumulate(
    zero: S,
    batches: Sequence[Batch],
    sums_of: Callable[[list[list[int]], list[Completion]], S],
    state: Path,
    progress: Progress,
    label: str,
) -> S:
    """Add up `sums_of(prompts, completions)` over all batches.

    Args:
        zero: a dataclass of tensors and ints that can be added with `+`.
        state: where the sums so far are kept; used again only for the very same batches.
    """
    plan = digest(batches)
    total, done = _load(state, plan, zero)
    saved = time.monotonic()
    for i, (prompts, completions) in enumerate(
        progress.track(batches[done:], label, done=done), start=done + 1
    ):
        total = total + sums_of(prompts, completions)
        if time.monotonic() - saved > SAVE_EVERY or i == len(batches):
            _save(state, plan, total, i)
            saved = time.monotonic()
    return total


def _save(state: Path, plan: str, sums: Any, done: int) -> None:
    fields = {f.name: getattr(sums, f.name) for f in dataclasses.fields(sums)}
    tensors = {name: value for name, value in fields.items() if isinstance(value, torch.Tensor)}
    numbers = {name: str(value) for name, value in fields.items() if name not in tensors}
    metadata = {"plan": plan, "done": str(done), **numbers}
    write_whole(state, lambda draft: save_file(tensors, draft, metadata))


def _load(state: Path, plan: str, zero: S) -> tuple[S, int]:
    if not state.is_file():
        return zero, 0
    with safe_open(state, "pt") as file:
        metadata = file.metadata()
        if metadata["plan"] != plan:
            return zero, 0
        tensors = set(file.keys())
        values = {
            f.name: file.get_tensor(f.name) if f.name in tensors else int(metadata[f.name])
            for f in dataclasses.fields(zero)
        }
    return type(zero)(**values), int(metadata["done"])
