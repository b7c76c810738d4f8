"""The pipeline as one picture: which units do what in which layer, and what rests on what.

Three bands, one for each stage, over one axis of layers. A unit is a disc in the band of the stage
in which it stands (its `part`); its area is its effect beside the band's largest. Arrows between
bands are what a stage loses where an earlier one is held at its harmless means.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safety_neurons.figures import minus
from safety_neurons.report import words
from safety_neurons.report.charts.sized import NARROW, WIDE, WIDTHS, Sized
from safety_neurons.report.charts.svg import drawing, element, line, polygon, text, titled
from safety_neurons.runs.explanation import (
    Area,
    CausalRow,
    ExplainedUnit,
    ExplanationCard,
    Flow,
    Position,
    StageName,
)

DOES = {
    StageName.DETECTION: "tell harmful prompts from harmless ones",
    StageName.MEDIATION: "push prompts along the refusal direction",
    StageName.STEERING: "make the words of a refusal likelier",
}
"""What the units of a stage do, for people."""
PLACES = {
    Position.CONTENT: "words of content",
    Position.END: "end of the user’s text",
    Position.TAIL: "last token before the answer",
}
SERIES = {stage: place for place, stage in enumerate(StageName)}
"""The stages' colours."""
DRAWN = 16
"""Discs of a layer in a band; of more the last place says how many there are."""

_HEAD, _PLOT, _FOOT = 40, 84, 8
_BAND = _HEAD + _PLOT + _FOOT
_STRIP, _LABEL = 12, 16
_AXIS, _BOX = 44, 64
_CELLS = (22, 18, 14, 12, 10, 8, 6, 5, 4)
"""Sides of the squares that discs stand in, in the order in which they are tried."""
_LEAST_DISC, _LEAST_TICK = 1.6, 26
_PAD = 10
_THIN, _THICK = 1.6, 9.0


@dataclass(frozen=True)
class _Layout:
    """Where everything lies in one size of the picture.

    Args:
        end: the right side of the bands.
        gap: between two bands; in the narrow picture arrows run there.
        inner, outer: where arrows run, from a band to the next and past one.
    """

    size: str
    layers: int
    end: int
    gap: int
    inner: int
    outer: int

    @classmethod
    def of(cls, size: str, layers: int) -> _Layout:
        """Wide: arrows on the right of the bands; narrow: between them."""
        if size == WIDE:
            return cls(size, layers, end=616, gap=12, inner=648, outer=752)
        return cls(size, layers, end=298, gap=46, inner=26, outer=318)

    @property
    def column(self) -> float:
        """The width of a layer."""
        return (self.end - 2 * _PAD) / self.layers

    def x(self, layer: int) -> float:
        """The middle of a layer."""
        return _PAD + self.column * (layer + 0.5)

    def top(self, band: int) -> int:
        """The upper side of a band."""
        return band * (_BAND + self.gap)

    def middle(self, band: int) -> float:
        """Half way down a band."""
        return self.top(band) + _BAND / 2

    @property
    def strip(self) -> int:
        """The upper side of the strip of units without a stage."""
        return self.top(2) + _BAND + 12 + _LABEL

    @property
    def box(self) -> tuple[int, int, int]:
        """Where refusals are: left, top and width."""
        if self.size == WIDE:
            return self.inner - 22, self.strip - _LABEL, WIDTHS[WIDE] - self.inner + 22
        return 0, self.strip + _STRIP + _AXIS + 8, WIDTHS[NARROW]

    @property
    def height(self) -> int:
        """Of the whole picture."""
        return max(self.box[1] + _BOX, self.strip + _STRIP + _AXIS) + 2


def disc_swatch() -> Markup:
    """A unit, for a legend."""
    disc = element("circle", cx=15, cy=7, r=6, class_="mark s0")
    return drawing(30, 14, "", disc, class_="swatch")


def pipeline_chart(card: ExplanationCard) -> Sized:
    """All bands, the arrows between them, and what is left of the refusals."""
    return Sized.of(lambda size: _drawn(card, _Layout.of(size, card.layers)))


def best_area(unit: ExplainedUnit) -> tuple[Position, Area] | None:
    """Where the aligned model's unit tells prompts apart best; None where it was not measured."""
    return max(unit.detection.items(), key=lambda at: abs(at[1].auroc - 0.5), default=None)


