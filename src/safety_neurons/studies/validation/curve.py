"""Effects against shares: sufficiency, necessity, controls, and the set that is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safety_neurons.engine import Side
from safety_neurons.inference import ALIGNED, UNALIGNED, Setting
from safety_neurons.interventions import Patch
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.record import effect_fields
from safety_neurons.runs.summary import CurvePoint, threshold
from safety_neurons.statistics import Effect, ratio_of_means
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.units import UnitSet


@dataclass(frozen=True)
class Target:
    """What one point of a curve measures: a neuron set, patched, beside its random controls.

    Args:
        ranking, share: where the set comes from.
        recipient: whose answers are patched.
        strength: how far of the way to the donor's values.
        controls: the matched random sets to compare with.
        asked: how many of them were asked for.
    """

    ranking: str
    share: float
    units: UnitSet
    recipient: Side = Side.UNALIGNED
    strength: float = 1.0
    controls: tuple[UnitSet, ...] = ()
    asked: int = 0

    @classmethod
    def beside_random(
        cls, ranking: str, share: float, units: UnitSet, asked: int, seed: int
    ) -> Target:
        """With matched random sets; with none of them where a block has too few units left."""
        drawn = [units.matched_random(seed + i) for i in range(asked)]
        controls = tuple(control for control in drawn if control is not None)
        return cls(ranking, share, units, controls=controls, asked=asked)

    @property
    def otherwise(self) -> str:
        """How it differs from the usual patch, of all the way into the unaligned model."""
        back = "; taken back from the aligned model" if self.recipient is Side.ALIGNED else ""
        part = "" if self.strength == 1 else f"; {self.strength:g} times the way"
        return back + part

    @property
    def settings(self) -> list[Setting]:
        """The set itself first, then its controls."""
        sets = (self.units, *self.controls)
        return [Setting(self.recipient, (Patch(units, self.strength),)) for units in sets]


def measure(
    evaluator: Evaluator,
    prompts: PromptSet,
    targets: Sequence[Target],
    *,
    split: str,
    label: str,
    seed: int = 0,
) -> list[CurvePoint]:
    """Patch each target's units, and its controls, and compare with both models.

    All targets are answered together, which is faster than one by one.

    Returns:
        One point a target, in the same order.
    """
    evaluator.prepare(
        prompts, [setting for target in targets for setting in target.settings], label
    )
    points = [_point(evaluator, prompts, target, split, label, seed) for target in targets]
    for target, point in zip(targets, points, strict=True):
        evaluator.progress.note(f"  {point}{target.otherwise}")
    return points


def _point(
    evaluator: Evaluator, prompts: PromptSet, target: Target, split: str, label: str, seed: int
) -> CurvePoint:
    setting, *controls = target.settings
    effect = effect_of(evaluator, prompts, setting, label, seed=seed)
    judged = evaluator.judged(prompts, setting, label)
    return CurvePoint(
        ranking=target.ranking,
        split=split,
        share=target.share,
        k=len(target.units),
        n=len(prompts),
        unscored=judged.unscored,
        **effect_fields(effect),
        refusal_rate=judged.refusal_rate.value,
        controls=tuple(
            effect_of(evaluator, prompts, drawn, label, seed=seed).value for drawn in controls
        ),
        controls_asked=target.asked,
    )


def effect_of(
    evaluator: Evaluator,
    prompts: PromptSet,
    setting: Setting,
    label: str,
    *,
    rows: Sequence[int] | None = None,
    cut: int | None = None,
    seed: int = 0,
) -> Effect:
    """Sufficiency where the unaligned side is patched, necessity where the aligned one is.

    sufficiency = mean(P − U) ÷ mean(A − U), necessity = mean(A − P) ÷ mean(A − U), with
    A, U, P the refusals of the aligned, the unaligned and the patched model on the same
    prompts: all of them, or those at `rows` of the prompt set.

    Args:
        cut: judge only so many tokens of each answer.

    Returns:
        The ratio with its interval; its value is None with fewer than MIN_ROWS prompts, or where
        mean(A − U) is below MIN_GAP.
    """
    a, u, p = (
        evaluator.judged(prompts, of, label, cut=cut).refusals
        for of in (ALIGNED, UNALIGNED, setting)
    )
    before, after = (u, p) if setting.recipient is Side.UNALIGNED else (p, a)
    rows = range(len(prompts)) if rows is None else rows
    return ratio_of_means(
        [after[i] - before[i] for i in rows], [a[i] - u[i] for i in rows], seed=seed
    )


def choose(points: Sequence[CurvePoint], ceiling: float | None) -> CurvePoint:
    """The set to make claims about, from the select split alone.

    Returns:
        The point of the ranking with the smallest N90, at that share; if no ranking reaches it,
        that of the largest effect below share 1, the smaller share where effects are equal.
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
