"""The measurements of one validation, and the summary and samples made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safety_neurons.generation import ALIGNED, UNALIGNED, Setting
from safety_neurons.models import Side
from safety_neurons.neurons import NeuronSet, Ranking, RankingName
from safety_neurons.prompts import PromptSet
from safety_neurons.statistics import Rate, mean_or_none, ratio_of_means
from safety_neurons.validation.curve import (
    CurvePoint,
    choose,
    matched_controls,
    measure_point,
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

    def _curve(self, split: str, prompts: PromptSet, *, controls: int) -> Iterator[CurvePoint]:
        for name, ranking in self.rankings.items():
            tops = [ranking.top(share) for share in self.options.tested_shares]
            self._prepare(Side.UNALIGNED, tops, prompts, controls, f"{name} ({split})")
            for share in self.options.tested_shares:
                yield measure_point(
                    self.exam,
                    prompts,
                    ranking.top(share),
                    ranking=str(name),
                    split=split,
                    share=share,
                    controls=controls,
                    seed=self.options.seed,
                )

    def _prepare(
        self, recipient: Side, tops: list[NeuronSet], prompts: PromptSet, controls: int, label: str
    ) -> None:
        """Let all patches of a curve be answered together; each is then read one by one."""
        seed = self.options.seed
        drawn = [c for top in tops for c in matched_controls(top, controls, seed)]
        settings = [Setting(recipient, neurons) for neurons in (*tops, *drawn)]
        self.exam.prepare(prompts, settings, label)

    def summary(self) -> dict[str, Any]:
        ceiling = _ceiling(self.test)
        thresholds = {
            str(name): threshold([p for p in self.test if p.ranking == name], ceiling)
            for name in self.rankings
        }
        self._prepare(
            Side.ALIGNED,
            [self.chosen_set],
            self.prompts.test,
            self.options.controls,
            "Necessity (test)",
        )
        necessity = measure_point(
            self.exam,
            self.prompts.test,
            self.chosen_set,
            ranking=self.chosen.ranking,
            split="test",
            share=self.chosen.share,
            recipient=Side.ALIGNED,
            controls=self.options.controls,
            seed=self.options.seed,
        )
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
            "necessity": necessity.row(),
            "dose": list(self._dose()),
            "by_category": list(self._by_category()),
            "harmless": self._harmless(),
            "judge": self.exam.judge.name,
            "neurons": self.exam.pair.layout.total,
        }

    def _dose(self) -> Iterator[dict[str, Any]]:
        """The chosen set, and as many random sets, moved only part of the way or too far."""
        options, sets = self.options, [self.chosen_set]
        sets += matched_controls(self.chosen_set, options.controls, options.seed)
        settings = [Setting(Side.UNALIGNED, s, dose) for dose in options.strengths for s in sets]
        self.exam.prepare(self.prompts.test, settings, "Dose (test)")
        for strength in options.strengths:
            point = measure_point(
                self.exam,
                self.prompts.test,
                self.chosen_set,
                ranking=self.chosen.ranking,
                split="test",
                share=self.chosen.share,
                strength=strength,
                controls=options.controls,
                seed=options.seed,
            )
            yield {"strength": strength, **point.row()}

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
            u, a, p = ([refusals[name][i] for i in rows] for name in refusals)
            effect = ratio_of_means(
                [x - y for x, y in zip(p, u, strict=True)],
                [x - y for x, y in zip(a, u, strict=True)],
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
                "ci_low": effect.interval.low if effect.interval else None,
                "ci_high": effect.interval.high if effect.interval else None,
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
        return {**values, "details": details}

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
    interval = measured.interval
    return {
        "value": measured.value,
        "n": measured.n,
        "unscored": measured.unscored,
        "ci_low": interval.low if interval else None,
        "ci_high": interval.high if interval else None,
        "bound_high": measured.bound_high,
    }
