"""From what a user names to judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safety_neurons import defaults
from safety_neurons.errors import UserError
from safety_neurons.judges.base import Judge
from safety_neurons.judges.classifier import FILE, RefusalJudge
from safety_neurons.judges.harm import HarmJudge
from safety_neurons.registry import HARM_JUDGES, JUDGES


@dataclass(frozen=True)
class Judges:
    """The judges of some answers.

    Args:
        refusal: of refusals, at least one; the first makes the figures.
        harm: of harm; what they say is never a verdict.
    """

    refusal: tuple[Judge, ...]
    harm: tuple[HarmJudge, ...] = ()

    @property
    def first(self) -> Judge:
        """Whose verdicts the figures are made of."""
        return self.refusal[0]

    @property
    def others(self) -> tuple[Judge, ...]:
        """Those that are compared with the first."""
        return self.refusal[1:]


def judge_of(judge: Judge | str) -> Judge:
    """A judge of refusals by its name, or that of a folder which `train-judge` made.

    Returns:
        The judge; one that is given is returned as it is.

    Raises:
        UserError: if nothing is called that, or it judges harm.
    """
    found = _found(judge)
    if isinstance(found, HarmJudge):
        raise UserError(
            f"'{judge}' judges harm, not refusals; give one of {', '.join(JUDGES.names())}."
        )
    return found


def judges_of(named: Judge | HarmJudge | str | Sequence[Judge | HarmJudge | str]) -> Judges:
    """One judge or several, of refusals and of harm.

    Returns:
        Both kinds, each in order; the default judge of refusals where none is named.

    Raises:
        UserError: if nothing is called that, or one stands twice.
    """
    if isinstance(named, str) or not isinstance(named, Sequence):
        named = [named]
    found = [_found(each) for each in named]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"The judge '{name}' is named twice; name it once.")
    harm = tuple(each for each in found if isinstance(each, HarmJudge))
    refusal = tuple(each for each in found if not isinstance(each, HarmJudge))
    return Judges(refusal or (judge_of(defaults.JUDGE),), harm)


def _found(judge: Judge | HarmJudge | str) -> Judge | HarmJudge:
    if not isinstance(judge, str):
        return judge
    if judge in JUDGES.names():
        return JUDGES.get(judge)
    if judge in HARM_JUDGES.names():
        return HARM_JUDGES.get(judge)
    if (Path(judge) / FILE).is_file():
        return RefusalJudge.load(judge)
    known = ", ".join((*JUDGES.names(), *HARM_JUDGES.names()))
    raise UserError(
        f"'{judge}' is no judge; give one of {known}, or a folder that train-judge made."
    )
