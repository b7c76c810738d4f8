"""The figures of a run, as `summary.json` holds them, with names and types again."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from safety_neurons.artifacts import RunFolder
from safety_neurons.errors import reading
from safety_neurons.report.words import bounds_of
from safety_neurons.statistics import Interval, Rate
from safety_neurons.validation.curve import CurvePoint, Threshold, threshold
from safety_neurons.validation.run import SUMMARY

RATES = ("refusal_rate", "over_refusal_rate", "borderline_refusal_rate")
SETTINGS = ("unaligned", "aligned", "patched", "random")


@dataclass(frozen=True)
class Chosen:
    """The neuron set that was chosen on the select split."""

    ranking: str
    share: float
    k: int


@dataclass(frozen=True)
class Harmless:
    """What one setting does to harmless prompts."""

    refusals: Rate
    perplexity: float | None


@dataclass(frozen=True)
class CategoryEffect:
    """Refusals (a rate each) and the chosen set's effect on one category of the test prompts."""

    category: str
    n: int
    unaligned: float | None
    aligned: float | None
    patched: float | None
    causal_effect: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Figures:
    """Everything the page says in figures, except for single neurons and answers.

    Args:
        unaligned, aligned: a rate for each of RATES.
        points: of every ranking and share, both splits.
        thresholds: by ranking, on the test split.
        necessity: of the chosen set.
        dose: of the chosen set, by how far it was moved to the donor's values; may be empty.
        by_category: of the chosen set; empty where prompts have no categories.
        harmless: by setting; `random` is missing where no such set exists.
    """

    neurons: int
    judge: str
    unaligned: dict[str, Rate]
    aligned: dict[str, Rate]
    points: tuple[CurvePoint, ...]
    chosen: Chosen
    ceiling: float | None
    thresholds: dict[str, Threshold]
    necessity: CurvePoint | None
    harmless: dict[str, Harmless]
    dose: tuple[tuple[float, CurvePoint], ...] = ()
    by_category: tuple[CategoryEffect, ...] = ()

    @classmethod
    def of(cls, run: RunFolder) -> Figures:
        """The figures of a run.

        Raises:
            UserError: if it has no complete `find` and `validate`.
        """
        run.require("find")
        file = run.result("validate", SUMMARY)
        with reading(file, remedy="run `safety-neurons validate` again"):
            return cls.from_summary(json.loads(file.read_text(encoding="utf-8")))

    @classmethod
    def from_summary(cls, summary: dict[str, Any]) -> Figures:
        chosen = summary["chosen"]
        necessity = summary.get("necessity")
        return cls(
            neurons=summary["neurons"],
            judge=summary["judge"],
            unaligned=_rates(summary["unaligned"]),
            aligned=_rates(summary["aligned"]),
            points=tuple(_point(row) for row in summary["curve"]),
            chosen=Chosen(chosen["ranking"], chosen["share"], chosen["k"]),
            ceiling=summary["ceiling"],
            thresholds={
                name: Threshold(n90, summary["first_crossing"].get(name))
                for name, n90 in summary["n90"].items()
            },
            necessity=None if necessity is None else _point(necessity),
            harmless={
                name: Harmless(_rate(summary["harmless"][name]["refusal_rate"]), row["perplexity"])
                for name, row in summary["harmless"].items()
            },
            by_category=tuple(_category(row) for row in summary.get("by_category", ())),
            dose=tuple((row["strength"], _point(row)) for row in summary.get("dose", ())),
        )

    @property
    def rankings(self) -> list[str]:
        """Names, the primary one first."""
        return list(dict.fromkeys(point.ranking for point in self.points))

    @property
    def claim(self) -> CurvePoint | None:
        """The chosen set on the test split: what the verdict is about."""
        return next((p for p in self.on("test") if self.is_chosen(p)), None)

    def is_chosen(self, point: CurvePoint) -> bool:
        return (point.ranking, point.share) == (self.chosen.ranking, self.chosen.share)

    def on(self, split: str) -> list[CurvePoint]:
        return [point for point in self.points if point.split == split]

    def curve(self, ranking: str, split: str) -> list[CurvePoint]:
        """One ranking's points, the smallest share first."""
        found = [point for point in self.on(split) if point.ranking == ranking]
        return sorted(found, key=lambda point: point.share)

    def reached_on_select(self) -> bool:
        """Whether the chosen ranking has an N90 where it was chosen."""
        points = self.curve(self.chosen.ranking, "select")
        n90 = threshold(points, points[-1].causal_effect if points else None).n90
        return n90 is not None and n90 < 1


def interval_of(point: CurvePoint) -> Interval | None:
    return bounds_of(point.ci_low, point.ci_high)


def _point(row: dict[str, Any]) -> CurvePoint:
    values = {field.name: row[field.name] for field in fields(CurvePoint)}
    return CurvePoint(**{**values, "controls": tuple(values["controls"])})


def _category(row: dict[str, Any]) -> CategoryEffect:
    return CategoryEffect(
        category=row["category"],
        n=row["n"],
        unaligned=row["unaligned_refusal_rate"],
        aligned=row["aligned_refusal_rate"],
        patched=row["patched_refusal_rate"],
        causal_effect=row["causal_effect"],
        interval=bounds_of(row["ci_low"], row["ci_high"]),
    )


def _rates(side: dict[str, Any]) -> dict[str, Rate]:
    return {name: _rate(side["details"][name]) for name in RATES}


def _rate(detail: dict[str, Any] | None) -> Rate:
    if detail is None:
        return Rate(None, 0, 0, None, None)
    bounds = bounds_of(detail["ci_low"], detail["ci_high"])
    return Rate(detail["value"], detail["n"], detail["unscored"], bounds, detail["bound_high"])
