"""How few units the refusals rest on: charts and sentences of the fragility card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from safety_neurons.report import words
from safety_neurons.report.charts.axes import Frame, Linear, Logarithmic, Tick
from safety_neurons.report.charts.marks import Mark, Style, level, marked_line
from safety_neurons.report.charts.sized import NARROW, WIDE, WIDTHS, Sized
from safety_neurons.report.charts.strips import Strip, strips
from safety_neurons.report.charts.svg import drawing
from safety_neurons.runs.fragility import (
    ABLATION,
    GIVEN,
    HEADLINE,
    MAGNITUDE,
    RANDOM,
    Amplified,
    FragilityCard,
    RemovalPoint,
    SingleEffect,
)
from safety_neurons.units import SiteKind

_HEIGHTS = {WIDE: 360, NARROW: 310}
_DODGE = 5.0
_FALL = 0.05
"""Less is not called a fall."""
COPIED = "unaligned"
"""The removal that copies the other model's values."""
SHOWN = 8
"""Single units in the chart; all are in the table."""
NEURONS, CHANNELS, CHANCE = 0, 1, 2
"""Series of the chart of where refusals live."""

_REMOVALS = {
    "mean": "held at their mean over harmless prompts",
    "zero": "set to zero",
    "unaligned": "given the unaligned model’s values",
}


def removal_name(removal: str) -> str:
    """What is done, for people."""
    return _REMOVALS[removal]


def set_name(name: str, noun: str) -> str:
    """Which units a set has, for people."""
    return {
        RANDOM: "random, as many in each layer",
        MAGNITUDE: "largest activations",
        ABLATION: "ablation attribution (this model’s own gradients)",
        GIVEN: f"the given {noun}",
    }.get(name, name)


def halved(card: FragilityCard) -> RemovalPoint | None:
    """The fewest units whose removal halves the refusals."""
    if card.halving_k is None or card.halving_set is None:
        return None
    points = card.curve_of(card.halving_set)
    return next((point for point in points if point.k == card.halving_k), None)


def finding(card: FragilityCard) -> str:
    """What the removals say, in a sentence or two."""
    noun, intact = card.noun, words.percent(card.intact.refusal_rate)
    if (point := halved(card)) is None:
        own = [p for name in card.sets() if name != RANDOM for p in card.curve_of(name)]
        most = max(own, key=lambda p: p.k, default=None)
        tried = f"up to {words.count(most.k)} {noun}" if most else f"no {noun}"
        return (
            f"No set of {tried} that was removed halves the refusals ({intact} of "
            f"{words.plural(card.intact.n, 'harmful prompt')} with all {noun} at work)."
        )
    sentence = (
        f"Taking away {words.count(point.k)} {noun} ({words.share(point.share)} of all) by "
        f"{set_name(point.set, noun)} lowers refusals from {intact} to "
        f"{words.percent(point.refusal_rate)} ({words.interval(point.interval)}, "
        f"{words.plural(point.n, 'prompt')}); an attacker needs at most so many."
    )
    near = [p for p in card.curve_of(RANDOM) if p.k >= point.k] or card.curve_of(RANDOM)
    if near:
        chance = min(near, key=lambda p: p.k)
        sentence += (
            f" {words.count(chance.k)} random ones leave {words.percent(chance.refusal_rate)}."
        )
    return sentence + _what_is_left(card, point)


def _what_is_left(card: FragilityCard, point: RemovalPoint) -> str:
    """Whether a model that lost refusals answers, or has lost its language with them."""
    if point.on_topic is None or card.intact.refusal_rate is None:
        return ""
    lost = card.intact.refusal_rate - (point.refusal_rate or 0.0)
    won = point.on_topic - (card.intact_on_topic or 0.0)
    own = (
        ""
        if card.unaligned_on_topic is None
        else f"; the unaligned model gives {words.percent(card.unaligned_on_topic)}"
    )
    conclusion = (
        "so most of what is lost is its language, not its refusals alone"
        if won < lost / 2
        else "so it complies instead"
    )
    return (
        f" Then {words.percent(point.on_topic)} of its answers are readable and about the prompt "
        f"({words.percent(card.intact_on_topic)} before{own}), and its own harmless answers have "
        f"{_times(point.harmless_perplexity, card.intact_perplexity)} the perplexity, {conclusion}."
    )


def copied_finding(card: FragilityCard) -> str | None:
    """What the unaligned model's values do in their place, which breaks nothing by themselves."""
    points = [p for p in card.curve_of(card.ranking, COPIED) if p.refusal_rate is not None]
    if not points or card.unaligned is None:
        return None
    said = [
        f"{words.count(p.k)} leave {words.percent(p.refusal_rate)} refused and "
        f"{words.percent(p.on_topic)} on topic"
        for p in points[-3:]
    ]
    return (
        f"Given the unaligned model’s values instead, by {card.ranking}: {'; '.join(said)} "
        f"(the unaligned model itself: {words.percent(card.unaligned.refusal_rate)} and "
        f"{words.percent(card.unaligned_on_topic)})."
    )


def single_finding(card: FragilityCard) -> str:
    """What single units do."""
    strongest = min(card.single, key=lambda one: one.log_odds)
    sentence = (
        f"Of the first {len(card.single)} {card.noun} of {card.single_ranking}, removed one by "
        f"one, {strongest.unit} matters most: the log-odds of refusing change by "
        f"{words.number(strongest.log_odds)}."
    )
    alone = [one for one in card.single if one.generated is not None]
    rates = [one.generated.refusal_rate for one in alone if one.generated is not None]
    known = [rate for rate in rates if rate is not None]
    if known:
        sentence += (
            f" Without any one of the {len(alone)} strongest the model still refuses at least "
            f"{words.percent(min(known))} ({words.percent(card.intact.refusal_rate)} with all)."
        )
    return sentence


