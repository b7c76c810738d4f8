"""Answers in a run folder: what neurons were found on, and test prompts with verdicts."""

from __future__ import annotations

from safety_neurons.runs.record import Record

COMPLETIONS = "completions.jsonl"
HARMLESS_COMPLETIONS = "completions-harmless.jsonl"
SAMPLES = "samples.jsonl"


class CompletionRow(Record):
    """A prompt that units were found on, with the answers of the models that gave one."""

    id: str
    prompt: str
    aligned: str | None = None
    unaligned: str | None = None


class SampleAnswer(Record):
    """One answer and its verdict."""

    response: str
    verdict: str


class SampleRow(Record):
    """A test prompt with the answers under each setting.

    Args:
        kind: `harmful` or `harmless`.
        answers: by setting.
    """

    id: str
    kind: str
    category: str | None = None
    prompt: str
    answers: dict[str, SampleAnswer]
