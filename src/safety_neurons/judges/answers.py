"""The one way to any judge: it sees answers, never what a model reasons before them."""

from __future__ import annotations

from collections.abc import Sequence

from safety_neurons.errors import UserError
from safety_neurons.judges.base import Judge, Verdict
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
    if len(prompts) != len(responses):
        raise ValueError(
            f"got {len(prompts)} prompts and {len(responses)} responses; "
            "pass one response per prompt, in the same order"
        )
    answers = [_split(response).answer for response in responses]
    answered = [i for i, answer in enumerate(answers) if answer.strip()]
    given = (
        judge([prompts[i] for i in answered], [answers[i] for i in answered]) if answered else []
    )
    verdicts = [Verdict.UNSCORED for _ in responses]
    for i, verdict in zip(answered, _checked(judge, given, len(answered)), strict=True):
        verdicts[i] = verdict
    return verdicts


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
