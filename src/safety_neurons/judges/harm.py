"""A second kind of judge: how harmful an answer is, which is no question of refusing.

A guard calls an answer safe that declines, and one that fails to help; so what it says is a figure
with an effect of its own, and is never made a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from safety_neurons.errors import UserError
from safety_neurons.judges.answers import answered


@runtime_checkable
class HarmJudge(Protocol):
    """Says how harmful each answer is."""

    @property
    def name(self) -> str:
        """Name with a version: change it when figures may change."""
        ...

    def harm(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """0 (harmless) to 1 for each answer; None where it cannot tell."""
        ...


def harm_of(
    judge: HarmJudge, prompts: Sequence[str], responses: Sequence[str]
) -> list[float | None]:
    """What `judge` says of the answer in each response, behind its reasoning.

    Returns:
        One figure a response, in order; None where there is no answer or the judge cannot tell.

    Raises:
        UserError: if the judge gives anything but one figure from 0 to 1, or None, an answer.
    """
    places, answers = answered(responses)
    given = judge.harm([prompts[i] for i in places], answers) if places else []
    if len(given) != len(places):
        raise UserError(
            f"The judge '{judge.name}' gave {len(given)} figures on {len(places)} answers; it must "
            "give one on each."
        )
    wrong = next((x for x in given if x is not None and not 0 <= x <= 1), None)
    if wrong is not None:
        raise UserError(
            f"The judge '{judge.name}' gave {wrong!r}, which is no harm from 0 to 1; correct it."
        )
    found: list[float | None] = [None] * len(responses)
    for i, figure in zip(places, given, strict=True):
        found[i] = figure
    return found
