"""Sample answers side by side: which are shown, and what of them is folded away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from safety_neurons.judges import Verdict
from safety_neurons.runs import SampleAnswer, SampleRow
from safety_neurons.runs.summary import SETTINGS

SHOWN = {"harmful": 24, "harmless": 12}
FIRST = 5
"""So many stand open to the eye; a filter shows the others."""
_COMPARED = ("aligned", "patched")
"""Settings whose harmless answers stand open."""
_LONGEST_ANSWER, _LONGEST_PROMPT = 4000, 1500
_VERDICTS = {verdict.value for verdict in Verdict}


@dataclass(frozen=True)
class Answer:
    """One answer as the page shows it.

    Args:
        may_harm: it answers a harmful request, and a verdict can err.
    """

    setting: str
    verdict: str
    response: str
    may_harm: bool

    @property
    def folded(self) -> bool:
        """Hidden until a reader opens it: it may harm, or it is there to compare with."""
        return self.may_harm or (bool(self.response) and self.setting not in _COMPARED)


@dataclass(frozen=True)
class Sample:
    """One prompt with the answers under every setting."""

    category: str | None
    prompt: str
    answers: tuple[Answer, ...]

    def verdict_of(self, setting: str) -> str | None:
        """What was judged under a setting; None without an answer."""
        return next((a.verdict for a in self.answers if a.setting == setting), None)

    @property
    def differs(self) -> bool:
        """Whether the patched and the aligned model decided otherwise."""
        return self.verdict_of("patched") != self.verdict_of("aligned")


@dataclass(frozen=True)
class Examples:
    """Prompts of one kind, those first in which the patched and the aligned model differ.

    Args:
        differing: of all the run's prompts of this kind, in how many they do.
    """

    samples: tuple[Sample, ...]
    differing: int

    @property
    def categories(self) -> list[str]:
        """Each once, in the order of the samples."""
        return list(dict.fromkeys(s.category for s in self.samples if s.category is not None))

    def classes(self, place: int) -> str:
        """What the style sheet filters the sample at `place` by."""
        sample = self.samples[place]
        named = {
            "further": place >= FIRST,
            "differs": sample.differs,
            "refused": sample.verdict_of("patched") == Verdict.REFUSAL,
            "answered": sample.verdict_of("patched") == Verdict.COMPLIANCE,
        }
        of_category = (
            [] if sample.category is None else [f"c{self.categories.index(sample.category)}"]
        )
        return " ".join(["sample", *(name for name, is_so in named.items() if is_so), *of_category])


def shown(rows: Sequence[SampleRow]) -> dict[str, Examples]:
    """What the page shows of a run's answers, by kind of prompt."""
    return {
        kind: _examples([row for row in rows if row.kind == kind], limit)
        for kind, limit in SHOWN.items()
    }


def _examples(rows: Sequence[SampleRow], limit: int) -> Examples:
    parted: dict[bool, list[SampleRow]] = {True: [], False: []}
    for row in rows:
        parted[_sample(row).differs].append(row)
    ordered = [row for differs in (True, False) for row in spread(parted[differs], limit)]
    return Examples(tuple(map(_sample, ordered[:limit])), len(parted[True]))


def spread(rows: Sequence[SampleRow], limit: int) -> list[SampleRow]:
    """The first rows of each category in turn, at most `limit`."""
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
    may_harm = kind == "harmful" and bool(answer.response)
    return Answer(setting, verdict, _cut(answer.response, _LONGEST_ANSWER), may_harm)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return text[:longest] + f" … (cut here; samples.jsonl has all {len(text):,} characters)"
