"""Axes and the frame between them: where values lie in a drawing, ticks, grid and lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from markupsafe import Markup

from safety_neurons.report.charts.svg import line, text

_LETTER = 7.0
"""About the width of a digit in a label."""
_LEAST_ACROSS, _LEAST_UP = 30.0, 16.0
"""Labels' middles are at least so far from each other, across and up."""


class Axis(Protocol):
    """Where values lie on a line from 0 to 1."""

    def place(self, value: float) -> float:
        """Where `value` lies; what is beyond an end lies at that end."""
        ...


@dataclass(frozen=True)
class Linear:
    """Equal differences are equally far apart."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where `value` lies; what is beyond an end lies at that end."""
        return (_inside(value, self.low, self.high) - self.low) / (self.high - self.low)

    def multiples(self, step: float) -> list[float]:
        """Multiples of `step` between the ends."""
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [i * step for i in range(first, last + 1)]

    def round_steps(self, least: int = 3) -> list[float]:
        """Multiples of the largest 1, 2 or 5 times a power of ten with `least` steps or more."""
        most = (self.high - self.low) / least
        power = 10.0 ** math.floor(math.log10(most))
        return self.multiples(max(times * power for times in (1, 2, 5) if times * power <= most))


@dataclass(frozen=True)
class Logarithmic:
    """Equal ratios are equally far apart; both ends are above 0."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where `value` lies; what is beyond an end lies at that end."""
        low, high = math.log(self.low), math.log(self.high)
        return (math.log(_inside(value, self.low, self.high)) - low) / (high - low)


@dataclass(frozen=True)
class Tick:
    """A value that an axis names."""

    value: float
    label: str


@dataclass(frozen=True)
class Frame:
    """The plot area of a drawing, with an axis below and one on the left.

    Args:
        width, height: of the whole drawing.
        across, up: the axes.
        left, right, top, bottom: room around the plot area, for labels.
        inset: room between the sides and the ends of the axis across, for marks at the ends.
    """

    width: int
    height: int
    across: Axis
    up: Axis
    left: int = 46
    right: int = 18
    top: int = 12
    bottom: int = 46
    inset: int = 16

    @property
    def x_end(self) -> int:
        """The right side of the plot area."""
        return self.width - self.right

    @property
    def y_end(self) -> int:
        """The lower side of the plot area."""
        return self.height - self.bottom

    def x(self, value: float) -> float:
        """Where a value of the axis across lies in the drawing."""
        along = self.across.place(value) * (self.x_end - self.left - 2 * self.inset)
        return self.left + self.inset + along

    def y(self, value: float) -> float:
        """Where a value of the upright axis lies in the drawing."""
        return self.y_end - self.up.place(value) * (self.y_end - self.top)

    def grid(self, ticks: Iterable[Tick]) -> Iterator[Markup]:
        """A line across at each tick of the upright axis, labelled on the left."""
        for tick in apart(ticks, self.y, _LEAST_UP):
            y = self.y(tick.value)
            yield line(self.left, y, self.x_end, y, "zero" if tick.value == 0 else "grid")
            yield text(self.left - 7, y + 4, tick.label, "tick", "end")

    def base(self, ticks: Iterable[Tick], title: str) -> Iterator[Markup]:
        """The axis across, with its title; of ticks that would touch the highest is shown."""
        falling = sorted(ticks, key=lambda tick: tick.value, reverse=True)
        longest = max((len(tick.label) for tick in falling), default=0)
        for tick in apart(falling, self.x, max(_LEAST_ACROSS, _LETTER * longest)):
            x = self.x(tick.value)
            yield line(x, self.y_end, x, self.y_end + 5, "axis")
            yield text(x, self.y_end + 18, tick.label, "tick", "middle")
        yield line(self.left, self.y_end, self.x_end, self.y_end, "axis")
        yield text((self.left + self.x_end) / 2, self.height - 8, title, "title", "middle")


def apart(ticks: Iterable[Tick], place: Callable[[float], float], room: float) -> Iterator[Tick]:
    """The ticks that are at least `room` from those kept before them, in their order."""
    kept: list[float] = []
    for tick in ticks:
        here = place(tick.value)
        if all(abs(here - other) >= room for other in kept):
            kept.append(here)
            yield tick


def _inside(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
