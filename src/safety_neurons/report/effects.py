"""Lists of effects as one drawing: a mark each on the same scale, 0 and 100 % marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from safety_neurons.report import words
from safety_neurons.report.cards import EFFECT_SCALE
from safety_neurons.report.charts.axes import Linear, Tick
from safety_neurons.report.charts.sized import Sized
from safety_neurons.report.charts.strips import Strip, strips
from safety_neurons.statistics import Interval

_TICKS = tuple(Tick(at, words.percent(at)) for at in (0.0, 0.5, 1.0))


class HasEffect(Protocol):
    """A record with an effect and its interval."""

    @property
    def causal_effect(self) -> float | None:
        """None where it cannot be told."""
        ...

    @property
    def interval(self) -> Interval | None:
        """None where there is none."""
        ...


def effect_strip(name: str, of: HasEffect, series: int = 0) -> Strip:
    """One effect of a list.

    Args:
        series: the shape and colour of its mark, by which its kind is told.

    Returns:
        Its strip; one that says so where the effect cannot be told.
    """
    shown = words.percent(of.causal_effect)
    said = f"{name}: effect {shown}, {words.interval(of.interval)}"
    return Strip(name, of.causal_effect, shown, said, of.interval, series)


def effect_chart(rows: Sequence[Strip], label: str) -> Sized:
    """All effects; what lies beyond -20 and 140 % is drawn at the end."""
    return strips(rows, Linear(*EFFECT_SCALE), _TICKS, label)
