"""Sums over batches that survive a stop: saved on the way, resumed where they were."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from safety_neurons.errors import UserError, reading
from safety_neurons.inference import Completion
from safety_neurons.progress import Progress
from safety_neurons.storage import digest, remove, write_whole

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
    *,
    decided_by: Sequence[Any] = (),
) -> S:
    """Add up `sums_of(prompts, completions)` over all batches.

    Args:
        zero: a dataclass of tensors and ints that can be added with `+`.
        state: where the sums so far are kept; used again only for the very same batches, and
            only if it is whole: it saves work and nothing else.
        decided_by: what else decides the sums, such as the models.

    Returns:
        The sums over all batches, `zero` included.
    """
    plan = digest(batches, *decided_by)
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
    content = content_of(tensors, numbers)
    metadata = {"plan": plan, "done": str(done), "content": content, **numbers}
    write_whole(state, lambda draft: save_file(tensors, draft, metadata))


def _load(state: Path, plan: str, zero: S) -> tuple[S, int]:
    """The sums in `state` and how many batches are in them; nothing of a damaged file."""
    try:
        with reading(state, remedy="remove it"), safe_open(state, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = [f.name for f in dataclasses.fields(zero)]
            numbers = {name: metadata[name] for name in names if name not in tensors}
            if metadata["plan"] != plan or metadata["content"] != content_of(tensors, numbers):
                return zero, 0
            counts = {name: int(number) for name, number in numbers.items()}
            return type(zero)(**tensors, **counts), int(metadata["done"])
    except UserError:
        remove(state)
        return zero, 0


def content_of(tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, str]) -> str:
    """A digest of tensors and numbers."""
    hashes = {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }
    return digest(hashes, dict(numbers))