def effect(unit: ExplainedUnit, stage: StageName) -> float | None:
    """What a unit does in a stage; in detection the distance of its area from one half."""
    if stage is StageName.DETECTION:
        best = best_area(unit)
        return None if best is None else abs(best[1].auroc - 0.5)
    figure = unit.mediation if stage is StageName.MEDIATION else unit.steering
    return None if figure is None else figure.value


def figures(unit: ExplainedUnit) -> str:
    """All that a unit does, in a line."""
    said = []
    if (best := best_area(unit)) is not None:
        said.append(f"AUROC {words.number(best[1].auroc)} ({PLACES[best[0]]})")
    if unit.mediation is not None:
        said.append(f"mediation {fine(unit.mediation.value)}")
    if unit.steering is not None:
        said.append(f"steering {words.number(unit.steering.value)}")
    return ", ".join(said) or words.NOT_ENOUGH


def fine(value: float | None) -> str:
    """Per cent with three significant digits: single units do little."""
    return words.NOT_ENOUGH if value is None else f"{words.number(100 * value)}{words.NBSP}%"


def beyond_random(flow: Flow) -> bool:
    """Whether the interval of what is lost lies above what is lost with random units."""
    return flow.ci_low is not None and flow.ci_low > max(flow.random or 0.0, 0.0)


def as_it_is(card: ExplanationCard, recipient: str = "aligned") -> CausalRow | None:
    """A model without an intervention, whatever its row names as stage."""
    rows = (row for row in card.causal if row.intervention == "none")
    return next((row for row in rows if row.recipient == recipient), None)


def knocked_out(card: ExplanationCard) -> CausalRow | None:
    """The aligned model without its steering units."""
    return card.row("ablate", StageName.STEERING, "aligned")


def _drawn(card: ExplanationCard, layout: _Layout) -> Markup:
    parts: list[Markup] = []
    for band, stage in enumerate(StageName):
        parts += _band(card, stage, layout, band)
    parts += _idle(card, layout)
    parts += _axis(layout)
    for flow in card.flow:
        parts += _flow(flow, card.noun, layout)
    parts += _refusals(card, layout)
    counted = ", ".join(f"{len(card.of_part(stage))} {DOES[stage]}" for stage in StageName)
    label = f"The set’s {card.noun} by layer: {counted}; figures in the tables."
    return drawing(WIDTHS[layout.size], layout.height, label, *parts, class_=f"chart {layout.size}")


def _band(card: ExplanationCard, stage: StageName, layout: _Layout, band: int) -> Iterator[Markup]:
    top, units = layout.top(band), card.of_part(stage)
    yield element("rect", y=top, x=0, width=layout.end, height=_BAND, rx=4, class_="panel")
    for layer in _named(layout) if units else ():
        yield line(layout.x(layer), top + _HEAD, layout.x(layer), top + _BAND - 2, "grid")
    yield text(_PAD, top + 17, stage.capitalize(), "count")
    yield text(layout.end - _PAD, top + 17, _counted(len(units), card.noun), "count", "end")
    yield text(_PAD, top + 33, DOES[stage], "tick")
    if not units:
        middle = top + _HEAD + _PLOT / 2
        yield text(layout.end / 2, middle - 8, _missing(card, stage), "on", "middle")
        if beside := _beside(card, stage):
            yield text(layout.end / 2, middle + 12, beside, "tick", "middle")
        return
    yield from _discs(units, stage, layout, top + _HEAD + _PLOT)


def _counted(n: int, noun: str) -> str:
    return f"{words.count(n)}{words.NBSP}{noun[:-1] if n == 1 else noun}"


def _missing(card: ExplanationCard, stage: StageName) -> str:
    if stage is StageName.STEERING and not card.openings.usable:
        return "not measured: openings tell too little"
    return f"no {card.noun[:-1]} stands out from its layer"


def _beside(card: ExplanationCard, stage: StageName) -> str:
    """That units tell prompts apart all the same, where none does so better than its layer."""
    if stage is not StageName.DETECTION:
        return ""
    inside = max((row.inside for row in card.detectors if row.model == "aligned"), default=0)
    return f"{words.count(inside)} tell them apart, as others there do" if inside else ""


