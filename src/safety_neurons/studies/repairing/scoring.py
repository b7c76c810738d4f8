"""What a changed model does: quick figures for all changes, answers for few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from safety_neurons.engine import ALONE
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting, encode_prompts, log_likelihoods
from safety_neurons.judges import Judge, Verdict
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, Prompt, PromptSet
from safety_neurons.runs.repair import Weighed
from safety_neurons.storage import read_rows, require_columns
from safety_neurons.studies.auditing.fast import Openings
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.repairing.options import LEAST_ROWS, QUICK


@dataclass(frozen=True)
class TaskRows:
    """Rows of the fine-tune's task: prompts with the answers that it learned to give."""

    prompts: PromptSet
    completions: tuple[str, ...]

    def part(self, first: int, last: int) -> TaskRows:
        """Those between two places."""
        kept = PromptSet(self.prompts.name, self.prompts.prompts[first:last])
        return TaskRows(kept, self.completions[first:last])

    def __len__(self) -> int:
        return len(self.completions)


@dataclass(frozen=True)
class RepairTask:
    """The task's rows by use: to fit on, to choose on, to claim on."""

    fit: TaskRows
    select: TaskRows
    claim: TaskRows

    @classmethod
    def of_file(cls, file: str | Path) -> RepairTask:
        """Rows with `prompt` and `completion`.

        A quarter of them is fitted on, a quarter chosen on, half is claimed on.

        Raises:
            UserError: if the file has too few such rows.
        """  # noqa: DOC201
        rows = list(read_rows(file))
        for column in ("prompt", "completion"):
            require_columns(rows, str(file), [(column, "--task")])
        if len(rows) < LEAST_ROWS:
            raise UserError(
                f"'{file}' has {len(rows)} rows, and {LEAST_ROWS} are needed to choose on some and "
                "to claim on others; give more rows of the task that were held out."
            )
        prompts = tuple(
            Prompt(str(row.get("id", i)), str(row["prompt"])) for i, row in enumerate(rows)
        )
        whole = TaskRows(
            PromptSet(Path(file).name, prompts), tuple(str(row["completion"]) for row in rows)
        )
        quarter = len(rows) // 4
        return cls(
            whole.part(0, quarter),
            whole.part(quarter, 2 * quarter),
            whole.part(2 * quarter, len(rows)),
        )


@dataclass(frozen=True)
class Weighing:
    """Weighs any state of one model's weights; nothing is kept, as these change in place."""

    openings: Openings
    harmful: PromptSet
    harmless: PromptSet
    task: TaskRows
    chat: ChatFormat
    decoding: Decoding

    def of(self, model: LoadedModel) -> Weighed:
        """By openings of answers, and the loss of the task's rows."""
        asked = {"harmful": self.harmful.limited(QUICK), "harmless": self.harmless.limited(QUICK)}
        decided = self.openings.decisions(
            model, asked, self.chat, self.decoding, Silent(), "Openings"
        )
        rates = {kind: sum(of) / len(of) for kind, of in decided.refuses.items()}
        return Weighed(
            harmful=rates["harmful"],
            harmless=rates["harmless"],
            task_loss=task_loss(model, self.task, self.chat, self.decoding),
        )


def rows_of(
    model: LoadedModel, rows: TaskRows, chat: ChatFormat, decoding: Decoding
) -> list[tuple[list[int], list[int]]]:
    """Token ids of the rows; an answer has no end token, which templates write each their way."""
    prompts = encode_prompts(model, rows.prompts, decoding, chat)
    answers = [
        list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in rows.completions
    ]
    return [pair for pair in zip(prompts, answers, strict=True) if pair[1]]


@torch.no_grad()
def task_loss(model: LoadedModel, rows: TaskRows, chat: ChatFormat, decoding: Decoding) -> float:
    """Nats per token of the rows' answers."""
    encoded = rows_of(model, rows, chat, decoding)
    nats, tokens = 0.0, 0
    for batch in decoding.batches([prompt for prompt, _ in encoded], settings=2):
        found, counts = log_likelihoods(
            model,
            ALONE,
            [encoded[i][0] for i in batch],
            [[encoded[i][1]] for i in batch],
        )
        nats -= float(found.sum())
        tokens += int(counts.sum())
    return nats / tokens


@dataclass(frozen=True)
class Verdicts:
    """Of one model's answers to one prompt set, as tensors that can be kept."""

    verdicts: tuple[Verdict, ...]

    def tensors(self) -> dict[str, Tensor]:
        """As numbers of `Verdict`'s order."""
        order = list(Verdict)
        return {"verdicts": torch.tensor([order.index(verdict) for verdict in self.verdicts])}

    @classmethod
    def of_tensors(cls, kept: Mapping[str, Tensor], /) -> Verdicts:
        """What `tensors` gave."""
        order = list(Verdict)
        return cls(tuple(order[place] for place in kept["verdicts"].tolist()))

    @property
    def refuses(self) -> list[bool]:
        """In the order of the prompts."""
        return [verdict is Verdict.REFUSAL for verdict in self.verdicts]

    @property
    def unscored(self) -> int:
        """How many have no verdict."""
        return self.verdicts.count(Verdict.UNSCORED)


def answered(
    model: LoadedModel,
    prompts: PromptSet,
    judge: Judge,
    chat: ChatFormat,
    decoding: Decoding,
    progress: Progress,
    label: str,
) -> Verdicts:
    """Verdicts on what a model answers with the weights that it has now; no answer is kept."""
    evaluator = Evaluator(model, judge, decoding, chat, None, progress)
    return Verdicts(tuple(evaluator.judged(prompts, Setting(ALONE), label).verdicts))


def own_answers(
    model: LoadedModel,
    prompts: PromptSet,
    judge: Judge,
    chat: ChatFormat,
    decoding: Decoding,
    progress: Progress,
    label: str,
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Token ids of prompts and of a model's answers to them; empty answers are left out."""
    evaluator = Evaluator(model, judge, decoding, chat, None, progress)
    answers = evaluator.completions(prompts, Setting(ALONE), label)
    encoded = evaluator.encoded(prompts)
    return [pair for pair in zip(encoded, answers, strict=True) if pair[1]]
