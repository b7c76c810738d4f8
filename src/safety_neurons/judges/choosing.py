"""From what a user names to a judge."""

from __future__ import annotations

from pathlib import Path

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