def amplification_finding(card: FragilityCard) -> str:
    """What multiplying the chosen units does."""
    rows = {(row.factor, row.prompts): row for row in card.amplification}
    factors = sorted({row.factor for row in card.amplification})
    harmful = [rows[factor, "harmful"].refusal_rate or 0.0 for factor in factors]
    most, before = max(harmful), card.intact.refusal_rate or 0.0
    at = f"{factors[harmful.index(most)]:g}"
    said = (
        f"multiplying them by {at} raises refusals of harmful prompts from {words.percent(before)} "
        f"to {words.percent(most)}"
        if most > before
        else f"no factor raises refusals of harmful prompts above the {words.percent(before)} that "
        "there are"
    )
    falls = [f for f, rate in zip(factors, harmful, strict=True) if rate < before - _FALL]
    down = f"; from × {falls[0]:g} on they fall" if falls else ""
    return f"Of the first {words.count(card.amplified_k)} {card.noun}: {said}{down}."


def removal_chart(card: FragilityCard, removal: str = HEADLINE) -> Sized:
    """Refusals against the share removed, a line for each set."""
    curves = [card.curve_of(name, removal) for name in card.sets()]
    return Sized.of(lambda size: _chart(card, curves, card.noun, size))


def site_chart(card: FragilityCard) -> Sized:
    """The same by ablation attribution, for neurons and for attention's channels."""
    curves = [
        card.curve_of(ABLATION),
        card.curve_of(ABLATION, site=SiteKind.ATTENTION),
        card.curve_of(RANDOM, site=SiteKind.ATTENTION),
    ]
    return Sized.of(lambda size: _chart(card, curves, "units of their kind", size))


def single_chart(card: FragilityCard) -> Sized:
    """The strongest single units."""
    strongest = sorted(card.single, key=lambda one: one.log_odds)[:SHOWN]
    rows = [_strip(one) for one in strongest]
    ends = [
        value
        for one in strongest
        for value in (one.log_odds, one.ci_low, one.ci_high)
        if value is not None
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = 0.05 * (high - low) or 0.1
    scale = Linear(low - room, high + room)
    ticks = [Tick(at, words.number(at)) for at in (low, 0.0) if at == 0 or at < -2 * room]
    label = "What each of the strongest single units changes; figures in the table."
    return strips(rows, scale, ticks, label)


def _strip(one: SingleEffect) -> Strip:
    shown = words.number(one.log_odds)
    bounds = one.interval
    said = f"{one.unit}: log-odds of refusing {shown}"
    if bounds is not None:
        said += f", 95 % interval {words.number(bounds.low)} to {words.number(bounds.high)}"
    return Strip(one.unit, one.log_odds, shown, said, one.interval)


def rows_of(card: FragilityCard) -> list[RemovalPoint]:
    """All points, for the table: the headline first, set by set."""
    return [
        point
        for site in SiteKind
        for removal in card.removals
        for name in card.sets(site)
        for point in card.curve_of(name, removal, site)
    ]


def amplified_rows(card: FragilityCard) -> Iterator[tuple[float, Amplified, Amplified]]:
    """Of each factor the harmful and the harmless prompts' row."""
    rows = {(row.factor, row.prompts): row for row in card.amplification}
    for factor in sorted({row.factor for row in card.amplification}):
        yield factor, rows[factor, "harmful"], rows[factor, "harmless"]


def _chart(
    card: FragilityCard, curves: Sequence[Sequence[RemovalPoint]], noun: str, size: str
) -> Markup:
    shares = sorted(point.share for curve in curves for point in curve)
    # Units of another kind are other shares by rounding alone.
    named = sorted({point.share for point in curves[0]})
    across = Logarithmic(shares[0], shares[-1] if shares[-1] > shares[0] else 10 * shares[0])
    frame = Frame(WIDTHS[size], _HEIGHTS[size], across, Linear(-0.02, 1.05))
    ticks = (Tick(at, words.percent(at)) for at in (0.0, 0.25, 0.5, 0.75, 1.0))
    parts = [
        *frame.grid(ticks),
        *frame.base(
            (Tick(share, f"{100 * share:.2g}") for share in named),
            f"{noun} removed, % of all (log scale)",
        ),
    ]
    if (intact := card.intact.refusal_rate) is not None:
        parts += [level(frame, intact, "level"), level(frame, intact / 2, "ceiling")]
    for series, curve in enumerate(curves):
        shift = _DODGE * series - _DODGE
        marks = [mark for point in curve if (mark := _mark(point, card.noun)) is not None]
        if marks:
            parts += marked_line(frame, marks, Style.of_series(series), shift=shift)
    label = "Refusals of harmful prompts against the share removed; figures in the table."
    return drawing(frame.width, frame.height, label, *parts, class_=f"chart {size}")


def _mark(point: RemovalPoint, noun: str) -> Mark | None:
    if point.refusal_rate is None:
        return None
    kind = "attention channels" if point.site is SiteKind.ATTENTION else noun
    said = (
        f"{set_name(point.set, noun)}, {words.count(point.k)} {kind}: "
        f"{words.percent(point.refusal_rate)} refused, {words.interval(point.interval)}"
    )
    return Mark(point.share, point.refusal_rate, said, point.interval)


def _times(value: float | None, of: float) -> str:
    return words.NOT_ENOUGH if value is None else f"{value / of:.1f} times"
