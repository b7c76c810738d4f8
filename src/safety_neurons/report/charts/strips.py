"""Values with their intervals, one below the other on one scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safety_neurons.report.charts.axes import Linear, Tick
from safety_neurons.report.charts.sized import WIDTHS, Sized
from safety_neurons.report.charts.svg import drawing, line, marker, text, titled
from safety_neurons.statistics import Interval

_ROW, _FOOT, _SIDE, _LETTER = 42, 24, 18, 6.6


@dataclass(frozen=True)
class Strip:
    """One value.

    Args:
        name: what it is of, written above it.
        value: None where it cannot be told, and then only `shown` stands there.
        shown: the value in words, at the right.
        said: what it says when it is pointed at.
        bounds: the ends of its whisker, None for none.
        series: its shape and colour.
        beside: a value to compare it with, marked by a short upright line.
    """

    name: str
    value: float | None
    shown: str
    said: str
    bounds: Interval | None = None
    series: int = 0
    beside: float | None = None


def strips(rows: Sequence[Strip], scale: Linear, ticks: Sequence[Tick], label: str) -> Sized:
    """All rows below each other, over upright lines at `ticks`.

    Args:
        label: what a screen reader says of the whole.

    Returns:
        The drawing in both sizes.
    """
    return Sized.of(lambda size: _drawn(rows, scale, ticks, label, size))


def _drawn(
    rows: Sequence[Strip], scale: Linear, ticks: Sequence[Tick], label: str, size: str
) -> Markup:
    width, height = WIDTHS[size], _ROW * len(rows) + _FOOT

    def x(value: float) -> float:
        return _SIDE + scale.place(value) * (width - 2 * _SIDE)

    parts = []
    for tick in ticks:
        parts.append(line(x(tick.value), 2, x(tick.value), height - _FOOT, "grid"))
        parts.append(text(x(tick.value), height - 7, tick.label, "tick", "middle"))
    for place, row in enumerate(rows):
        parts.append(titled(row.said, *_row(row, place, width, x)))
    return drawing(width, height, label, *parts, class_=f"chart {size}")


def _row(row: Strip, place: int, width: int, x: Callable[[float], float]) -> Iterator[Markup]:
    top = _ROW * place
    middle = top + 30
    room = int((width - 2 * _SIDE) / _LETTER) - len(row.shown) - 2
    yield text(2, top + 16, _shortened(row.name, room), "bar-name")
    yield text(width - 2, top + 16, row.shown, "bar-value", "end")
    yield line(_SIDE, middle, width - _SIDE, middle, "grid")
    if row.beside is not None:
        at = x(row.beside)
        yield line(at, middle - 9, at, middle + 9, "beside")
    if row.value is None:
        return
    colour = f"s{row.series % 4}"
    if row.bounds is not None:
        low, high = x(row.bounds.low), x(row.bounds.high)
        yield line(low, middle, high, middle, f"whisker {colour}")
        for end in (low, high):
            yield line(end, middle - 4, end, middle + 4, f"whisker {colour}")
    yield marker(x(row.value), middle, row.series, f"mark {colour}", 5)


def _shortened(name: str, room: int) -> str:
    return name if len(name) <= room else f"{name[: room - 1].rstrip()}…"
