"""Charts of an explanation: refusals under each intervention, and directions by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from safety_neurons.figures import minus
from safety_neurons.report import words
from safety_neurons.report.charts.axes import Frame, Linear, Tick
from safety_neurons.report.charts.marks import Mark, Style, marked_line
from safety_neurons.report.charts.sized import WIDE, WIDTHS, Sized
from safety_neurons.report.charts.strips import Strip, strips
from safety_neurons.report.charts.svg import drawing
from safety_neurons.report.explanation import causal_name, causal_rows
from safety_neurons.runs.explanation import CausalRow, ExplanationCard

INTACT, WITHOUT, GIVEN = 3, 1, 0
"""Series of the causal rows: as it is, units held, units given the aligned values."""
UNALIGNED, CHOSEN, WRITES = 0, 1, 2
"""Series of the directions' cosines."""

_HEIGHT = 260
_SCALE = Linear(-0.02, 1.04)
_RATES = tuple(Tick(at, words.percent(at)) for at in (0.0, 0.25, 0.5, 0.75, 1.0))


def causal_chart(card: ExplanationCard) -> Sized:
    """The refusal rate of every causal row."""
    label = "Refusals of harmful prompts under each intervention; figures in the tables."
    return strips([_strip(row) for row in causal_rows(card)], _SCALE, _RATES, label)


def cosine_chart(card: ExplanationCard) -> Sized:
    """The directions' cosines by layer."""
    return Sized.of(lambda size: _cosines(card, size))


def _strip(row: CausalRow) -> Strip:
    of, name = row.refusal_rate, causal_name(row)
    series = {"none": INTACT, "ablate": WITHOUT, "patch": GIVEN}[row.intervention]
    value = words.percent(of.refusal_rate)
    said = f"{name}: {value} refused, {words.interval(of.interval)}"
    chance = None if row.random is None else row.random.refusal_rate
    if chance is not None:
        said += f"; with random ones {words.percent(chance)}"
    return Strip(name, of.refusal_rate, value, said, of.interval, series, chance)


def _runs(points: Sequence[tuple[int, float | None]]) -> Iterator[list[tuple[int, float]]]:
    """Neighbouring points that have a value: a line does not bridge what was not measured."""
    run: list[tuple[int, float]] = []
    for layer, value in [*points, (-1, None)]:
        if value is not None:
            run.append((layer, value))
        elif run:
            yield run
            run = []


def _cosines(card: ExplanationCard, size: str) -> Markup:
    rows = card.direction.cosines
    curves: dict[int, list[tuple[int, float | None]]] = {
        UNALIGNED: [(row.layer, row.unaligned) for row in rows],
        CHOSEN: [(row.layer, row.chosen) for row in rows],
        WRITES: [(row.layer, row.writes) for row in rows],
    }
    last = max((row.layer for row in rows), default=0)
    frame = Frame(WIDTHS[size], _HEIGHT, Linear(0.0, max(last, 1)), Linear(-1.05, 1.05), left=40)
    step = max(1, -(-(last + 1) // (20 if size == WIDE else 8)))
    parts = [
        *frame.grid(Tick(at, minus(f"{at:g}")) for at in (-1.0, -0.5, 0.0, 0.5, 1.0)),
        *frame.base((Tick(at, str(at)) for at in range(0, last + 1, step)), "layer"),
    ]
    names = ("with the unaligned model’s", "with the chosen one", "of what the set writes")
    for series, points in curves.items():
        for run in _runs(points):
            marks = [
                Mark(layer, value, f"layer {layer}: {names[series]} {words.number(value)}")
                for layer, value in run
            ]
            parts += marked_line(frame, marks, Style.of_series(series))
    label = "Cosines of the refusal directions by layer; figures in the table."
    return drawing(frame.width, frame.height, label, *parts, class_=f"chart {size}")
