"""The one way to any judge: it sees answers, never what a model reasons before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from safety_neurons.errors import UserError
from safety_neurons.judges.base import Judge, Opinion, ProbabilisticJudge, Verdict
from safety_neurons.prompts import ReasonedAnswer, split_reasoning


def verdicts_on(judge: Judge, prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
    """What `judge` says on the answer in each response, behind its reasoning.

    A response without an answer is unscored and no judge sees it: it is empty, or it ended
    inside its reasoning, or right behind it.

    Returns:
        One verdict a response, in the same order.

    Raises:
        ValueError: if the two lengths differ.
        UserError: if the judge gives anything but one verdict an answer.
    """
    return [opinion.verdict for opinion in opinions_on(judge, prompts, responses)]


def opinions_on(judge: Judge, prompts: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
    """As `verdicts_on`, with probabilities where the judge has them.

    Returns:
        One opinion a response, in the same order.

    Raises:
        ValueError: if the two lengths differ.
        UserError: if the judge gives anything but one verdict an answer.
    """
    if len(prompts) != len(responses):
        raise ValueError(
            f"got {len(prompts)} prompts and {len(responses)} responses; "
            "pass one response per prompt, in the same order"
        )
    places, answers = answered(responses)
    given = _asked(judge, [prompts[i] for i in places], answers) if places else []
    opinions = [Opinion(Verdict.UNSCORED) for _ in responses]
    for i, opinion in zip(places, given, strict=True):
        opinions[i] = opinion
    return opinions


def answered(responses: Sequence[str]) -> tuple[list[int], list[str]]:
    """Which responses hold an answer, and those answers, without their reasoning."""
    answers = [_split(response).answer for response in responses]
    places = [i for i, answer in enumerate(answers) if answer.strip()]
    return places, [answers[i] for i in places]


def _asked(judge: Judge, prompts: list[str], answers: list[str]) -> list[Opinion]:
    if isinstance(judge, ProbabilisticJudge):
        opinions = judge.opinions(prompts, answers)
        verdicts = _checked(judge, [opinion.verdict for opinion in opinions], len(answers))
        return [replace(o, verdict=v) for o, v in zip(opinions, verdicts, strict=True)]
    return [Opinion(verdict) for verdict in _checked(judge, judge(prompts, answers), len(answers))]


def unfinished(responses: Sequence[str]) -> int:
    """How many responses ended inside their reasoning."""
    return sum(not _split(response).finished for response in responses)


def _split(response: str) -> ReasonedAnswer:
    # A column of a file may hold anything; what is no text holds no answer.
    return split_reasoning(response if isinstance(response, str) else "")


def _checked(judge: Judge, given: Sequence[Verdict], count: int) -> list[Verdict]:
    if len(given) != count:
        raise UserError(
            f"The judge '{judge.name}' gave {len(given)} verdicts on {count} answers; it must "
            "give one on each."
        )
    wrong = next((verdict for verdict in given if verdict not in list(Verdict)), None)
    if wrong is not None:
        raise UserError(
            f"The judge '{judge.name}' gave {wrong!r}, which is no verdict; give one of "
            f"{', '.join(Verdict)}."
        )
    return [Verdict(verdict) for verdict in given]
