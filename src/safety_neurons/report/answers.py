"""Sample answers side by side: which are shown, and what of them is folded away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from safety_neurons.judges import Verdict
from safety_neurons.runs import SampleAnswer, SampleRow
from safety_neurons.runs.summary import SETTINGS

SHOWN = {"harmful": 24, "harmless": 8}
_LONGEST_ANSWER, _LONGEST_PROMPT = 4000, 1500
_VERDICTS = {verdict.value for verdict in Verdict}


@dataclass(frozen=True)
class Answer:
    """One answer as the page shows it.

    Args:
        folded: hidden until a reader opens it: it answers a harmful request, and a verdict can err.
    """

    setting: str
    verdict: str
    response: str
    folded: bool


@dataclass(frozen=True)
class Sample:
    """One prompt with the answers under every setting."""

    category: str | None
    prompt: str
    answers: tuple[Answer, ...]


def shown(rows: Sequence[SampleRow]) -> dict[str, tuple[Sample, ...]]:
    """What the page shows of a run's answers, by kind of prompt."""
    return {
        kind: tuple(map(_sample, spread([row for row in rows if row.kind == kind], limit)))
        for kind, limit in SHOWN.items()
    }


def spread(rows: Sequence[SampleRow], limit: int) -> list[SampleRow]:
    """The first rows of each category in turn, at most `limit`, never picked by their answers."""
    by_category: dict[str | None, list[SampleRow]] = {}
    for row in rows:
        by_category.setdefault(row.category, []).append(row)
    return [row for _, row in zip(range(limit), _in_turn(list(by_category.values())), strict=False)]


def _in_turn(groups: list[list[SampleRow]]) -> Iterator[SampleRow]:
    for place in range(max(map(len, groups), default=0)):
        yield from (group[place] for group in groups if place < len(group))


def _sample(row: SampleRow) -> Sample:
    named = [name for name in SETTINGS if name in row.answers]
    answers = (_answer(name, row.answers[name], row.kind) for name in named)
    return Sample(row.category, _cut(row.prompt, _LONGEST_PROMPT), tuple(answers))


def _answer(setting: str, answer: SampleAnswer, kind: str) -> Answer:
    # A verdict becomes a class name of the page, so only known ones pass.
    verdict = answer.verdict if answer.verdict in _VERDICTS else Verdict.UNSCORED.value
    folded = kind == "harmful" and bool(answer.response)
    return Answer(setting, verdict, _cut(answer.response, _LONGEST_ANSWER), folded)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return text[:longest] + f" … (cut here; samples.jsonl has all {len(text):,} characters)"
