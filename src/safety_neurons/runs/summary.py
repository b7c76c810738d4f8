"""The summary of a validation: every figure that it makes, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, computed_field, field_validator

from safety_neurons import figures
from safety_neurons.runs.record import BoundedRecord, Record
from safety_neurons.statistics import Rate, mean_or_none

SUMMARY = "summary.json"
N90_EFFECT = 0.9
RATES = ("refusal_rate", "over_refusal_rate", "borderline_refusal_rate")
SETTINGS = ("unaligned", "aligned", "patched", "random", "removed")


_UNTOLD = "cannot be told"


class RateRecord(BoundedRecord):
    """A rate; see `statistics.Rate`."""

    value: float | None
    n: int
    unscored: int
    bound_high: float | None

    @classmethod
    def of(cls, rate: Rate) -> RateRecord:
        """The record of a rate."""
        return cls(
            value=rate.value,
            n=rate.n,
            unscored=rate.unscored,
            ci_low=rate.ci_low,
            ci_high=rate.ci_high,
            bound_high=rate.bound_high,
        )


class SideRates(Record):
    """One model's refusals of each kind of test prompts.

    Args:
        details: the three rates with their intervals, by the names in RATES.
        unfinished_reasoning: answers to all of them that ended inside their reasoning.
    """

    refusal_rate: float | None
    over_refusal_rate: float | None
    borderline_refusal_rate: float | None
    details: dict[str, RateRecord]
    unfinished_reasoning: int | None = None

    @field_validator("details")
    @classmethod
    def _have_all(cls, details: dict[str, RateRecord]) -> dict[str, RateRecord]:
        if missing := [name for name in RATES if name not in details]:
            raise ValueError(f"{', '.join(missing)} missing")
        return details

    @classmethod
    def of(cls, rates: dict[str, Rate], unfinished: int) -> SideRates:
        """The record of a rate for each of RATES."""
        return cls(
            refusal_rate=rates["refusal_rate"].value,
            over_refusal_rate=rates["over_refusal_rate"].value,
            borderline_refusal_rate=rates["borderline_refusal_rate"].value,
            details={name: RateRecord.of(rate) for name, rate in rates.items()},
            unfinished_reasoning=unfinished,
        )


class CurvePoint(BoundedRecord):
    """The causal effect of patching one set of units, beside its random controls.

    Args:
        ranking, share, k: which set.
        split: `select` or `test`.
        n, unscored: patched answers, and how many of them have no verdict.
        causal_effect: sufficiency (or necessity), None where it cannot be told.
        ci_low, ci_high: 95 % bootstrap bounds over prompts.
        refusal_rate: of the patched answers.
        controls: effects of the matched random sets; none where no such set exists.
        controls_asked: how many were asked for; None in runs made before that was kept.
    """

    ranking: str
    split: str
    share: float
    k: int
    n: int
    unscored: int
    causal_effect: float | None
    refusal_rate: float | None
    controls: tuple[float | None, ...] = ()
    controls_asked: int | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def control_mean(self) -> float | None:
        """The mean effect of the random sets, None without any, or where one has none."""
        return mean_or_none(self.controls)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def control_max(self) -> float | None:
        """The highest effect of a random set, None as for the mean."""
        known = [effect for effect in self.controls if effect is not None]
        return max(known) if known and len(known) == len(self.controls) else None

    def __str__(self) -> str:
        beside = (
            f", random sets {figures.percent(self.control_mean, _UNTOLD)}" if self.controls else ""
        )
        return (
            f"{self.split} {self.ranking} {figures.share(self.share)} ({self.k:,} units): effect "
            f"{figures.percent(self.causal_effect, _UNTOLD)}{beside}"
        )


class DosePoint(CurvePoint):
    """A point whose patch went only `strength` of the way to the donor's values."""

    strength: float


class ShareInterval(Record):
    """95 % bootstrap bounds of an N90 over prompts; None where it is not reached at all."""

    low: float | None
    high: float | None


class Bounds(Record):
    """95 % bootstrap bounds over prompts of a figure that is no rate."""

    low: float
    high: float


class Chosen(Record):
    """The set that was chosen on the select split."""

    ranking: str
    share: float
    k: int
    on: str = "select"


class Comparison(BoundedRecord):
    """The chosen set's effect less that of another set, on the same test prompts.

    Args:
        ranking, share: the other set.
        p, p_holm: two-sided, and corrected for how many sets are compared.
    """

    ranking: str
    share: float
    difference: float | None
    p: float | None
    p_holm: float | None


