"""The completions that neurons are found on, kept in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safety_neurons.engine import Side
from safety_neurons.inference import (
    Completion,
    Decoding,
    Setting,
    answer,
    encode_prompts,
    kept_key,
    texts_of,
)
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, PromptSet
from safety_neurons.runs import COMPLETIONS, CompletionRow, RunFolder, Stage
from safety_neurons.storage import write_jsonl


@dataclass(frozen=True)
class Completions:
    """Prompts as token ids, with a completion of each by one or both sides."""

    prompts: list[list[int]]
    by_side: dict[Side, list[Completion]]

    def batches(
        self, side: Side, decoding: Decoding
    ) -> list[tuple[list[list[int]], list[Completion]]]:
        """Prompts and one side's completions of them, batch by batch."""
        return [
            ([self.prompts[i] for i in rows], [self.by_side[side][i] for i in rows])
            for rows in decoding.batches(self.prompts)
        ]

    def of(self, rows: Sequence[int]) -> Completions:
        """Those of some prompts, by their places."""
        return Completions(
            [self.prompts[i] for i in rows],
            {side: [answers[i] for i in rows] for side, answers in self.by_side.items()},
        )


def answered(
    pair: ModelPair,
    prompts: PromptSet,
    sides: Sequence[Side],
    decoding: Decoding,
    chat: ChatFormat,
    run: RunFolder,
    progress: Progress,
) -> Completions:
    """Let each of `sides` answer all prompts; answers that the run has kept are not made again."""
    encoded = encode_prompts(pair, prompts, decoding, chat)
    by_side = {
        side: answer(
            pair,
            encoded,
            [Setting(side)],
            decoding,
            logs=[run.state(f"find/{kept_key(pair, encoded, Setting(side), decoding)}.jsonl")],
            progress=progress,
            label=f"Answers of the {side} model",
        )[0]
        for side in sides
    }
    return Completions(encoded, by_side)


def complete(
    pair: ModelPair,
    prompts: PromptSet,
    sides: list[Side],
    decoding: Decoding,
    chat: ChatFormat,
    run: RunFolder,
    stage: Stage,
    progress: Progress,
    *,
    name: str = COMPLETIONS,
) -> Completions:
    """Let each of `sides` answer all prompts, and write the answers to a result of the stage."""
    completions = answered(pair, prompts, sides, decoding, chat, run, progress)
    by_side = completions.by_side
    texts = {side: texts_of(pair, answers, chat) for side, answers in by_side.items()}
    rows = (
        CompletionRow(
            id=prompt.id,
            prompt=prompt.text,
            **{str(side): responses[i] for side, responses in texts.items()},
        )
        for i, prompt in enumerate(prompts)
    )
    # A model that was not asked has no column, else the file's reader would take it for empty.
    write_jsonl(stage.file(name), (row.model_dump(exclude_none=True) for row in rows))
    return completions
