"""What a candidate lost or kept of a reference's safety: what `audit.json` holds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field

from safety_neurons.runs.record import BoundedRecord, Record
from safety_neurons.runs.summary import RateRecord
from safety_neurons.statistics import Interval

AUDIT = "audit.json"
HARMFUL, HARMLESS, BORDERLINE = "harmful", "harmless", "borderline"
KINDS = (HARMFUL, HARMLESS, BORDERLINE)


class AuditVerdict(StrEnum):
    """What an audit concludes; `studies.auditing.verdict` has the rules."""

    BROKEN = "broken"
    LOST = "lost"
    ERODED = "eroded"
    OVER_REFUSING = "over-refusing"
    INTACT = "intact"
    UNTOLD = "cannot be told"


class Told(BoundedRecord):
    """A figure with its 95 % interval."""

    value: float | None

    @classmethod
    def of(cls, value: float | None, bounds: Interval | None) -> Self:
        """A measured figure as a record."""
        low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
        return cls(value=value, ci_low=low, ci_high=high)


class AuditedRates(Record):
    """Refusals of one kind of prompts.

    Args:
        reference, candidate: as the judge counted them, with Wilson's interval.
        reference_corrected, candidate_corrected, difference, ratio: as a judge without errors would
            count, as far as its errors are known; the difference and the ratio are the candidate's
            to the reference's, over the same prompts.
        refused_by: prompts that both refuse, the reference alone, the candidate alone, neither.
    """

    reference: RateRecord
    candidate: RateRecord
    reference_corrected: Told
    candidate_corrected: Told
    difference: Told
    ratio: Told
    refused_by: tuple[int, int, int, int]


class Incoherent(Record):
    """Answers of one model that are no language: empty, unreadable, or repeating themselves.

    Args:
        value: as a part of all answers; None where none were read.
    """

    value: float | None
    n: int


class DriftFigure(Record):
    """How far some units moved, beside random ones of the same layers.

    Args:
        k: units.
        function: the root of the sum of squares by which what the units write into the residual
            stream changes, as a part of what they wrote; activation times the norm of the
            effective down column.
        weights: the same of their effective weights; None, as `function`, where they were nothing.
        random, random_high: mean and 95th percentile of random sets for `function`; None where no
            such set exists.
        random_weights, random_weights_high: the same for `weights`.
        p, p_weights: how often a random set moves as far.
    """

    k: int
    function: float | None
    weights: float | None
    random: float | None = None
    random_high: float | None = None
    p: float | None = None
    random_weights: float | None = None
    random_weights_high: float | None = None
    p_weights: float | None = None


class LayerDrift(DriftFigure):
    """The same of the set's units in one layer."""

    layer: int


class Drift(Record):
    """How far the safety neurons moved.

    Args:
        units: what the set is: where it comes from, and how many.
        positions: tokens at which activations were compared, and which these are.
        whole: of the whole set.
        by_layer: where the set has units.
        by_stage: where an explanation says what they do.
        random_sets: how many were drawn.
    """

    noun: str = "neurons"
    units: dict[str, Any]
    positions: int
    at: str
    whole: DriftFigure
    by_layer: list[LayerDrift]
    by_stage: dict[str, DriftFigure] = Field(default_factory=dict)
    random_sets: int


class Rule(Record):
    """One rule of the verdict.

    Args:
        holds: whether it is met; None where its figure cannot be told.
        says: the rule, with the figures put in.
    """

    verdict: AuditVerdict
    holds: bool | None
    says: str


class FastFigures(Record):
    """What stood in for answers.

    Args:
        openings: how many of refusals, from the run's answers.
        auroc: how well their log-odds told the run's refusals from its other answers.
        threshold: the log-odds from which on a prompt counts as refused.
        agreement: with whole audits, where it was measured.
    """

    openings: int
    auroc: float
    threshold: float
    agreement: str


class AuditCard(Record):
    """What `audit.json` holds.

    Args:
        reference, candidate: as manifests describe models.
        reasons: what decided, and what else failed; sentences.
        rules: all of them, the first that holds decides.
        failed: whether the exit code says so.
        fail_under: the least ratio that was asked for, None without.
        rates: by kind of prompts.
        incoherent: by model.
        n: prompts by kind.
        needed: prompts of each kind that would tell, where it cannot be told.
        judge_errors: sensitivity and specificity that were carried through; None where unknown.
        notes: what differs between the two, and what was not measured.
        samples: answers to prompts that the two decide otherwise.
        refuses: by kind and model, in the order of the prompts, for other analyses.
    """

    format: Literal["safety-neurons/audit/1"] = "safety-neurons/audit/1"
    verdict: AuditVerdict
    reasons: list[str]
    rules: list[Rule]
    failed: bool
    fail_under: float | None = None
    reference: dict[str, Any]
    candidate: dict[str, Any]
    rates: dict[str, AuditedRates]
    incoherent: dict[str, Incoherent] = Field(default_factory=dict)
    drift: Drift | None = None
    n: dict[str, int]
    needed: int | None = None
    judge: str
    judge_errors: dict[str, Any] | None = None
    fast: FastFigures | None = None
    notes: list[str] = Field(default_factory=list)
    samples: list[dict[str, Any]] = Field(default_factory=list)
    refuses: dict[str, dict[str, list[bool]]] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    command: str | None = None
    seconds: float = 0.0
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 intact, 1 failed, 3 cannot be told."""
        if self.failed:
            return 1
        return 3 if self.verdict is AuditVerdict.UNTOLD else 0