def _discs(
    units: Sequence[ExplainedUnit], stage: StageName, layout: _Layout, bottom: int
) -> Iterator[Markup]:
    """Stacked over the foot of the band, the largest effects lowest."""
    layers: dict[int, list[ExplainedUnit]] = defaultdict(list)
    for unit in units:
        layers[unit.layer].append(unit)
    largest = max(_size(unit, stage) for unit in units)
    room = 0.9 * layout.column
    fullest = min(max(map(len, layers.values())), DRAWN)
    cell = _cell(fullest, room)
    across = -(-fullest // (_PLOT // cell))
    for layer, of in sorted(layers.items()):
        of.sort(key=lambda unit: (-_size(unit, stage), unit.rank))
        shown = of if len(of) <= DRAWN else of[: DRAWN - 1]
        places = _places(min(len(of), DRAWN), across, cell)
        for unit, (right, up) in zip(shown, places, strict=False):
            part = _size(unit, stage) / largest if largest else 0.0
            radius = max(_LEAST_DISC, 0.47 * cell * math.sqrt(part))
            yield _disc(unit, stage, layout.x(layer) + right, bottom - up, radius)
        if len(of) > DRAWN:
            right, up = places[-1]
            said = f"layer {layer}: {len(of) - len(shown)} more with smaller effects"
            yield _more(said, layout.x(layer) + right, bottom - up, 0.4 * cell)


def _size(unit: ExplainedUnit, stage: StageName) -> float:
    return effect(unit, stage) or 0.0


def _cell(fullest: int, room: float) -> int:
    """The largest square of which the fullest layer's discs have room."""
    for cell in _CELLS:
        if max(1, room // cell) * (_PLOT // cell) >= fullest and cell <= max(room, _CELLS[-2]):
            return cell
    return _CELLS[-1]


def _places(n: int, across: int, cell: int) -> list[tuple[float, float]]:
    """Middles of `n` squares in rows, from a layer's middle and up from the foot."""
    found = []
    for i in range(n):
        row, column = divmod(i, across)
        in_row = min(across, n - row * across)
        found.append(((column - (in_row - 1) / 2) * cell, (row + 0.5) * cell))
    return found


def _disc(unit: ExplainedUnit, stage: StageName, x: float, y: float, radius: float) -> Markup:
    others = [f"also {other}" for other in unit.stages if other is not stage]
    said = "; ".join([f"{unit.unit} ({stage}): {figures(unit)}", *others])
    return titled(said, element("circle", cx=x, cy=y, r=radius, class_=f"mark s{SERIES[stage]}"))


def _more(said: str, x: float, y: float, arm: float) -> Markup:
    arm = max(arm, 2.0)
    return titled(
        said, line(x - arm, y, x + arm, y, "beside"), line(x, y - arm, x, y + arm, "beside")
    )


def _idle(card: ExplanationCard, layout: _Layout) -> Iterator[Markup]:
    """The units without a stage, as grey cells: the darker, the more there are."""
    counts = Counter(unit.layer for unit in card.neurons if unit.part is None)
    label = _counted(counts.total(), card.noun) if counts else f"no {card.noun[:-1]}"
    yield text(_PAD, layout.strip - 5, f"without a stage: {label}", "tick")
    yield element(
        "rect", x=0, y=layout.strip, width=layout.end, height=_STRIP, rx=2, class_="panel"
    )
    most = max(counts.values(), default=0)
    for layer, n in sorted(counts.items()):
        cell = element(
            "rect",
            x=layout.x(layer) - layout.column / 2,
            y=layout.strip,
            width=layout.column,
            height=_STRIP,
            class_="idle",
            style=f"fill-opacity:{0.25 + 0.75 * n / most:.2f}",
        )
        yield titled(f"layer {layer}: {_counted(n, card.noun)} without a stage", cell)


def _axis(layout: _Layout) -> Iterator[Markup]:
    foot = layout.strip + _STRIP
    for layer in _named(layout):
        yield text(layout.x(layer), foot + 17, str(layer), "tick", "middle")
    yield text(layout.end / 2, foot + 35, "layer", "title", "middle")


def _named(layout: _Layout) -> range:
    """The layers with a label."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if s * layout.column >= _LEAST_TICK)
    return range(0, layout.layers, step)


def _flow(flow: Flow, noun: str, layout: _Layout) -> Iterator[Markup]:
    """An arrow down, with its figure; what runs up the pipeline stands in the table alone."""
    start, end = SERIES[flow.source], SERIES[flow.target]
    if end <= start:
        return
    lost = _whole(flow.lost)
    chance = "" if flow.random is None else f"random {_whole(flow.random)}"
    said = (
        f"{flow.source} to {flow.target}: with {_counted(flow.k_source, noun)} of {flow.source} "
        f"held at their harmless means, {_counted(flow.k_target, noun)} of {flow.target} lose "
        f"{lost} of what sets harmful prompts apart in them ({words.interval(flow.interval)}"
        f"{', ' if chance else ''}{chance})"
    )
    points, (x, y), anchor = _way(layout, start, end)
    class_ = f"flow s{start}" if beyond_random(flow) else f"flow weak s{start}"
    yield titled(said, *_arrow(points, flow.lost, class_))
    yield text(x, y, f"{lost} lost", "count", anchor)
    if chance:
        yield text(x, y + 16, chance, "tick", anchor)


def _whole(value: float) -> str:
    """Whole per cent, for which there is room beside an arrow."""
    return minus(f"{round(100 * value)}{words.NBSP}%")


def _way(
    layout: _Layout, start: int, end: int
) -> tuple[list[tuple[float, float]], tuple[float, float], str]:
    """Where an arrow runs, and where its figure stands, with that text's anchor."""
    side, far = float(layout.end), end - start > 1
    if layout.size == NARROW and not far:
        x, top = float(layout.inner), float(layout.top(end))
        return [(x, top - layout.gap), (x, top)], (x + 16, top - 27), "start"
    x = float(layout.outer if far else layout.inner)
    leave = layout.middle(start) + (-20 if far else 20)
    arrive = layout.middle(end) + (0 if far else -20)
    points = [(side, leave), (x, leave), (x, arrive), (side, arrive)]
    if layout.size == NARROW:
        return points, (x - 10, layout.top(end) - 27), "end"
    return points, (x + 10, (leave + arrive) / 2 - 4), "start"


def _arrow(points: list[tuple[float, float]], strength: float, class_: str) -> Iterator[Markup]:
    """A line along `points`, the thicker the stronger, with a head at its end."""
    width = _THIN + (_THICK - _THIN) * min(max(strength, 0.0), 1.0)
    head = max(8.0, 1.5 * width)
    (fx, fy), (tx, ty) = points[-2:]
    length = math.hypot(tx - fx, ty - fy)
    right, down = (tx - fx) / length, (ty - fy) / length
    neck = (tx - head * right, ty - head * down)
    written = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*points[:-1], neck])
    yield element("polyline", points=written, stroke_width=width, class_=class_)
    half = 0.65 * head
    corners = [
        (tx, ty),
        (neck[0] - half * down, neck[1] + half * right),
        (neck[0] + half * down, neck[1] - half * right),
    ]
    yield polygon(corners, class_.replace("flow", "flow-head"))


