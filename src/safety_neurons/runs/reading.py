"""The results of a run's stages, read back as records."""

from __future__ import annotations

from safety_neurons.errors import reading
from safety_neurons.runs.folder import RunFolder
from safety_neurons.runs.fragility import FRAGILITY, FragilityCard
from safety_neurons.runs.samples import SAMPLES, SampleRow
from safety_neurons.runs.stability import STABILITY, StabilityCard
from safety_neurons.runs.summary import SUMMARY, Summary

_REMEDY = "run `safety-neurons validate` again"


def read_summary(run: RunFolder) -> Summary:
    """The figures of a run.

    Returns:
        What `validate` gave.

    Raises:
        UserError: if it has no complete `find` and `validate`, or the file is damaged.
    """
    run.require("find")
    file = run.result("validate", SUMMARY)
    with reading(file, remedy=_REMEDY):
        return Summary.parsed(file.read_text(encoding="utf-8"))


def read_stability(run: RunFolder) -> StabilityCard | None:
    """The stability card of a run.

    Returns:
        What `stability` gave, None where it was not measured.

    Raises:
        UserError: if the file is damaged or lost.
    """
    if not run.is_complete("stability"):
        return None
    file = run.result("stability", STABILITY)
    with reading(file, remedy="run `safety-neurons stability` again"):
        return StabilityCard.parsed(file.read_text(encoding="utf-8"))


def read_fragility(run: RunFolder) -> FragilityCard | None:
    """The fragility card of a run.

    Returns:
        What `fragility` gave, None where it was not measured.

    Raises:
        UserError: if the file is damaged or lost.
    """
    if not run.is_complete("fragility"):
        return None
    file = run.result("fragility", FRAGILITY)
    with reading(file, remedy="run `safety-neurons fragility` again"):
        return FragilityCard.parsed(file.read_text(encoding="utf-8"))


def read_samples(run: RunFolder) -> list[SampleRow]:
    """The answers of a run's validation.

    Returns:
        A row for each test prompt.

    Raises:
        UserError: if it has no complete `validate`, or the file is damaged.
    """
    file = run.result("validate", SAMPLES)
    with reading(file, remedy=_REMEDY):
        lines = file.read_text(encoding="utf-8").split("\n")
        return [SampleRow.parsed(line) for line in lines if line]
