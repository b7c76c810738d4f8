"""The chart of effect against share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from safety_neurons.report import words
from safety_neurons.report.charts.axes import Frame, Linear, Logarithmic, Tick
from safety_neurons.report.charts.marks import Mark, Style, level, marked_line
from safety_neurons.report.charts.sized import NARROW, WIDE, WIDTHS, Sized
from safety_neurons.report.charts.svg import (
    drawing,
    element,
    marker,
    polygon,
    text,
    titled,
)
from safety_neurons.report.standalone import standalone
from safety_neurons.runs.summary import N90_EFFECT, CurvePoint, Summary

_HEIGHTS = {WIDE: 430, NARROW: 340}
_WIDEST = (-0.6, 1.6)
"""Wild bootstrap bounds are cut here, or they would flatten everything else."""
_DODGE = 5.0
_BAND = 2.0
_LEGEND = 32


def curve_chart(summary: Summary, noun: str) -> Sized | Markup:
    """The chart of the test split; a sentence where no share has an effect."""
    if all(point.causal_effect is None for point in summary.on("test")):
        return element("p", "No curve: not enough data for an effect at any share.")
    return Sized.of(lambda size: _chart(summary, noun, size))


def standalone_curve(summary: Summary, noun: str) -> str:
    """The wide chart as an SVG file of its own, with its legend; for pages that are no report."""
    width = WIDTHS[WIDE]
    chart = curve_chart(summary, noun)
    if isinstance(chart, Sized):
        drawn = chart.wide
    else:
        why = text(16, 40, "No curve: not enough data for an effect.", "tick")
        drawn = drawing(width, _HEIGHTS[WIDE], "No curve.", why, class_="chart wide")
    legend = [
        part
        for series, ranking in enumerate(summary.rankings)
        for part in (
            marker(24 + 190 * series, 16, series, f"mark s{series}", 5),
            text(36 + 190 * series, 21, ranking, "tick"),
        )
    ]
    note = text(width - 16, 21, "bands: random sets, lowest to highest", "tick", "end")
    return standalone(drawn, [*legend, note], room=_LEGEND)


def overlaid_curves(summaries: Mapping[str, Summary], noun: str) -> Sized | Markup:
    """The chosen ranking's curve of each run in one chart."""
    curves = {
        name: summary.curve_of(summary.chosen.ranking, "test")
        for name, summary in summaries.items()
    }
    if all(p.causal_effect is None for points in curves.values() for p in points):
        return element("p", "No curves: not enough data for an effect at any share.")
    chosen = [summary.claim for summary in summaries.values()]
    return Sized.of(lambda size: _drawn(list(curves.values()), chosen, None, noun, size))


def _chart(summary: Summary, noun: str, size: str) -> Markup:
    curves = [summary.curve_of(ranking, "test") for ranking in summary.rankings]
    return _drawn(curves, [summary.claim], summary.ceiling, noun, size)


def _drawn(
    curves: Sequence[Sequence[CurvePoint]],
    chosen: Sequence[CurvePoint | None],
    ceiling: float | None,
    noun: str,
    size: str,
) -> Markup:
    points = [point for curve in curves for point in curve]
    shares, effects = share_axis(points), _effects(points)
    frame = Frame(WIDTHS[size], _HEIGHTS[size], shares, effects)
    label = (
        f"Causal effect of patching against the share of {noun} patched, on the test prompts; the "
        "table below has the same figures."
    )
    title = f"{noun} patched, % of all (log scale)"
    parts = [
        *frame.grid(Tick(at, words.percent(at)) for at in (*effects.multiples(0.25), N90_EFFECT)),
        *frame.base((Tick(at, f"{100 * at:.3g}") for at in {p.share for p in points}), title),
        *_levels(frame, ceiling),
    ]
    for series, curve in enumerate(curves):
        parts += _controls(frame, curve, series)
    for series, curve in enumerate(curves):
        known = (point for point in curve if point.causal_effect is not None)
        marks = [
            _mark(point, ringed=any(point is one for one in chosen), noun=noun) for point in known
        ]
        parts += marked_line(frame, marks, Style.of_series(series), shift=_dodge(series))
    return drawing(frame.width, frame.height, label, *parts, class_=f"chart {size}")


def share_axis(points: Sequence[CurvePoint]) -> Logarithmic:
    """An axis that holds the shares of all points; it ends at all units."""
    return Logarithmic(min([0.1, *(point.share for point in points)]), 1.0)


def _effects(points: Sequence[CurvePoint]) -> Linear:
    """An axis that holds every point with its interval and controls."""
    effects = [
        value
        for p in points
        for value in (p.causal_effect, p.ci_low, p.ci_high, *p.controls)
        if value is not None
    ]
    low = max(min([0.0, *effects]), _WIDEST[0])
    high = min(max([1.0, *effects]), _WIDEST[1])
    return Linear(low - 0.05, high + 0.08)


def _levels(frame: Frame, ceiling: float | None) -> Iterator[Markup]:
    """The line of 0.9, which the axis names, and the ceiling, which the legend does."""
    yield level(frame, N90_EFFECT, "level")
    if ceiling is not None:
        yield level(frame, ceiling, "ceiling")


def _controls(frame: Frame, points: Sequence[CurvePoint], series: int) -> Iterator[Markup]:
    """A band from the lowest to the highest random set, in the colour of its ranking."""
    drawn = [(point, known) for point in points if (known := _known_controls(point))]
    if not drawn:
        return
    upper, lower = (
        [
            (frame.x(point.share) + _dodge(series) + side * _BAND, frame.y(edge(known)))
            for point, known in drawn
            for side in (-1, 1)
        ]
        for edge in (max, min)
    )
    said = "; ".join(_said_of_controls(point, known) for point, known in drawn)
    band = polygon([*upper, *reversed(lower)], f"band s{series % 4}")
    yield titled(f"{points[0].ranking}, random sets: {said}", band)


def _known_controls(point: CurvePoint) -> list[float]:
    return [effect for effect in point.controls if effect is not None]


def _said_of_controls(point: CurvePoint, known: Sequence[float]) -> str:
    sets = words.plural(len(known), "set")
    low, high = words.percent(min(known)), words.percent(max(known))
    return f"at {words.share(point.share)} {low} to {high} ({sets})"


def _mark(point: CurvePoint, *, ringed: bool, noun: str) -> Mark:
    said = (
        f"{point.ranking}, {words.share(point.share)} ({words.count(point.k)} {noun}): effect "
        f"{words.percent(point.causal_effect)}, {words.interval(point.interval)}, "
        f"{words.plural(point.n, 'prompt')}"
    )
    return Mark(point.share, point.causal_effect or 0.0, said, point.interval, ringed)


def _dodge(series: int) -> float:
    """A shift across, so that whiskers of two rankings at one share do not hide each other."""
    return _DODGE * series - _DODGE / 2
