"""The results of a run's stages, read back as records."""

from __future__ import annotations

from typing import TypeVar

from safety_neurons.errors import reading
from safety_neurons.runs.explanation import EXPLANATION, ExplanationCard
from safety_neurons.runs.folder import RunFolder
from safety_neurons.runs.fragility import FRAGILITY, FragilityCard
from safety_neurons.runs.neuronpages import PAGES, NeuronPages
from safety_neurons.runs.record import Record
from safety_neurons.runs.samples import SAMPLES, SampleRow
from safety_neurons.runs.stability import STABILITY, StabilityCard
from safety_neurons.runs.summary import SUMMARY, Summary

R = TypeVar("R", bound=Record)

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
    return _card(run, "stability", STABILITY, StabilityCard)


def read_fragility(run: RunFolder) -> FragilityCard | None:
    """The fragility card of a run.

    Returns:
        What `fragility` gave, None where it was not measured.

    Raises:
        UserError: if the file is damaged or lost.
    """
    return _card(run, "fragility", FRAGILITY, FragilityCard)


def read_explanation(run: RunFolder) -> ExplanationCard | None:
    """What a run's neurons do.

    Returns:
        What `explain` gave, None where it was not measured.

    Raises:
        UserError: if the file is damaged or lost.
    """
    return _card(run, "explain", EXPLANATION, ExplanationCard)


def read_pages(run: RunFolder) -> NeuronPages | None:
    """The pages of a run's first neurons.

    Returns:
        What `explain` gave, None where there are none.

    Raises:
        UserError: if the file is damaged or lost.
    """
    return _card(run, "explain", PAGES, NeuronPages)


def _card(run: RunFolder, stage: str, name: str, kind: type[R]) -> R | None:
    if not run.is_complete(stage):
        return None
    file = run.result(stage, name)
    with reading(file, remedy=f"run `safety-neurons {stage}` again"):
        return kind.parsed(file.read_text(encoding="utf-8"))


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
