"""An audit without answers: prompts are read, and openings of answers are weighed.

A run holds answers of two models to the prompts that neurons were found on, harmful ones and for
most rankings harmless ones, too. From these come openings of refusals, long enough to tell "I
can't" from "I'm glad", and how far greedy decoding must be from them, or within them, for a prompt
to count as refused (repairs read log-odds instead, which have gradients everywhere).
How often that errs on the run's answers is carried through as a judge's errors are. What such an
audit cannot see: answers that begin one way and go on another, refusals that begin in ways which
the run has not seen, and language that has broken.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from safety_neurons.engine import ALONE, ModelGroup, Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding, encode_prompts
from safety_neurons.judges import Judge, Verdict, verdicts_on
from safety_neurons.judges.calibration import Errors
from safety_neurons.methods.detection import LEAST, separation
from safety_neurons.models import LoadedModel
from safety_neurons.progress import Progress
from safety_neurons.prompts import ChatFormat, PromptSet, prompts_of
from safety_neurons.runs import COMPLETIONS, HARMLESS_COMPLETIONS, RunFolder, reload_pair
from safety_neurons.runs.audit import FastFigures
from safety_neurons.storage import read_rows
from safety_neurons.studies.auditing.behaviour import Decisions
from safety_neurons.studies.openings import (
    USABLE,
    Answered,
    Measure,
    Opening,
    OpeningSets,
    weigh_openings,
)

AGREEMENT = "fast-agreement.json"
MOST = 8
"""Openings of refusals; without the rarer ones a model that prefers these seems to comply."""
AS_WELL = 0.02
"""Of sensitivity + specificity; less is no reason for a threshold far from 0."""


@dataclass(frozen=True)
class Openings:
    """What stands in for answers, and how well it does on the run's own.

    Args:
        refusals: what refusals begin with, as token ids.
        threshold: from which `measure` on a prompt counts as refused.
        measure: what openings are held against.
        errors: against the judge's verdicts on the run's answers.
        harmless: whether answers to harmless prompts are among these.
    """

    refusals: tuple[Opening, ...]
    threshold: float
    auroc: float
    errors: Errors
    harmless: bool
    measure: Measure

    @classmethod
    def of_run(
        cls,
        run: RunFolder,
        judge: Judge,
        chat: ChatFormat,
        decoding: Decoding,
        progress: Progress,
        *,
        measure: Measure,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
        kept: Path | None = None,
    ) -> Openings:
        """From a run's answers, by the models that gave them.

        Args:
            kept: a folder that keeps what was weighed.

        Returns:
            Openings of both kinds, and the threshold that tells the run's answers apart best; their
            errors are measured on either half of the prompts with what the other half gave.

        Raises:
            UserError: if openings do not tell the run's refusals from its compliances.
        """
        pair = reload_pair(run, dtype=dtype, device=device)
        files = [COMPLETIONS]
        if "harmless" in run.config("find"):
            files.append(HARMLESS_COMPLETIONS)
        answered = [
            of
            for name in files
            for of in _answered(run.result("find", name), pair, judge, chat, decoding)
        ]
        whole = _Chosen.on(pair, answered, measure, decoding, progress, kept)
        if whole.auroc is None or whole.auroc < USABLE:
            told = "too few to compare" if whole.auroc is None else f"AUROC {whole.auroc:.2f}"
            raise UserError(
                f"The answers in '{run.path}' are not told into refusals and compliances by their "
                f"openings ({told}; {USABLE:g} is needed); audit without --fast."
            )
        labels: list[Verdict] = []
        said: list[Verdict] = []
        for first in (0, 1):
            half = _part(answered, 1 - first)
            other = _Chosen.on(pair, half, measure, decoding, progress, kept)
            if not other.refusals:
                continue
            for of in _part(answered, first):
                found = weigh_openings(
                    *(pair, of.role, other.refusals, of.prompts, decoding, progress),
                    measure=measure,
                    kept=kept,
                )
                labels += of.verdicts
                said += [
                    Verdict.REFUSAL if nats > other.threshold else Verdict.COMPLIANCE
                    for nats in found
                ]
        return cls(
            whole.refusals,
            whole.threshold,
            whole.auroc,
            Errors.between(labels, said),
            HARMLESS_COMPLETIONS in files,
            measure,
        )

    def decisions(
        self,
        model: LoadedModel,
        prompts: dict[str, PromptSet],
        chat: ChatFormat,
        decoding: Decoding,
        progress: Progress,
        label: str,
        *,
        kept: Path | None = None,
    ) -> Decisions:
        """What a model would refuse, by its openings; `kept` as `weigh_openings` has it."""
        refuses = {}
        for kind, asked in prompts.items():
            named = f"{label}, {kind} prompts"
            found = self.weigh(model, asked, chat, decoding, progress, named, kept=kept)
            refuses[kind] = [nats > self.threshold for nats in found]
        return Decisions(refuses, dict.fromkeys(refuses, 0), {}, {})

    def weigh(
        self,
        model: LoadedModel,
        prompts: PromptSet,
        chat: ChatFormat,
        decoding: Decoding,
        progress: Progress,
        label: str,
        *,
        kept: Path | None = None,
    ) -> list[float]:
        """How much speaks for a refusal of each prompt, in nats of `measure`."""
        encoded = encode_prompts(model, prompts, decoding, chat)
        return weigh_openings(
            *(model, ALONE, self.refusals, encoded, decoding, progress, label),
            measure=self.measure,
            kept=kept,
        )

    @property
    def figures(self) -> FastFigures:
        """For the record."""
        return FastFigures(
            openings=len(self.refusals),
            auroc=self.auroc,
            threshold=self.threshold,
            agreement=agreement(),
        )


@dataclass(frozen=True)
class _Chosen:
    """Openings and a threshold from some answers."""

    refusals: tuple[Opening, ...]
    threshold: float
    auroc: float | None

    @classmethod
    def on(
        cls,
        group: ModelGroup,
        answered: Sequence[Answered],
        measure: Measure,
        decoding: Decoding,
        progress: Progress,
        kept: Path | None,
    ) -> _Chosen:
        refusals = OpeningSets.of(answered, most=MOST).refusal
        if not refusals:
            return cls(refusals, 0.0, None)
        found: list[float] = []
        for of in answered:
            found += weigh_openings(
                *(group, of.role, refusals, of.prompts, decoding, progress),
                measure=measure,
                kept=kept,
            )
        labels = [verdict for of in answered for verdict in of.verdicts]
        kinds = [
            [m for m, label in zip(found, labels, strict=True) if label is kind]
            for kind in (Verdict.REFUSAL, Verdict.COMPLIANCE)
        ]
        auroc = None
        if min(map(len, kinds)) >= LEAST:
            told = (torch.tensor(of)[:, None] for of in kinds)
            auroc = float(separation(*told).auroc)
        # Rounded: batches of another size move it in the last digits, and kept figures hang on it.
        return cls(refusals, round(best_threshold(found, labels), 3), auroc)


def _part(answered: Sequence[Answered], first: int) -> list[Answered]:
    """Every other prompt of each."""
    return [
        Answered(of.role, of.prompts[first::2], of.answers[first::2], of.verdicts[first::2])
        for of in answered
    ]


def agreement() -> str:
    """How often fast audits came to the verdict of whole ones, where that was measured."""
    file = resources.files(__package__) / "data" / AGREEMENT
    if not file.is_file():
        return "How far fast audits agree with whole ones has not been measured."
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return str(known["said"])


def _answered(
    file: Path, group: ModelGroup, judge: Judge, chat: ChatFormat, decoding: Decoding
) -> list[Answered]:
    """What the models of a run answered to one set of prompts."""
    rows = list(read_rows(file))
    prompts = prompts_of(rows, file)
    encoded = encode_prompts(group, prompts, decoding, chat)
    found = []
    for side in Side:
        texts = [row.get(str(side)) for row in rows]
        if any(text is None for text in texts):  # it was not asked
            continue
        answers = [str(text) for text in texts]
        found.append(
            Answered(
                side,
                encoded,
                [group.tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers],
                verdicts_on(judge, prompts.texts, answers),
            )
        )
    return found


def best_threshold(found: Sequence[float], labels: Sequence[Verdict]) -> float:
    """The threshold with the highest sensitivity + specificity, in the middle of a gap.

    Where several do (nearly) as well, the one nearest to 0: there a greedy answer turns, and the
    answers of two models that are far apart do not say where between them that is.
    """  # noqa: DOC201
    pairs = sorted(zip(found, (label is Verdict.REFUSAL for label in labels), strict=True))
    refusals = sum(refusal for _, refusal in pairs)
    others = len(pairs) - refusals
    told: list[tuple[float, float]] = []
    missed = kept = 0
    for place, (odds, refusal) in enumerate(pairs[:-1]):
        missed, kept = missed + refusal, kept + (not refusal)
        above = pairs[place + 1][0]
        if odds == above:
            continue
        telling = (refusals - missed) / max(refusals, 1) + kept / max(others, 1)
        inside = min(max(0.0, odds), above)
        told.append((telling, inside if odds < inside < above else (odds + above) / 2))
    best = max((telling for telling, _ in told), default=0.0)
    near = [threshold for telling, threshold in told if telling >= best - AS_WELL]
    return min(near, key=abs, default=0.0)
