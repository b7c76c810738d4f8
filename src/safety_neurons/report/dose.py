"""The chart of effect against dose: how far the chosen set was moved to the donor's values."""

from __future__ import annotations

from markupsafe import Markup

from safety_neurons.report import words
from safety_neurons.report.charts.axes import Frame, Linear, Tick
from safety_neurons.report.charts.marks import Mark, Style, level, marked_line
from safety_neurons.report.charts.sized import NARROW, WIDE, WIDTHS, Sized
from safety_neurons.report.charts.svg import drawing
from safety_neurons.runs.summary import CurvePoint, Summary

_HEIGHTS = {WIDE: 320, NARROW: 280}


def dose_chart(summary: Summary) -> Sized:
    """With strength 0, which changes nothing, and 1, the patch of the curve."""
    marks = _marks(summary)
    return Sized.of(lambda size: _chart(marks, size))


def dose_points(summary: Summary) -> list[tuple[float, CurvePoint]]:
    """Strengths with what was measured there, the patch of the curve (strength 1) among them."""
    points: list[tuple[float, CurvePoint]] = [(p.strength, p) for p in summary.dose]
    if summary.claim is not None and all(strength != 1 for strength, _ in points):
        points.append((1.0, summary.claim))
    return sorted(points, key=lambda point: point[0])


def _marks(summary: Summary) -> list[Mark]:
    marks = [
        Mark(strength, point.causal_effect, _said(strength, point), point.interval)
        for strength, point in dose_points(summary)
        if point.causal_effect is not None
    ]
    if all(mark.across != 0 for mark in marks):
        marks.append(Mark(0.0, 0.0, "strength 0: nothing is changed"))
    return sorted(marks, key=lambda mark: mark.across)


def _said(strength: float, point: CurvePoint) -> str:
    return (
        f"strength {strength:g}: effect {words.percent(point.causal_effect)}, "
        f"{words.interval(point.interval)}, {words.plural(point.n, 'prompt')}"
    )


def _chart(marks: list[Mark], size: str) -> Markup:
    ends = [x for m in marks for x in ((m.bounds.low, m.bounds.high) if m.bounds else (m.up,))]
    up = Linear(min([0.0, *ends]) - 0.05, max([1.0, *ends]) + 0.08)
    frame = Frame(
        WIDTHS[size], _HEIGHTS[size], Linear(0.0, max(1.0, *(mark.across for mark in marks))), up
    )
    parts = [
        *frame.grid(Tick(at, words.percent(at)) for at in up.multiples(0.25)),
        *frame.base(
            (Tick(mark.across, f"{mark.across:g}") for mark in marks),
            "strength: 0 changes nothing, 1 is the patch",
        ),
        level(frame, 1.0, "level"),
        *marked_line(frame, marks, Style.of_series(0)),
    ]
    label = "Causal effect against how far the chosen set is moved; the table has the same figures."
    return drawing(frame.width, frame.height, label, *parts, class_=f"chart {size}")