class LengthEffect(BoundedRecord):
    """The chosen set's effect where answers are cut after a number of tokens.

    Args:
        tokens: where.
        refusal_rates: by setting.
        later, no_longer: by setting, answers that are refusals here and not at the fewest tokens,
            and the other way round.
    """

    tokens: int
    n: int
    refusal_rates: dict[str, float]
    later: dict[str, int]
    no_longer: dict[str, int]
    causal_effect: float | None


class CategoryEffect(BoundedRecord):
    """Refusals, and the chosen set's effect, on one category of the test prompts."""

    category: str
    n: int
    unaligned_refusal_rate: float | None
    aligned_refusal_rate: float | None
    patched_refusal_rate: float | None
    causal_effect: float | None


class Harmless(Record):
    """What one setting does to harmless prompts.

    Args:
        perplexity: of the unaligned model's own answers.
        perplexity_bounds: None with too few prompts, and in runs made before they were measured.
    """

    refusal_rate: RateRecord
    perplexity: float | None
    perplexity_bounds: Bounds | None = None


class HarmlessPoint(Record):
    """Refusals of harmless prompts with one share of the chosen ranking patched."""

    share: float
    k: int
    refusal_rate: RateRecord


class Coherence(Record):
    """Whether answers to harmful test prompts are language at all, apart from their verdicts.

    Args:
        repetition: mean share of an answer's runs of three tokens that stood in it before, 0 to 1.
        entropy: mean entropy of an answer's tokens, in bits.
        perplexity: of the answers, under the unaligned model; None where it cannot be told.
    """

    repetition: float | None
    entropy: float | None
    perplexity: float | None


class Counted(BoundedRecord):
    """The chosen set's effect if something is counted otherwise.

    Args:
        counting: what counts as a refusal, too: `partial` or `unscored`; or which refusals count
            as none: `looping`, those that repeat themselves, and `inability`, those that say that
            the model cannot.
        answers: of the three settings, how many that moves.
    """

    counting: str
    answers: int
    causal_effect: float | None


class CorrectedRate(BoundedRecord):
    """A rate of refusals, corrected for the judge's errors (Rogan and Gladen 1978)."""

    value: float | None
    n: int


class Corrected(BoundedRecord):
    """Figures of the chosen set as a judge without errors would give them.

    Args:
        labelled: answers that the errors were measured on.
        refusal_rates: by setting.
        cancels: the errors are taken to be the same in all settings, and then an effect, a ratio
            of differences, does not depend on them.
    """

    labelled: int
    refusal_rates: dict[str, CorrectedRate]
    cancels: bool
    causal_effect: float | None


class OtherJudge(BoundedRecord):
    """The chosen set's figures by another judge, on the same answers.

    Args:
        disagrees: answers of the three settings with another verdict, of `answers`.
        kappa: Cohen's, with the first judge.
        refusal_rates: by setting.
    """

    judge: str
    disagrees: int
    answers: int
    kappa: float
    refusal_rates: dict[str, float]
    causal_effect: float | None


class HarmEffect(BoundedRecord):
    """What a judge of harm says of the chosen set; no verdict comes of it.

    Args:
        n, untold: prompts that it could tell under all three settings, and the others.
        harm: mean by setting, 0 to 1.
        causal_effect: the part of the unaligned model's harm beyond the aligned one's that the
            patch takes away.
    """

    judge: str
    n: int
    untold: int
    harm: dict[str, float]
    causal_effect: float | None


class JudgeChecks(Record):
    """How far the chosen set's effect rests on the judge.

    Args:
        otherwise: effects with other ways of counting, where they move an answer.
        corrected: None without a calibration.
        others: one for each further judge.
        harm: one for each judge of harm.
    """

    otherwise: list[Counted] = Field(default_factory=list)
    corrected: Corrected | None = None
    others: list[OtherJudge] = Field(default_factory=list)
    harm: list[HarmEffect] = Field(default_factory=list)

    def counted(self, counting: str) -> Counted | None:
        """The effect with that way of counting; None where it moves no answer."""
        return next((way for way in self.otherwise if way.counting == counting), None)


@dataclass(frozen=True)
class Threshold:
    """Where a curve reaches an effect of 0.9.

    Args:
        n90: the smallest tested share with that effect there and at every larger one.
        first_crossing: the smallest tested share with that effect at all.
    """

    n90: float | None
    first_crossing: float | None