def _refusals(card: ExplanationCard, layout: _Layout) -> Iterator[Markup]:
    """What becomes of the refusals without the steering units."""
    left, top, width = layout.box
    before, row = as_it_is(card), knocked_out(card)
    yield element("rect", x=left, y=top, width=width, height=_BOX, rx=4, class_="panel")
    yield text(left + _PAD, top + 18, "Harmful prompts refused", "count")
    rate = None if before is None else before.refusal_rate.refusal_rate
    intact = words.percent(rate)
    if row is None:
        yield text(
            left + _PAD,
            top + 36,
            intact if rate is None else f"{intact} with all {card.noun}",
            "on",
        )
        return
    without = row.refusal_rate.refusal_rate
    yield text(left + _PAD, top + 36, f"{intact} → {words.percent(without)} without steering", "on")
    chance = None if row.random is None else row.random.refusal_rate
    if chance is not None:
        said = f"random ones: {intact} → {words.percent(chance)}"
        yield text(left + _PAD, top + 53, said, "tick")
    if rate is None or without is None:
        return
    start = layout.middle(SERIES[StageName.STEERING]) + 24
    x = float(layout.inner if layout.size == WIDE else layout.outer)
    points = [(float(layout.end), start), (x, start), (x, float(top))]
    said = (
        f"steering to refusals: with {_counted(row.k, card.noun)} of steering held at their "
        f"harmless means, the aligned model refuses {words.percent(without)} of harmful prompts "
        f"({words.interval(row.refusal_rate.interval)}) instead of {intact}"
    )
    told = row.told and chance is not None and without < chance
    class_ = f"flow {'' if told else 'weak '}s{SERIES[StageName.STEERING]}"
    yield titled(said, *_arrow(points, rate - without, class_))
