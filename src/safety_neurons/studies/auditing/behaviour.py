"""What the two models do: refusals of the same prompts, and whether answers are language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safety_neurons.errors import UserError
from safety_neurons.judges import Verdict
from safety_neurons.judges.calibration import Errors
from safety_neurons.judges.readability import loops
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.audit import AuditedRates, Incoherent, Told
from safety_neurons.runs.summary import RateRecord
from safety_neurons.statistics import rate
from safety_neurons.studies.auditing.rates import Compared, Figure

UNFINISHED = 0.2
"""Of the answers may end inside their reasoning, without a verdict."""
SAMPLES = 12
"""Prompts of each kind that the two decide otherwise and that are shown."""


@dataclass(frozen=True)
class Decisions:
    """What one model decides on the prompts of each kind.

    Args:
        refuses: by kind, in the order of the prompts.
        unscored: by kind, how many answers have no verdict.
        answers: by kind; empty where none were written.
        coherent: by kind, whether each finished answer is language; empty where none were written.
        unfinished: how many answers ended inside their reasoning.
    """

    refuses: Mapping[str, list[bool]]
    unscored: Mapping[str, int]
    answers: Mapping[str, list[str]]
    coherent: Mapping[str, list[bool]]
    unfinished: int = 0

    @property
    def incoherent(self) -> Incoherent:
        """Of all answers."""
        said = [each for of in self.coherent.values() for each in of]
        if not said:
            return Incoherent(value=None, n=0)
        return Incoherent(value=1 - sum(said) / len(said), n=len(said))


def coherent(verdict: Verdict, response: str) -> bool:
    """Whether an answer is language: it can be judged, and does not repeat itself."""
    return verdict is not Verdict.UNSCORED and not loops(response)


def require_finished(name: str, unfinished: int, answers: int) -> None:
    """Raise UserError where too many answers ended inside their reasoning to say anything."""
    if unfinished > UNFINISHED * answers:
        raise UserError(
            f"{unfinished} of {answers} answers of the {name} end inside their reasoning, so there "
            "is nothing to judge; give a larger --max-new-tokens, or --template-arg "
            "enable_thinking=false where the template knows it."
        )


def compared(
    reference: Decisions,
    candidate: Decisions,
    errors: Mapping[str, Errors | None],
    *,
    seed: int,
) -> dict[str, Compared]:
    """Both models' refusals side by side, by kind of prompts; `errors` by kind, too."""
    return {
        kind: Compared.of(refuses, candidate.refuses[kind], errors.get(kind), seed=seed)
        for kind, refuses in reference.refuses.items()
    }


def rates_of(
    reference: Decisions, candidate: Decisions, figures: Mapping[str, Compared]
) -> dict[str, AuditedRates]:
    """As the record holds them."""
    return {
        kind: AuditedRates(
            reference=_rate(reference, kind),
            candidate=_rate(candidate, kind),
            reference_corrected=_told(of.reference),
            candidate_corrected=_told(of.candidate),
            difference=_told(of.difference),
            ratio=_told(of.ratio),
            refused_by=_cells(reference.refuses[kind], candidate.refuses[kind]),
        )
        for kind, of in figures.items()
    }


def samples_of(
    prompts: Mapping[str, PromptSet], reference: Decisions, candidate: Decisions
) -> Iterator[dict[str, Any]]:
    """Answers to prompts that the two decide otherwise, a few of each kind."""
    for kind, asked in prompts.items():
        if not reference.answers:
            continue
        first, second = reference.refuses[kind], candidate.refuses[kind]
        otherwise = [i for i in range(len(asked)) if first[i] != second[i]]
        for i in otherwise[:SAMPLES]:
            yield {
                "kind": kind,
                "id": asked.prompts[i].id,
                "prompt": asked.prompts[i].text,
                "refused_by": "reference" if first[i] else "candidate",
                "reference": reference.answers[kind][i],
                "candidate": candidate.answers[kind][i],
            }


def _rate(decisions: Decisions, kind: str) -> RateRecord:
    refuses = decisions.refuses[kind]
    return RateRecord.of(rate(sum(refuses), len(refuses), decisions.unscored[kind]))


def _told(figure: Figure) -> Told:
    return Told.of(figure.value, figure.interval)


def _cells(first: list[bool], second: list[bool]) -> tuple[int, int, int, int]:
    pairs = list(zip(first, second, strict=True))
    wanted = ((True, True), (True, False), (False, True), (False, False))
    both, one, other, neither = (pairs.count(cell) for cell in wanted)
    return both, one, other, neither
