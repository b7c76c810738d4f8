"""The key figures, as cards of a few lines each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from safety_neurons.report import words
from safety_neurons.runs.summary import (
    N90_EFFECT,
    CurvePoint,
    RateRecord,
    ShareInterval,
    Summary,
    Threshold,
)
from safety_neurons.statistics import Interval

_RATES = {
    "refusal_rate": ("Refusals of harmful prompts", "test split; more is safer"),
    "over_refusal_rate": ("Refusals of harmless prompts", "over-refusal; less is better"),
    "borderline_refusal_rate": (
        "Refusals of borderline prompts",
        "harmless, but they sound harmful; less is better",
    ),
}


EFFECT_SCALE = (-0.2, 1.4)


@dataclass(frozen=True)
class Line:
    """One figure of a card.

    Args:
        value: in words.
        notes: how sure it is, and from how much.
        bar: the value and interval to draw, None for no bar.
    """

    label: str
    value: str
    notes: tuple[str, ...]
    bar: Bar | None = None

    @property
    def in_words(self) -> bool:
        """Whether the value is a phrase, to be set smaller than a figure."""
        return not self.value.endswith("%")


@dataclass(frozen=True)
class Bar:
    """A value with its interval on a scale, in per cent of its length for the style sheet.

    Args:
        ticks: places on the scale that are marked.
    """

    value: float
    low: float
    span: float
    ticks: tuple[float, ...] = ()

    @classmethod
    def of(cls, value: float | None, bounds: Interval | None) -> Bar | None:
        """A rate, on a scale from 0 to 1; None where it is not known."""
        return cls._on(value, bounds, 0.0, 1.0, ())

    @classmethod
    def of_effect(cls, value: float | None, bounds: Interval | None) -> Bar | None:
        """An effect, which may lie below 0 and above 1: on EFFECT_SCALE, 0 and 1 marked."""
        return cls._on(value, bounds, *EFFECT_SCALE, (0.0, 1.0))

    @classmethod
    def _on(
        cls,
        value: float | None,
        bounds: Interval | None,
        least: float,
        most: float,
        ticks: tuple[float, ...],
    ) -> Bar | None:
        if value is None or bounds is None:
            return None

        def place(x: float) -> float:
            return round(100 * (min(max(x, least), most) - least) / (most - least), 1)

        low, high = place(bounds.low), place(bounds.high)
        return cls(place(value), low, round(high - low, 1), tuple(map(place, ticks)))


@dataclass(frozen=True)
class Card:
    """A few figures under one heading."""

    title: str
    subtitle: str
    lines: tuple[Line, ...]


def cards(summary: Summary, noun: str) -> list[Card]:
    """All cards, in the order of the page."""
    rates = [
        Card(
            title,
            subtitle,
            (
                _rate_line("unaligned", summary.unaligned.details[name]),
                _rate_line("aligned", summary.aligned.details[name]),
            ),
        )
        for name, (title, subtitle) in _RATES.items()
    ]
    return [*rates, _sufficiency(summary, noun), _n90(summary), _necessity(summary)]


def _rate_line(label: str, rate: RateRecord) -> Line:
    hits = None if rate.value is None else round(rate.value * rate.n)
    counted = f"{words.count(hits)} of {words.count(rate.n)}"
    notes = [words.interval(rate.interval), counted if rate.n else "no prompts"]
    notes.append(words.unscored(rate.unscored))
    if rate.unscored and rate.bound_high is not None:
        notes.append(f"up to {words.percent(rate.bound_high)} if these were refusals")
    return Line(label, words.percent(rate.value), tuple(notes), Bar.of(rate.value, rate.interval))


def _sufficiency(summary: Summary, noun: str) -> Card:
    claim, ceiling = summary.claim, next((p for p in summary.on("test") if p.share == 1), None)
    return Card(
        "Effect of patching (sufficiency)",
        "part of the gap in refusals that is closed, test split",
        (
            *([_claim_line(summary, claim)] if claim else ()),
            *([_ceiling_line(summary, ceiling, noun)] if ceiling else ()),
        ),
    )


def _necessity(summary: Summary) -> Card:
    point = summary.necessity
    lines = (
        (_effect_line(summary, f"chosen set, {words.share(point.share)}", point, removed=True),)
        if point
        else (Line("chosen set", words.NOT_ENOUGH, ()),)
    )
    return Card(
        "Effect of removing (necessity)",
        "part of the gap lost by the aligned model, test split",
        lines,
    )


def _claim_line(summary: Summary, claim: CurvePoint) -> Line:
    line = _effect_line(summary, f"chosen set, {words.share(claim.share)}", claim)
    if not summary.control_overlap:
        return line
    alike = f"two of them share {words.percent(summary.control_overlap)} of their neurons"
    return replace(line, notes=(*line.notes, alike))


def _ceiling_line(summary: Summary, ceiling: CurvePoint, noun: str) -> Line:
    line = _effect_line(summary, f"all {noun}: the ceiling", ceiling)
    if summary.ceiling_alike != ceiling.n:
        return line
    why = (
        "by construction: every answer is the aligned model's own, so the models differ in "
        "nothing else"
    )
    return replace(line, notes=(why, f"n{words.NBSP}={words.NBSP}{ceiling.n}"))


def _effect_line(summary: Summary, label: str, point: CurvePoint, *, removed: bool = False) -> Line:
    notes = [words.interval(point.interval), f"n{words.NBSP}={words.NBSP}{words.count(point.n)}"]
    notes.append(words.unscored(point.unscored))
    if bounds := _whatever_unscored(summary, point, removed=removed):
        notes.append(bounds)
    notes.append(_random(point))
    bar = Bar.of_effect(point.causal_effect, point.interval)
    return Line(label, words.percent(point.causal_effect), tuple(notes), bar)


def _whatever_unscored(summary: Summary, point: CurvePoint, *, removed: bool) -> str | None:
    """Between which bounds the effect lies whatever the patched answers without a verdict are."""
    a, u = (side.details["refusal_rate"].value for side in (summary.aligned, summary.unaligned))
    if not point.unscored or point.causal_effect is None or a is None or u is None or a <= u:
        return None
    more = point.unscored / point.n / (a - u)
    bounds = sorted([point.causal_effect, point.causal_effect + (-more if removed else more)])
    low, high = (words.percent(bound) for bound in bounds)
    return f"{low} to {high} whatever these are"


def _random(point: CurvePoint) -> str:
    if not point.controls:
        return "no random sets of this size"
    sets = words.plural(len(point.controls), "random set")
    if point.control_max is None:
        return f"{sets}: {words.NOT_ENOUGH}"
    mean, most = words.percent(point.control_mean), words.percent(point.control_max)
    return f"{sets}: mean {mean}, at most {most}"


def _n90(summary: Summary) -> Card:
    return Card(
        "N90",
        f"smallest tested share from which the effect stays at {words.percent(N90_EFFECT)} or more",
        tuple(_n90_lines(summary)),
    )


def _n90_lines(summary: Summary) -> Iterator[Line]:
    for ranking, reached in summary.thresholds.items():
        notes = [_first_crossing(summary.ceiling, reached)]
        if ranking in summary.n90_intervals:
            notes.append(_n90_interval(summary.n90_intervals[ranking]))
        yield Line(ranking, _n90_value(reached.n90), tuple(notes))


def _n90_value(n90: float | None) -> str:
    if n90 is None:
        return "not reached"
    return "not below all" if n90 == 1 else words.share(n90)


def _n90_interval(bounds: ShareInterval) -> str:
    low, high = (
        "not reached" if bound is None else "all" if bound == 1 else words.share(bound)
        for bound in (bounds.low, bounds.high)
    )
    between = low if low == high else f"{low} to {high}"
    return f"95{words.NBSP}% interval {between}, of the tested shares"


def _first_crossing(ceiling: float | None, reached: Threshold) -> str:
    if ceiling is None:
        return "undefined: the ceiling is not known"
    if ceiling < N90_EFFECT:
        return f"undefined: the ceiling is {words.percent(ceiling)}"
    if reached.first_crossing is None:
        return f"no tested share reaches {words.percent(N90_EFFECT)}"
    return f"first reached at {words.share(reached.first_crossing)}"
