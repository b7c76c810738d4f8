"""Effects against shares: sufficiency, necessity, controls, N90."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safety_neurons.generation import ALIGNED, UNALIGNED, Setting
from safety_neurons.models import Side
from safety_neurons.neurons import NeuronSet
from safety_neurons.prompts import PromptSet
from safety_neurons.statistics import Effect, mean_or_none, ratio_of_means
from safety_neurons.validation.examination import Examination

N90_EFFECT = 0.9


@dataclass(frozen=True)
class CurvePoint:
    """The causal effect of patching one neuron set, beside its random controls.

    Args:
        ranking, share, k: which set.
        split: `select` or `test`.
        n, unscored: patched answers, and how many of them have no verdict.
        causal_effect: sufficiency (or necessity), None where it cannot be told.
        ci_low, ci_high: 95 % bootstrap bounds over prompts.
        refusal_rate: of the patched answers.
        controls: effects of the matched random sets; fewer where no such set exists.
    """

    ranking: str
    split: str
    share: float
    k: int
    n: int
    unscored: int
    causal_effect: float | None
    ci_low: float | None
    ci_high: float | None
    refusal_rate: float | None
    controls: tuple[float | None, ...] = ()

    @property
    def control_mean(self) -> float | None:
        return mean_or_none(self.controls)

    @property
    def control_max(self) -> float | None:
        known = [effect for effect in self.controls if effect is not None]
        return max(known) if known and len(known) == len(self.controls) else None

    def __str__(self) -> str:
        def shown(value: float | None) -> str:
            return "cannot be told" if value is None else f"{value:.2f}"

        beside = f", random sets {shown(self.control_mean)}" if self.controls else ""
        return (
            f"{self.split} {self.ranking} {self.share:.1%} ({self.k:,} neurons): effect "
            f"{shown(self.causal_effect)}{beside}"
        )

    def row(self) -> dict[str, Any]:
        """As `summary.json` holds it."""
        return {
            **asdict(self),
            "controls": list(self.controls),
            "control_mean": self.control_mean,
            "control_max": self.control_max,
        }


def effect_of(
    exam: Examination, prompts: PromptSet, setting: Setting, label: str, *, seed: int
) -> Effect:
    """Sufficiency where the unaligned side is patched, necessity where the aligned one is.

    sufficiency = mean(P − U) ÷ mean(A − U), necessity = mean(A − P) ÷ mean(A − U), with
    A, U, P the refusals of the aligned, the unaligned and the patched model on the same
    prompts.
    """
    a = exam.judged(prompts, ALIGNED, "aligned").refusals
    u = exam.judged(prompts, UNALIGNED, "unaligned").refusals
    p = exam.judged(prompts, setting, label).refusals
    gap = [x - y for x, y in zip(a, u, strict=True)]
    if setting.recipient is Side.UNALIGNED:
        moved = [x - y for x, y in zip(p, u, strict=True)]
    else:
        moved = [x - y for x, y in zip(a, p, strict=True)]
    return ratio_of_means(moved, gap, seed=seed)


def matched_controls(neurons: NeuronSet, controls: int, seed: int) -> list[NeuronSet]:
    """`controls` matched random sets; none where a layer has too few neurons left for any."""
    drawn = [neurons.matched_random(seed + i) for i in range(controls)]
    return [control for control in drawn if control is not None]


def measure_point(
    exam: Examination,
    prompts: PromptSet,
    neurons: NeuronSet,
    *,
    ranking: str,
    split: str,
    share: float,
    recipient: Side = Side.UNALIGNED,
    strength: float = 1.0,
    controls: int = 0,
    seed: int = 0,
) -> CurvePoint:
    """Patch `neurons`, and `controls` matched random sets, and compare with both models."""
    setting = Setting(recipient, neurons, strength)
    label = f"{ranking} {share:g} ({split})"
    effect = effect_of(exam, prompts, setting, label, seed=seed)
    judged = exam.judged(prompts, setting, label)
    control_effects = tuple(
        effect_of(
            exam, prompts, Setting(recipient, drawn, strength), f"{label} random", seed=seed
        ).value
        for drawn in matched_controls(neurons, controls, seed)
    )
    point = CurvePoint(
        ranking=ranking,
        split=split,
        share=share,
        k=len(neurons),
        n=len(prompts),
        unscored=judged.unscored,
        causal_effect=effect.value,
        ci_low=effect.interval.low if effect.interval else None,
        ci_high=effect.interval.high if effect.interval else None,
        refusal_rate=judged.refusal_rate.value,
        controls=control_effects,
    )
    exam.progress.note(f"  {point}")
    return point


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
    """N90 of one ranking's curve on one split; None if the ceiling is below 0.9."""
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


def choose(points: Sequence[CurvePoint], ceiling: float | None) -> CurvePoint:
    """The set to make claims about, from the select split alone.

    The ranking with the smallest N90, at that share; if no ranking reaches it, the
    largest effect below share 1, the smaller share where effects are equal.
    """
    by_ranking: dict[str, list[CurvePoint]] = {}
    for point in points:
        by_ranking.setdefault(point.ranking, []).append(point)
    reached = [
        next(p for p in curve if p.share == n90)
        for curve in by_ranking.values()
        if (n90 := threshold(curve, ceiling).n90) is not None and n90 < 1
    ]
    if reached:
        return min(reached, key=lambda p: p.share)
    below = [p for p in points if p.share < 1] or list(points)
    return max(below, key=lambda p: (p.causal_effect or 0.0, -p.share))
