"""What charts draw into a frame, and what their legends show of it.

Marks differ by shape and colour, which a series' number gives. Each says on hover what its
caller lets it say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safety_neurons.report.charts.axes import Frame
from safety_neurons.report.charts.svg import (
    drawing,
    element,
    line,
    marker,
    polyline,
    titled,
)
from safety_neurons.statistics import Interval

_SWATCH = [(1.0, 7.0), (29.0, 7.0)]


@dataclass(frozen=True)
class Style:
    """How a line and its marks are drawn: classes of the style sheet, and a shape.

    Args:
        shape: of the marks, by number.
        size: of the marks.
    """

    shape: int
    line: str
    mark: str
    whisker: str = "whisker"
    size: float = 4.5

    @classmethod
    def of_series(cls, series: int) -> Style:
        """A series' own colour and shape."""
        colour = f"s{series % 4}"
        return cls(series, f"curve {colour}", f"mark {colour}", f"whisker {colour}")


@dataclass(frozen=True)
class Mark:
    """One value on a line.

    Args:
        across, up: its values on both axes.
        said: what it says when it is pointed at.
        bounds: the ends of its whisker, None for no whisker.
        ringed: whether a ring makes it stand out.
    """

    across: float
    up: float
    said: str
    bounds: Interval | None = None
    ringed: bool = False


def marked_line(
    frame: Frame, marks: Sequence[Mark], style: Style, *, shift: float = 0.0
) -> Iterator[Markup]:
    """A line through its marks.

    Args:
        shift: how far everything is moved across, so that lines do not hide each other.

    Yields:
        The line, then a group for each mark.
    """
    places = [(frame.x(mark.across) + shift, frame.y(mark.up)) for mark in marks]
    yield polyline(places, style.line)
    for mark, (x, y) in zip(marks, places, strict=True):
        parts = [] if mark.bounds is None else whisker(frame, x, mark.bounds, style.whisker)
        parts.append(marker(x, y, style.shape, style.mark, style.size))
        if mark.ringed:
            parts.append(ring(x, y))
        yield titled(mark.said, *parts)


def whisker(frame: Frame, x: float, bounds: Interval, class_: str) -> list[Markup]:
    """An upright line between two bounds, with caps; it ends where the frame does."""
    low, high = frame.y(bounds.low), frame.y(bounds.high)
    caps = [line(x - 4, y, x + 4, y, class_) for y in (low, high)]
    return [line(x, low, x, high, class_), *caps]


def ring(x: float, y: float) -> Markup:
    """What makes one mark stand out."""
    return marker(x, y, 0, "chosen", 10)


def level(frame: Frame, value: float, class_: str) -> Markup:
    """A line across at one value of the upright axis; a legend or a tick says what it is."""
    y = frame.y(value)
    return line(frame.left, y, frame.x_end, y, class_)


def cell(x: float, y: float, width: float, height: float, *, strength: float, said: str) -> Markup:
    """A rectangle of a heat map; a strength of 1 is the full colour."""
    opacity = f"fill-opacity:{strength:.3f}"
    shape = element("rect", x=x, y=y, width=width, height=height, class_="cell", style=opacity)
    return titled(said, shape)


def swatch(series: int) -> Markup:
    """A series' line and mark, for a legend."""
    style = Style.of_series(series)
    mark = marker(15, 7, style.shape, style.mark, style.size)
    return drawing(30, 14, "", polyline(_SWATCH, style.line), mark, class_="swatch")


def band_swatch() -> Markup:
    """A band, for a legend."""
    return drawing(
        30, 14, "", element("rect", x=1, y=3, width=28, height=8, class_="band"), class_="swatch"
    )


def ring_swatch() -> Markup:
    """A ring, for a legend."""
    return drawing(30, 14, "", marker(15, 7, 0, "chosen", 6), class_="swatch")


def line_swatch(class_: str) -> Markup:
    """A plain line, for a legend."""
    return drawing(30, 14, "", polyline(_SWATCH, class_), class_="swatch")
