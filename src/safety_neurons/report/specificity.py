"""What the effect costs: refusals of harmful and of harmless prompts, share by share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from safety_neurons.report import words
from safety_neurons.report.charts.axes import Frame, Linear, Tick
from safety_neurons.report.charts.marks import Mark, Style, level, marked_line
from safety_neurons.report.charts.sized import NARROW, WIDE, WIDTHS, Sized
from safety_neurons.report.charts.svg import drawing
from safety_neurons.report.curve import share_axis
from safety_neurons.runs.summary import CurvePoint, HarmlessPoint, Summary

_HEIGHTS = {WIDE: 340, NARROW: 300}
HARMFUL, HARMLESS = 0, 1
"""Series of the two lines."""


@dataclass(frozen=True)
class Specificity:
    """One share of the chosen ranking: its effect beside the harmless prompts refused under it."""

    point: CurvePoint
    harmless: HarmlessPoint


def specificity(summary: Summary) -> list[Specificity]:
    """Every share that was measured on harmless prompts, the smallest first."""
    effects = {p.share: p for p in summary.curve_of(summary.chosen.ranking, "test")}
    return [
        Specificity(effects[point.share], point)
        for point in summary.harmless_curve
        if point.share in effects and point.refusal_rate.value is not None
    ]


def specificity_chart(summary: Summary, noun: str) -> Sized:
    """For a summary that has any such share."""
    return Sized.of(lambda size: _chart(summary, noun, size))


def _chart(summary: Summary, noun: str, size: str) -> Markup:
    rows = specificity(summary)
    frame = Frame(
        WIDTHS[size], _HEIGHTS[size], share_axis([row.point for row in rows]), Linear(-0.02, 1.05)
    )
    ticks = (Tick(at, words.percent(at)) for at in (0.0, 0.25, 0.5, 0.75, 1.0))
    parts = [
        *frame.grid(ticks),
        *frame.base(
            (Tick(row.point.share, f"{100 * row.point.share:.3g}") for row in rows),
            f"{noun} patched, % of all (log scale)",
        ),
    ]
    if (own := summary.aligned.over_refusal_rate) is not None:
        parts.append(level(frame, own, "level"))
    for series, marks in ((HARMFUL, list(_harmful(rows))), (HARMLESS, list(_harmless(rows)))):
        parts += marked_line(frame, marks, Style.of_series(series))
    label = (
        "Refusals of harmful and of harmless test prompts against the share patched; the table has "
        "the same figures."
    )
    return drawing(frame.width, frame.height, label, *parts, class_=f"chart {size}")


def _harmful(rows: list[Specificity]) -> Iterator[Mark]:
    for row in rows:
        if (refused := row.point.refusal_rate) is not None:
            said = f"{words.share(row.point.share)}: {words.percent(refused)} of harmful prompts"
            yield Mark(row.point.share, refused, f"{said} refused")


def _harmless(rows: list[Specificity]) -> Iterator[Mark]:
    for row in rows:
        rate = row.harmless.refusal_rate
        if rate.value is not None:
            refused = f"{words.percent(rate.value)} of harmless prompts refused"
            said = f"{words.share(row.point.share)}: {refused}, {words.interval(rate.interval)}"
            yield Mark(row.point.share, rate.value, said, rate.interval)
