"""What was tried to give a fine-tune its safety back, and what came of it: `repair.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from safety_neurons.runs.audit import FastFigures, Told
from safety_neurons.runs.record import Record
from safety_neurons.runs.summary import RateRecord

REPAIR = "repair.json"


class Weighed(Record):
    """One change by what is quick to measure, on the prompts that choices are made on.

    Args:
        harmful, harmless: the mean log-odds, in nats, that an answer begins with a refusal.
        task_loss: nats per token of the task's rows.
    """

    harmful: float
    harmless: float
    task_loss: float


class Tried(Record):
    """One change of the candidate's weights.

    Args:
        kind: `transplant` (of the aligned model's weights, a part of the way), `scales` (fitted),
            or a baseline: `whole update` undone in part, `random` neurons, `all` neurons.
        share: of the neurons that changed; None for the whole update.
        strength: how far to the aligned model's weights.
        k: neurons that changed.
        numbers: weights that changed.
        weighed: quick figures; None where only answers were looked at.
        way: how far the mean log-odds of refusing harmful prompts go from the fine-tune's (0) to
            the aligned model's (1).
        harmful, harmless: refusals in answers on the prompts that choices are made on; None for
            what was no finalist.
        gain_kept: of the fine-tune's gain in the task's loss, on the rows that choices are made on.
    """

    name: str
    kind: str
    share: float | None
    strength: float
    k: int
    numbers: int
    baseline: bool = False
    weighed: Weighed | None = None
    way: float | None = None
    harmful: RateRecord | None = None
    harmless: RateRecord | None = None
    gain_kept: float
    met: bool = False


class Claim(Record):
    """A figure of the chosen change on what played no part in its choice.

    Args:
        says: what was asked for, with the figures put in.
        met: whether the figure meets it.
    """

    says: str
    met: bool


class ChangedTensor(Record):
    """One tensor of the checkpoint of which some slices were changed.

    Args:
        name, file: where it stands.
        axis: along which the slices lie: 1 for columns, 0 for rows.
        before, after: the sha256 of the whole tensor, merged and as written.
    """

    name: str
    file: str
    axis: int
    before: str
    after: str


class RepairedRates(Record):
    """Refusals of one prompt set by all three models.

    Args:
        kept: repaired ÷ reference, of harmful prompts; the rise, repaired − reference, of others.
    """

    prompts: str
    kind: str
    reference: RateRecord
    candidate: RateRecord
    repaired: RateRecord
    kept: Told


class TaskLoss(Record):
    """The task's loss on rows that were held out, in nats per token.

    Args:
        gain_kept: (reference − repaired) ÷ (reference − candidate), with its bootstrap interval.
    """

    n: int
    reference: float
    candidate: float
    repaired: float
    gain_kept: Told


class RepairRecord(Record):
    """What `repair.json` holds.

    Args:
        repaired: whether every claim is met.
        chosen: the change that was made, by name; None where no finalist met the targets.
        reasons: sentences.
        tried, baselines: all changes that were looked at.
        claims: what was asked for, on prompts and rows that played no part.
        random: the chosen change with random neurons of the same layers, on the test prompts.
        notes: what was found while loading, and what differs between the two models.
        openings: by which changes were weighed, and how well these tell the run's answers apart.
        difference: largest difference of logits between what was written and what was measured, as
            a part of the largest logit.
        tensors: what `undo.safetensors` puts back.
    """

    format: Literal["safety-neurons/repair/1"] = "safety-neurons/repair/1"
    repaired: bool
    chosen: str | None
    reasons: list[str]
    aligned: dict[str, Any]
    candidate: dict[str, Any]
    units: dict[str, Any]
    tried: list[Tried]
    baselines: list[Tried]
    claims: list[Claim] = Field(default_factory=list)
    rates: list[RepairedRates] = Field(default_factory=list)
    random: RateRecord | None = None
    task: TaskLoss | None = None
    notes: list[str] = Field(default_factory=list)
    openings: FastFigures | None = None
    judge: str
    judge_errors: dict[str, Any] | None = None
    difference: float | None = None
    dtype: str | None = None
    tensors: list[ChangedTensor] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)
    command: str | None = None
    seconds: float = 0.0
    environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 repaired, 1 not repairable this way."""
        return 0 if self.repaired else 1
