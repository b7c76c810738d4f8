"""What is measured in one validation, each a function from an evaluator to records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from safety_neurons.engine import Side
from safety_neurons.inference import ALIGNED, UNALIGNED, Setting, surprisals
from safety_neurons.prompts import PromptSet
from safety_neurons.runs.record import effect_fields
from safety_neurons.runs.samples import SampleAnswer, SampleRow
from safety_neurons.runs.summary import (
    Bounds,
    CategoryEffect,
    CurvePoint,
    DosePoint,
    Harmless,
    HarmlessPoint,
    RateRecord,
    SideRates,
)
from safety_neurons.statistics import Interval, mean_or_none
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.validation.curve import Target, effect_of, measure
from safety_neurons.studies.validation.options import TestPrompts, ValidateOptions
from safety_neurons.units import Ranking, UnitSet


def curves(
    evaluator: Evaluator,
    prompts: PromptSet,
    rankings: Mapping[str, Ranking],
    options: ValidateOptions,
    *,
    split: str,
    claimed: CurvePoint | None = None,
) -> list[CurvePoint]:
    """The effect of every share of every ranking.

    Args:
        split: the name of `prompts`.
        claimed: the point of the split `select` that claims are made of. The curves are beside
            matched random sets where the options ask for them, and always at this point; without
            it, nowhere.

    Returns:
        One point a share, ranking by ranking.
    """

    def drawn(name: str, share: float) -> int:
        if claimed is None:
            return 0
        if (name, share) == (claimed.ranking, claimed.share):
            return options.controls
        return options.controls_at(name, share)

    points: list[CurvePoint] = []
    for name, ranking in rankings.items():
        targets = [
            Target.beside_random(name, share, ranking.top(share), drawn(name, share), options.seed)
            for share in options.tested_shares
        ]
        points += measure(
            evaluator, prompts, targets, split=split, label=f"{name} ({split})", seed=options.seed
        )
    return points


def ceiling_of(points: Sequence[CurvePoint]) -> float | None:
    """The effect of all units."""
    return next(point.causal_effect for point in points if point.share == 1)


@dataclass(frozen=True)
class ChosenSet:
    """The set that claims are made on, and who answers with it.

    Args:
        control: one matched random set, None where a block has too few units left.
    """

    target: Target
    control: UnitSet | None

    @classmethod
    def of(
        cls, point: CurvePoint, rankings: Mapping[str, Ranking], options: ValidateOptions
    ) -> ChosenSet:
        """The set of a point of the select split."""
        units = rankings[point.ranking].top(point.share)
        target = Target.beside_random(
            point.ranking, point.share, units, options.controls, options.seed
        )
        return cls(target, units.matched_random(options.seed))

    @property
    def settings(self) -> dict[str, Setting]:
        """Both models as they are, and the unaligned one patched, by the names of samples."""
        settings = {
            "unaligned": UNALIGNED,
            "aligned": ALIGNED,
            "patched": self.target.settings[0],
        }
        if self.control is not None:
            settings["random"] = replace(self.target, units=self.control).settings[0]
        return settings


def necessity(
    evaluator: Evaluator, prompts: PromptSet, chosen: ChosenSet, *, seed: int
) -> CurvePoint:
    """The other direction: unaligned values in the aligned model."""
    target = replace(chosen.target, recipient=Side.ALIGNED)
    label = "Necessity (test)"
    (point,) = measure(evaluator, prompts, [target], split="test", label=label, seed=seed)
    return point


def dose(
    evaluator: Evaluator, prompts: PromptSet, chosen: ChosenSet, options: ValidateOptions
) -> list[DosePoint]:
    """The chosen set, and as many random sets, moved only part of the way or too far."""
    targets = [replace(chosen.target, strength=strength) for strength in options.strengths]
    points = measure(
        evaluator, prompts, targets, split="test", label="Dose (test)", seed=options.seed
    )
    return [
        DosePoint(strength=strength, **point.model_dump())
        for strength, point in zip(options.strengths, points, strict=True)
    ]


def category_effects(
    evaluator: Evaluator, prompts: PromptSet, chosen: ChosenSet, *, seed: int
) -> Iterator[CategoryEffect]:
    """Refusals, and the effect of the chosen set, category by category."""
    settings = chosen.settings
    refusals = {
        name: evaluator.judged(prompts, settings[name], name).refusals
        for name in ("unaligned", "aligned", "patched")
    }
    members: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        if prompt.category is not None:
            members.setdefault(prompt.category, []).append(i)
    for category, rows in sorted(members.items()):
        effect = effect_of(evaluator, prompts, settings["patched"], "patched", rows=rows, seed=seed)
        rates = {name: mean_or_none([r[i] for i in rows]) for name, r in refusals.items()}
        yield CategoryEffect(
            category=category,
            n=len(rows),
            unaligned_refusal_rate=rates["unaligned"],
            aligned_refusal_rate=rates["aligned"],
            patched_refusal_rate=rates["patched"],
            **effect_fields(effect),
        )


def side_rates(evaluator: Evaluator, prompts: TestPrompts, setting: Setting) -> SideRates:
    """One model's refusals of harmful, harmless and borderline prompts."""
    label = f"{setting.recipient} model"
    judged = {
        "refusal_rate": evaluator.judged(prompts.test, setting, label),
        "over_refusal_rate": evaluator.judged(prompts.harmless, setting, label),
        "borderline_refusal_rate": evaluator.judged(prompts.borderline, setting, label),
    }
    rates = {name: of_kind.refusal_rate for name, of_kind in judged.items()}
    return SideRates.of(rates, sum(of_kind.unfinished for of_kind in judged.values()))


