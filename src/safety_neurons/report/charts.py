"""The curve of effect against share, drawn as inline SVG.

Each chart is drawn twice, wide and narrow, and the style sheet shows the one that fits:
scaling one drawing down would make its letters unreadable on a phone.
"""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from safety_neurons.report import words
from safety_neurons.report.figures import Figures, interval_of
from safety_neurons.report.frame import Frame
from safety_neurons.report.svg import drawing, element, line, marker, polyline, text, titled
from safety_neurons.validation.curve import N90_EFFECT, CurvePoint

SIZES = {"wide": (860, 430), "narrow": (330, 340)}
_DODGE = 5.0


def curve_chart(figures: Figures) -> Markup:
    """Both sizes of the chart of the test split; the fitting one is shown."""
    if all(point.causal_effect is None for point in figures.on("test")):
        return element("p", "No curve: not enough data for an effect at any share.")
    return Markup("").join(_chart(figures, size) for size in SIZES)


def _chart(figures: Figures, size: str) -> Markup:
    frame = Frame.around(figures, *SIZES[size])
    label = (
        "Causal effect of patching against the share of neurons patched, on the test prompts; the "
        "table below has the same figures."
    )
    parts = [*_axes(frame), *_levels(figures, frame)]
    for series, ranking in enumerate(figures.rankings):
        points = figures.curve(ranking, "test")
        parts += _controls(points, frame, series)
    for series, ranking in enumerate(figures.rankings):
        points = figures.curve(ranking, "test")
        parts += _curve(points, figures, frame, series)
    return drawing(frame.width, frame.height, label, *parts, class_=f"chart {size}")


def _axes(frame: Frame) -> Iterator[Markup]:
    for effect in frame.labelled_effects():
        y = frame.y(effect)
        yield line(frame.left, y, frame.x_end, y, "zero" if effect == 0 else "grid")
        yield text(frame.left - 7, y + 4, f"{words.percent(effect)}", "tick", "end")
    for share in frame.labelled_shares():
        x = frame.x(share)
        yield line(x, frame.y_end, x, frame.y_end + 5, "axis")
        yield text(x, frame.y_end + 18, f"{100 * share:.3g}", "tick", "middle")
    yield line(frame.left, frame.y_end, frame.x_end, frame.y_end, "axis")
    middle = (frame.left + frame.x_end) / 2
    yield text(middle, frame.height - 8, "neurons patched, % of all (log scale)", "title", "middle")


def _levels(figures: Figures, frame: Frame) -> Iterator[Markup]:
    """The line of 0.9 and the ceiling, with their labels on the sides that face away."""
    ceiling = figures.ceiling
    above = ceiling is not None and ceiling >= N90_EFFECT
    x = frame.left + 4
    y = frame.y(N90_EFFECT)
    yield line(frame.left, y, frame.x_end, y, "level")
    yield text(x, y + (14 if above else -5), words.percent(N90_EFFECT), "level-label")
    if ceiling is None:
        return
    y = frame.y(ceiling)
    yield line(frame.left, y, frame.x_end, y, "ceiling")
    label = f"ceiling {words.percent(ceiling)}"
    yield text(x, y + (-5 if above else 14), label, "level-label")


def _controls(points: list[CurvePoint], frame: Frame, series: int) -> Iterator[Markup]:
    for name in ("mean", "max"):
        known = [(p, value) for p in points if (value := getattr(p, f"control_{name}")) is not None]
        places = [(frame.x(p.share) + _dodge(series), frame.y(value)) for p, value in known]
        yield polyline(places, f"random {name}")
        for (point, value), (x, y) in zip(known, places, strict=True):
            said = (
                f"{point.ranking}, {words.share(point.share)}: {name} of "
                f"{words.plural(len(point.controls), 'random set')} {words.percent(value)}"
            )
            yield titled(said, marker(x, y, series, "random-mark", 3))


def _curve(
    points: list[CurvePoint], figures: Figures, frame: Frame, series: int
) -> Iterator[Markup]:
    known = [point for point in points if point.causal_effect is not None]
    places = [(frame.x(p.share) + _dodge(series), frame.y(p.causal_effect or 0.0)) for p in known]
    yield polyline(places, f"curve s{series % 4}")
    for point, (x, y) in zip(known, places, strict=True):
        parts = [*_whisker(point, frame, x, series), marker(x, y, series, f"mark s{series % 4}")]
        if figures.is_chosen(point):
            label = text(x, y + 26, "chosen", "chosen-label", anchor="middle")
            parts += [marker(x, y, 0, "chosen", 10), label]
        yield titled(hover(point), *parts)


def _whisker(point: CurvePoint, frame: Frame, x: float, series: int) -> list[Markup]:
    bounds = interval_of(point)
    if bounds is None:
        return []
    low, high, class_ = frame.y(bounds.low), frame.y(bounds.high), f"whisker s{series % 4}"
    caps = [line(x - 4, y, x + 4, y, class_) for y in (low, high)]
    return [line(x, low, x, high, class_), *caps]


def hover(point: CurvePoint) -> str:
    """What a point says when it is pointed at."""
    return (
        f"{point.ranking}, {words.share(point.share)} ({words.count(point.k)} neurons): effect "
        f"{words.percent(point.causal_effect)}, {words.interval(interval_of(point))}, "
        f"{words.plural(point.n, 'prompt')}"
    )


def _dodge(series: int) -> float:
    """A shift across, so that whiskers of two rankings at one share do not hide each other."""
    return _DODGE * series - _DODGE / 2


def swatch(series: int) -> Markup:
    """A ranking's line and mark, for the legend."""
    mark = f"mark s{series % 4}"
    parts = [polyline([(1, 7), (29, 7)], f"curve s{series % 4}"), marker(15, 7, series, mark)]
    return drawing(30, 14, "", *parts, class_="swatch")


def line_swatch(class_: str) -> Markup:
    """A plain line, for the legend."""
    return drawing(30, 14, "", polyline([(1, 7), (29, 7)], class_), class_="swatch")
