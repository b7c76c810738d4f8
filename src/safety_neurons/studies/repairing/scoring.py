"""What a changed model does: quick figures for all changes, answers for few."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import ALONE
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, Setting, answer, encode_prompts, log_likelihoods
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

    @property
    def parts(self) -> tuple[TaskRows, TaskRows, TaskRows]:
        """By use."""
        return self.fit, self.select, self.claim

    @classmethod
    def of_file(cls, file: str | Path, seed: int = 0) -> RepairTask:
        """Rows with `prompt` and `completion`, each once, in an order drawn with `seed`.

        A quarter of them is fitted on, a quarter chosen on, half is claimed on.

        Raises:
            UserError: if a row lacks one of the two, or the file has too few rows.
        """  # noqa: DOC201
        rows = list(read_rows(file))
        for column in ("prompt", "completion"):
            require_columns(rows, str(file), [(column, "--task")])
            for i, row in enumerate(rows, start=1):
                if not isinstance(row[column], str) or not row[column].strip():
                    raise UserError(
                        f"Row {i} of '{file}' has no text in '{column}'; give each row a prompt "
                        "and the answer that the fine-tune learned."
                    )
        found = list(dict.fromkeys((row["prompt"], row["completion"]) for row in rows))
        if len(found) < LEAST_ROWS:
            raise UserError(
                f"'{file}' has {len(found)} different rows, and {LEAST_ROWS} are needed to choose "
                "on some and to claim on others; give more rows of the task that were held out."
            )
        random.Random(seed).shuffle(found)
        prompts = tuple(Prompt(str(i), prompt) for i, (prompt, _) in enumerate(found))
        whole = TaskRows(PromptSet(Path(file).name, prompts), tuple(text for _, text in found))
        quarter = len(found) // 4
        return cls(
            whole.part(0, quarter),
            whole.part(quarter, 2 * quarter),
            whole.part(2 * quarter, len(found)),
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

        def odds(prompts: PromptSet) -> float:
            found = self.openings.weigh(
                model, prompts.limited(QUICK), self.chat, self.decoding, Silent(), "Openings"
            )
            return sum(found) / len(found)

        return Weighed(
            harmful=odds(self.harmful),
            harmless=odds(self.harmless),
            task_loss=loss_of(task_nats(model, self.task, self.chat, self.decoding)),
        )


def rows_of(
    model: LoadedModel, rows: TaskRows, chat: ChatFormat, decoding: Decoding
) -> list[tuple[list[int], list[int]]]:
    """Token ids of the rows; an answer has no end token, which templates write each their way.

    Raises:
        UserError: naming a row that is longer than the model can read.
    """  # noqa: DOC201
    prompts = encode_prompts(model, rows.prompts, decoding, chat)
    answers = [
        list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in rows.completions
    ]
    room = model.context_length
    for prompt, given, said in zip(prompts, answers, rows.completions, strict=True):
        if len(prompt) + len(given) > room:
            raise UserError(
                f"A row of the task has {len(prompt) + len(given)} tokens, and the model reads "
                f"{room} ('{said[:40]} …'); leave it out."
            )
    return list(zip(prompts, answers, strict=True))


@torch.no_grad()
def task_nats(
    model: LoadedModel, rows: TaskRows, chat: ChatFormat, decoding: Decoding
) -> Float[Tensor, "2 row"]:
    """Of each row's answer: its negative log-likelihood in nats, and how many tokens it has."""
    encoded = rows_of(model, rows, chat, decoding)
    found = torch.zeros(2, len(encoded), dtype=torch.float64)
    for batch in decoding.batches([prompt for prompt, _ in encoded], settings=2):
        nats, counts = log_likelihoods(
            model, ALONE, [encoded[i][0] for i in batch], [[encoded[i][1]] for i in batch]
        )
        found[0, batch] = -nats[:, 0].double().cpu()
        found[1, batch] = counts[:, 0].double().cpu()
    return found


def loss_of(nats: Float[Tensor, "2 row"]) -> float:
    """Nats per token of all rows together."""
    return float(nats[0].sum() / nats[1].sum())


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
    chat: ChatFormat,
    decoding: Decoding,
    progress: Progress,
    label: str,
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Token ids of prompts and of a model's answers to them; empty answers are left out."""
    encoded = encode_prompts(model, prompts, decoding, chat)
    answers = answer(model, encoded, [Setting(ALONE)], decoding, progress=progress, label=label)[0]
    return [pair for pair in zip(encoded, answers, strict=True) if pair[1]]
