"""The stability card's charts: what other choices share with the set, and what other sets do."""

from __future__ import annotations

from collections.abc import Iterator

from safety_neurons.report import words
from safety_neurons.report.charts.axes import Linear, Tick
from safety_neurons.report.charts.sized import Sized
from safety_neurons.report.charts.strips import Strip, strips
from safety_neurons.report.effects import effect_chart, effect_strip
from safety_neurons.runs.stability import StabilityCard

OWN, OTHER_RUNS, RANDOM = 0, 1, 2
"""Series of the kinds of sets."""
_EFFECTS = "Effects of the chosen set, other runs' sets and control sets; figures in the table."
_SHARES = "What the sets of other choices share with the chosen one; figures in the table."
_TICKS = tuple(Tick(at, f"{at:g}") for at in (0.0, 0.25, 0.5, 0.75, 1.0))


def effects_chart(card: StabilityCard) -> Sized:
    """The effect of every set in this pair."""
    return effect_chart(list(_sets(card)), _EFFECTS)


def overlaps_chart(card: StabilityCard) -> Sized:
    """What is shared with each other choice, beside chance."""
    rows = [
        Strip(
            name,
            one.iou,
            _fraction(one.iou),
            f"{name}: {_fraction(one.iou)} shared, by chance {_fraction(one.chance, 3)}",
            beside=one.chance,
        )
        for one in card.overlaps
        for name in [f"{one.changed}: {one.against}"]
    ]
    return strips(rows, Linear(0.0, 1.0), _TICKS, _SHARES)


def _sets(card: StabilityCard) -> Iterator[Strip]:
    yield effect_strip(card.own.name, card.own, OWN)
    for other in card.transfers:
        yield effect_strip(f"chosen by {other.name}", other, OTHER_RUNS)
    for control in (*card.random, *card.magnitude):
        yield effect_strip(control.name, control, RANDOM)


def _fraction(value: float | None, digits: int = 2) -> str:
    return words.NOT_ENOUGH if value is None else f"{value:.{digits}f}"
