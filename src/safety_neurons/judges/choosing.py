"""From what a user names to a judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_neurons.errors import UserError
from safety_neurons.judges.base import Judge
from safety_neurons.judges.classifier import FILE, RefusalJudge
from safety_neurons.registry import JUDGES


def judge_of(judge: Judge | str) -> Judge:
    """A judge by its name, or that of a folder which `train-judge` made.

    Returns:
        The judge; one that is given is returned as it is.

    Raises:
        UserError: if nothing is called that.
    """
    if not isinstance(judge, str):
        return judge
    if judge not in JUDGES.names() and (Path(judge) / FILE).is_file():
        return RefusalJudge.load(judge)
    return JUDGES.get(judge)


def judges_of(judge: Judge | str | Sequence[Judge | str]) -> list[Judge]:
    """One judge or several, as `judge_of` finds them.

    Returns:
        At least one, in order.

    Raises:
        UserError: if there is none, or one stands twice.
    """
    if isinstance(judge, str) or not isinstance(judge, Sequence):
        judge = [judge]
    judges = [judge_of(each) for each in judge]
    names = [each.name for each in judges]
    if not names:
        raise UserError("Name a judge.")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"The judge '{name}' is named twice; name it once.")
    return judges
