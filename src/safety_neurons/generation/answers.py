"""Answers to many prompts, in batches, kept as they are made so that a stop loses little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safety_neurons.artifacts import RowLog
from safety_neurons.generation.decoding import Completion, decode
from safety_neurons.models import ModelPair, Side
from safety_neurons.neurons.sets import NeuronSet
from safety_neurons.progress import Progress, Silent


@dataclass(frozen=True)
class Decoding:
    """How completions are written."""

    max_new_tokens: int = 40
    batch_size: int = 32

    def batches(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Positions of prompts, in batches of similar length, the same at every run."""
        by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        return [
            by_length[i : i + self.batch_size] for i in range(0, len(by_length), self.batch_size)
        ]


def answer(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    recipient: Side,
    decoding: Decoding,
    *,
    patch: NeuronSet | None = None,
    log: Path | None = None,
    progress: Progress | None = None,
    label: str = "Answers",
) -> list[Completion]:
    """Continue all `prompts` (token ids), batch by batch.

    Args:
        patch: neurons of the recipient to overwrite with the other side's values.
        log: file that keeps finished batches; what is there already is not made again.

    Returns:
        One completion for each prompt, in the order given.
    """
    kept = RowLog(log) if log else None
    made: dict[int, Completion] = {r["prompt"]: r["tokens"] for r in kept.rows} if kept else {}
    batches = decoding.batches(prompts)
    todo = [batch for batch in batches if not all(i in made for i in batch)]
    progress = progress or Silent()
    for batch in progress.track(todo, label, done=len(batches) - len(todo)):
        completions = decode(
            pair,
            [prompts[i] for i in batch],
            recipient,
            patch=patch,
            max_new_tokens=decoding.max_new_tokens,
        )
        made.update(zip(batch, completions, strict=True))
        if kept:
            kept.extend({"prompt": i, "tokens": made[i]} for i in batch)
    return [made[i] for i in range(len(prompts))]
