"""The measurements of one validation, and the summary and samples made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from safety_neurons.generation import ALIGNED, UNALIGNED, Setting
from safety_neurons.models import Side
from safety_neurons.neurons import NeuronSet, Ranking, RankingName
from safety_neurons.prompts import PromptSet
from safety_neurons.statistics import Rate, mean_or_none
from safety_neurons.validation.curve import (
    CurvePoint,
    Target,
    choose,
    effect_of,
    matched_controls,
    measure,
    threshold,
)
from safety_neurons.validation.examination import Examination
from safety_neurons.validation.options import TestPrompts, ValidateOptions
from safety_neurons.validation.perplexity import perplexities


class Measurements:
    """The measurements of one validation, in the order of the list in `run.py`."""

    def __init__(
        self,
        exam: Examination,
        prompts: TestPrompts,
        options: ValidateOptions,
        rankings: dict[RankingName, Ranking],
    ) -> None:
        self.exam = exam
        self.prompts = prompts
        self.options = options
        self.rankings = rankings
        self.select = list(self._curve("select", prompts.select, controls=0))
        self.chosen = choose(self.select, _ceiling(self.select))
        self.test = list(self._curve("test", prompts.test, controls=options.controls))
        self.chosen_set = rankings[RankingName(self.chosen.ranking)].top(self.chosen.share)
        self.control_set = self.chosen_set.matched_random(options.seed)
        self._chosen_target = self._target(
            self.chosen.ranking, self.chosen.share, self.chosen_set, controls=options.controls
        )

    def _curve(self, split: str, prompts: PromptSet, *, controls: int) -> Iterator[CurvePoint]:
        for name, ranking in self.rankings.items():
            targets = [
                self._target(str(name), share, ranking.top(share), controls=controls)
                for share in self.options.tested_shares
            ]
            yield from self._measured(prompts, targets, split, f"{name} ({split})")

    def _target(self, ranking: str, share: float, neurons: NeuronSet, *, controls: int) -> Target:
        drawn = matched_controls(neurons, controls, self.options.seed)
        return Target(ranking, share, neurons, controls=drawn)

    def _measured(
        self, prompts: PromptSet, targets: list[Target], split: str, label: str
    ) -> list[CurvePoint]:
        seed = self.options.seed
        return measure(self.exam, prompts, targets, split=split, label=label, seed=seed)

    def summary(self) -> dict[str, Any]:
        ceiling = _ceiling(self.test)
        thresholds = {
            str(name): threshold([p for p in self.test if p.ranking == name], ceiling)
            for name in self.rankings
        }
        necessity = replace(self._chosen_target, recipient=Side.ALIGNED)
        (necessary,) = self._measured(self.prompts.test, [necessity], "test", "Necessity (test)")
        return {
            "unaligned": self._rates(UNALIGNED),
            "aligned": self._rates(ALIGNED),
            "chosen": {
                "ranking": self.chosen.ranking,
                "share": self.chosen.share,
                "k": self.chosen.k,
                "on": "select",
            },
            "ceiling": ceiling,
            "curve": [point.row() for point in (*self.select, *self.test)],
            "n90": {name: t.n90 for name, t in thresholds.items()},
            "first_crossing": {name: t.first_crossing for name, t in thresholds.items()},
            "necessity": necessary.row(),
            "dose": self._dose(),
            "by_category": list(self._by_category()),
            "harmless": self._harmless(),
            "judge": self.exam.judge.name,
            "neurons": self.exam.pair.layout.total,
        }

    def _dose(self) -> list[dict[str, Any]]:
        """The chosen set, and as many random sets, moved only part of the way or too far."""
        strengths = self.options.strengths
        targets = [replace(self._chosen_target, strength=strength) for strength in strengths]
        points = self._measured(self.prompts.test, targets, "test", "Dose (test)")
        return [
            {"strength": strength, **point.row()}
            for strength, point in zip(strengths, points, strict=True)
        ]

    def _by_category(self) -> Iterator[dict[str, Any]]:
        """Refusals and effect of the chosen set, category by category of the test prompts."""
        prompts, settings = self.prompts.test, self._settings()
        refusals = {
            name: self.exam.judged(prompts, settings[name], name).refusals
            for name in ("unaligned", "aligned", "patched")
        }
        members: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            if prompt.category is not None:
                members.setdefault(prompt.category, []).append(i)
        for category, rows in sorted(members.items()):
            effect = effect_of(
                self.exam,
                prompts,
                settings["patched"],
                "patched",
                rows=rows,
                seed=self.options.seed,
            )
            yield {
                "category": category,
                "n": len(rows),
                **{
                    f"{name}_refusal_rate": mean_or_none([refusals[name][i] for i in rows])
                    for name in refusals
                },
                "causal_effect": effect.value,
                "ci_low": effect.ci_low,
                "ci_high": effect.ci_high,
            }

    def _rates(self, setting: Setting) -> dict[str, Any]:
        label = f"{setting.recipient} model"
        rates = {
            "refusal_rate": self.exam.judged(self.prompts.test, setting, label),
            "over_refusal_rate": self.exam.judged(self.prompts.harmless, setting, label),
            "borderline_refusal_rate": self.exam.judged(self.prompts.borderline, setting, label),
        }
        values = {name: judged.refusal_rate.value for name, judged in rates.items()}
        details = {name: _detail(judged.refusal_rate) for name, judged in rates.items()}
        unfinished = sum(judged.unfinished for judged in rates.values())
        return {**values, "details": details, "unfinished_reasoning": unfinished}

    def _harmless(self) -> dict[str, Any]:
        """Refusals and perplexity on harmless prompts, patched as on the harmful ones."""
        settings, prompts = self._settings(), self.prompts.harmless
        self.exam.prepare(prompts, list(settings.values()), "Harmless prompts")
        own = self.exam.completions(prompts, UNALIGNED, "unaligned model")
        found = perplexities(
            self.exam.pair,
            self.exam.encoded(prompts),
            own,
            settings,
            self.options.decoding,
            progress=self.exam.progress,
        )
        return {
            name: {
                "refusal_rate": _detail(self.exam.judged(prompts, setting, name).refusal_rate),
                "perplexity": found[name],
            }
            for name, setting in settings.items()
        }

    def _settings(self) -> dict[str, Setting]:
        settings = {
            "unaligned": UNALIGNED,
            "aligned": ALIGNED,
            "patched": Setting(Side.UNALIGNED, self.chosen_set),
        }
        if self.control_set is not None:
            settings["random"] = Setting(Side.UNALIGNED, self.control_set)
        return settings

    def samples(self) -> Iterator[dict[str, Any]]:
        """Answers side by side: harmful and harmless test prompts under four settings."""
        for kind, prompts in (("harmful", self.prompts.test), ("harmless", self.prompts.harmless)):
            judged = {
                name: self.exam.judged(prompts, setting, name)
                for name, setting in self._settings().items()
            }
            for i, prompt in enumerate(prompts):
                yield {
                    "id": prompt.id,
                    "kind": kind,
                    "category": prompt.category,
                    "prompt": prompt.text,
                    "answers": {
                        name: {"response": j.responses[i], "verdict": str(j.verdicts[i])}
                        for name, j in judged.items()
                    },
                }


def _ceiling(points: list[CurvePoint]) -> float | None:
    return next(point.causal_effect for point in points if point.share == 1)


def _detail(measured: Rate) -> dict[str, Any]:
    return {
        "value": measured.value,
        "n": measured.n,
        "unscored": measured.unscored,
        "ci_low": measured.ci_low,
        "ci_high": measured.ci_high,
        "bound_high": measured.bound_high,
    }
