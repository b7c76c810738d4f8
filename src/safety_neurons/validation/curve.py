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


@dataclass(frozen=True)
class Target:
    """What one point of a curve measures: a neuron set, patched, beside its random controls.

    Args:
        ranking, share: where the set comes from.
        recipient: whose answers are patched.
        strength: how far of the way to the donor's values.
        controls: the matched random sets to compare with.
    """

    ranking: str
    share: float
    neurons: NeuronSet
    recipient: Side = Side.UNALIGNED
    strength: float = 1.0
    controls: tuple[NeuronSet, ...] = ()

    @property
    def settings(self) -> list[Setting]:
        """The set itself first, then its controls."""
        sets = (self.neurons, *self.controls)
        return [Setting(self.recipient, neurons, self.strength) for neurons in sets]


def matched_controls(neurons: NeuronSet, controls: int, seed: int) -> tuple[NeuronSet, ...]:
    """`controls` matched random sets; none where a layer has too few neurons left for any."""
    drawn = [neurons.matched_random(seed + i) for i in range(controls)]
    return tuple(control for control in drawn if control is not None)


def measure(
    exam: Examination,
    prompts: PromptSet,
    targets: Sequence[Target],
    *,
    split: str,
    label: str,
    seed: int = 0,
) -> list[CurvePoint]:
    """Patch each target's neurons, and its controls, and compare with both models.

    All targets are answered together, which is faster than one by one.
    """
    exam.prepare(prompts, [setting for target in targets for setting in target.settings], label)
    points = [_point(exam, prompts, target, split, label, seed) for target in targets]
    for point in points:
        exam.progress.note(f"  {point}")
    return points


def _point(
    exam: Examination, prompts: PromptSet, target: Target, split: str, label: str, seed: int
) -> CurvePoint:
    setting, *controls = target.settings
    effect = effect_of(exam, prompts, setting, label, seed=seed)
    judged = exam.judged(prompts, setting, label)
    return CurvePoint(
        ranking=target.ranking,
        split=split,
        share=target.share,
        k=len(target.neurons),
        n=len(prompts),
        unscored=judged.unscored,
        causal_effect=effect.value,
        ci_low=effect.ci_low,
        ci_high=effect.ci_high,
        refusal_rate=judged.refusal_rate.value,
        controls=tuple(
            effect_of(exam, prompts, drawn, label, seed=seed).value for drawn in controls
        ),
    )


def effect_of(
    exam: Examination,
    prompts: PromptSet,
    setting: Setting,
    label: str,
    *,
    rows: Sequence[int] | None = None,
    seed: int = 0,
) -> Effect:
    """Sufficiency where the unaligned side is patched, necessity where the aligned one is.

    sufficiency = mean(P − U) ÷ mean(A − U), necessity = mean(A − P) ÷ mean(A − U), with
    A, U, P the refusals of the aligned, the unaligned and the patched model on the same
    prompts: all of them, or those at `rows` of the prompt set.
    """
    a, u, p = (exam.judged(prompts, of, label).refusals for of in (ALIGNED, UNALIGNED, setting))
    before, after = (u, p) if setting.recipient is Side.UNALIGNED else (p, a)
    rows = range(len(prompts)) if rows is None else rows
    return ratio_of_means(
        [after[i] - before[i] for i in rows], [a[i] - u[i] for i in rows], seed=seed
    )


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
