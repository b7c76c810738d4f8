"""The stability card: what remains of a chosen set when something else is changed."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from safety_neurons.runs.record import BoundedRecord, Record

STABILITY = "stability.json"


class Verdict(StrEnum):
    """What a chosen set is, by the rules of `studies.stability.verdict`."""

    STABLE = "stable"
    FRAGILE = "fragile"
    NOISE = "noise"
    UNKNOWN = "unknown"


class Overlap(Record):
    """How much of the chosen set another ranking's first k units share.

    Args:
        changed: what differs, such as `halves of the prompts`.
        against: the other ranking, for people.
        iou, chance: intersection over union, and about what two random sets have.
        rank_correlation: Spearman's, over all units.
        per_layer: intersection over union of each layer; None where neither has units.
    """

    changed: str
    against: str
    k: int
    iou: float | None
    chance: float | None
    rank_correlation: float | None
    per_layer: list[float | None] = Field(default_factory=list)


class SetEffect(BoundedRecord):
    """The effect of some set, patched into this run's unaligned model, on its test prompts."""

    name: str
    k: int
    causal_effect: float | None


class StabilityCard(Record):
    """What `stability.json` holds.

    Args:
        n: test prompts that effects were measured on.
        own: the chosen set.
        overlaps: with what other choices would have found.
        transfers: sets that other runs chose.
        random, magnitude: control sets, as many units in each block; `magnitude` is drawn from
            units whose mean activations differ about as much between the models.
        verdict, reasons, rules: what the set is, why, and by which rules.
    """

    ranking: str
    share: float
    n: int
    own: SetEffect
    overlaps: list[Overlap]
    transfers: list[SetEffect]
    random: list[SetEffect]
    magnitude: list[SetEffect]
    verdict: Verdict
    reasons: list[str]
    rules: str

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        because = "; ".join(self.reasons)
        if self.verdict is Verdict.UNKNOWN:
            return f"Whether the set is stable cannot be told: {because}."
        return f"The set is {self.verdict}: {because}."