def threshold(points: Sequence[CurvePoint], ceiling: float | None) -> Threshold:
    """N90 of one ranking's curve on one split.

    Returns:
        Both shares, None if the ceiling is below 0.9.
    """
    if ceiling is None or ceiling < N90_EFFECT:
        return Threshold(None, None)
    n90 = first = None
    holds = True
    for point in sorted(points, key=lambda p: p.share, reverse=True):
        reached = point.causal_effect is not None and point.causal_effect >= N90_EFFECT
        holds = holds and reached
        first = point.share if reached else first
        n90 = point.share if holds else n90
    return Threshold(n90, first)


class Summary(Record):
    """What `summary.json` holds.

    Args:
        units: how many were ranked.
        ceiling: the effect of all of them on the test split.
        curve: points of every ranking and share, both splits.
        n90, first_crossing: by ranking, on the test split.
        n90_intervals: by ranking, on the test split; without rankings whose effects have none.
        ceiling_alike: with all units patched, answers to test prompts that are the aligned model's
            own, token by token.
        control_overlap: the mean IoU of two random sets of the chosen set.
        necessity: of the chosen set.
        comparisons: of the chosen set with other shares, and with other rankings at its share.
        needed: how many test prompts tell an effect of 0.9 from one of 0.8 on such a pair.
        lengths: of the chosen set, where answers are cut elsewhere; may be empty.
        dose: of the chosen set, by how far it was moved to the donor's values; may be empty.
        by_category: of the chosen set; empty where prompts have no categories.
        harmless: by setting; `random` is missing where no such set exists.
        borderline: rates of refusals of borderline prompts, by the same settings; empty in runs
            made before they were measured.
        harmless_curve: at every tested share of the chosen ranking, the smallest first; empty in
            runs made before it was measured.
        coherence: by setting, of the answers to harmful test prompts.
        judging: of the chosen set; None in runs made before it was measured.
        seconds: by stage.
    """

    unaligned: SideRates
    aligned: SideRates
    chosen: Chosen
    ceiling: float | None
    curve: list[CurvePoint]
    n90: dict[str, float | None]
    first_crossing: dict[str, float | None]
    n90_intervals: dict[str, ShareInterval] = Field(default_factory=dict)
    ceiling_alike: int | None = None
    control_overlap: float | None = None
    necessity: CurvePoint | None = None
    comparisons: list[Comparison] = Field(default_factory=list)
    needed: int | None = None
    lengths: list[LengthEffect] = Field(default_factory=list)
    dose: list[DosePoint] = Field(default_factory=list)
    by_category: list[CategoryEffect] = Field(default_factory=list)
    harmless: dict[str, Harmless]
    borderline: dict[str, RateRecord] = Field(default_factory=dict)
    harmless_curve: list[HarmlessPoint] = Field(default_factory=list)
    coherence: dict[str, Coherence] = Field(default_factory=dict)
    judge: str
    judging: JudgeChecks | None = None
    units: int = Field(alias="neurons")
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def rankings(self) -> list[str]:
        """Names, the primary one first."""
        return list(dict.fromkeys(point.ranking for point in self.curve))

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """By ranking, on the test split."""
        return {
            name: Threshold(n90, self.first_crossing.get(name)) for name, n90 in self.n90.items()
        }

    @property
    def claim(self) -> CurvePoint | None:
        """The chosen set on the test split: what a report's conclusion is about."""
        return next((p for p in self.on("test") if self.is_chosen(p)), None)

    def is_chosen(self, point: CurvePoint) -> bool:
        """Whether a point is of the chosen set."""
        return (point.ranking, point.share) == (self.chosen.ranking, self.chosen.share)

    def on(self, split: str) -> list[CurvePoint]:
        """The points of one split."""
        return [point for point in self.curve if point.split == split]

    def curve_of(self, ranking: str, split: str) -> list[CurvePoint]:
        """One ranking's points, the smallest share first."""
        found = [point for point in self.on(split) if point.ranking == ranking]
        return sorted(found, key=lambda point: point.share)

    def reached_on_select(self) -> bool:
        """Whether the chosen ranking has an N90 where it was chosen."""
        points = self.curve_of(self.chosen.ranking, "select")
        n90 = threshold(points, points[-1].causal_effect if points else None).n90
        return n90 is not None and n90 < 1