def harmless(
    evaluator: Evaluator, prompts: PromptSet, chosen: ChosenSet, *, seed: int
) -> dict[str, Harmless]:
    """Refusals and perplexity on harmless prompts, patched as on the harmful ones."""
    settings = chosen.settings
    evaluator.prepare(prompts, list(settings.values()), "Harmless prompts")
    found = surprisals(
        evaluator.group,
        evaluator.encoded(prompts),
        evaluator.completions(prompts, UNALIGNED, "unaligned model"),
        settings,
        evaluator.decoding,
        progress=evaluator.progress,
    )
    return {
        name: Harmless(
            refusal_rate=RateRecord.of(evaluator.judged(prompts, setting, name).refusal_rate),
            perplexity=found.perplexity(name),
            perplexity_bounds=_bounds(found.interval(name, seed=seed)),
        )
        for name, setting in settings.items()
    }


def _bounds(interval: Interval | None) -> Bounds | None:
    return None if interval is None else Bounds(low=interval.low, high=interval.high)


def borderline(
    evaluator: Evaluator, prompts: PromptSet, chosen: ChosenSet
) -> dict[str, RateRecord]:
    """Refusals of prompts that only sound harmful, patched as the harmful ones are."""
    settings = chosen.settings
    evaluator.prepare(prompts, list(settings.values()), "Borderline prompts")
    return {
        name: RateRecord.of(evaluator.judged(prompts, setting, name).refusal_rate)
        for name, setting in settings.items()
    }


def harmless_curve(
    evaluator: Evaluator,
    prompts: PromptSet,
    chosen: ChosenSet,
    rankings: Mapping[str, Ranking],
    options: ValidateOptions,
) -> list[HarmlessPoint]:
    """Refusals of harmless prompts against the share patched: what the effect costs."""
    ranking = rankings[chosen.target.ranking]
    targets = [Target(chosen.target.ranking, s, ranking.top(s)) for s in options.tested_shares]
    settings = [target.settings[0] for target in targets]
    evaluator.prepare(prompts, settings, "Harmless prompts, share by share")
    return [
        HarmlessPoint(
            share=target.share,
            k=len(target.units),
            refusal_rate=RateRecord.of(evaluator.judged(prompts, setting, "").refusal_rate),
        )
        for target, setting in zip(targets, settings, strict=True)
    ]


def samples(evaluator: Evaluator, prompts: TestPrompts, chosen: ChosenSet) -> Iterator[SampleRow]:
    """Answers side by side under each setting; to harmful prompts those of necessity, too."""
    removed = replace(chosen.target, recipient=Side.ALIGNED).settings[0]
    for kind, of_kind, more in (
        ("harmful", prompts.test, {"removed": removed}),
        ("harmless", prompts.harmless, {}),
    ):
        judged = {
            name: evaluator.judged(of_kind, setting, name)
            for name, setting in {**chosen.settings, **more}.items()
        }
        for i, prompt in enumerate(of_kind):
            yield SampleRow(
                id=prompt.id,
                kind=kind,
                category=prompt.category,
                prompt=prompt.text,
                answers={
                    name: SampleAnswer(response=j.responses[i], verdict=str(j.verdicts[i]))
                    for name, j in judged.items()
                },
            )
