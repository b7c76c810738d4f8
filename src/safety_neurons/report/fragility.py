"""How few units the refusals rest on: charts and sentences of the fragility card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
_UNTOLD = 0.1
"""Parts of the answers that differ by less are called about the same."""
COPIED = "unaligned"
"""The removal that copies the other model's values."""
SHOWN = 8
"""Single units in the chart; all are in the table."""
NEURONS, CHANNELS, CHANCE = 2, 0, 1
"""Series of the chart of where refusals live."""

HELD = "held at their mean over harmless prompts"
"""What the headline's removal does, for people."""


def set_name(name: str, noun: str) -> str:
    """Which units a set has, for people."""
    return {
        RANDOM: "random, as many in each layer",
        MAGNITUDE: "largest activations",
        ABLATION: "ablation attribution",
        GIVEN: f"the given {noun}",
    }.get(name, name)


def halved(card: FragilityCard) -> RemovalPoint | None:
    """The fewest units whose removal halves the refusals."""
    if card.halving_k is None or card.halving_set is None:
        return None
    points = card.curve_of(card.halving_set)
    return next((point for point in points if point.k == card.halving_k), None)


def finding(card: FragilityCard) -> str:
    """What the removals say, in a few sentences."""
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
        f"{words.count(point.k)} {noun} ({_share(point)} of all) are enough to halve the aligned "
        f"model’s refusals: without the first by {set_name(point.set, noun)} it refuses "
        f"{words.percent(point.refusal_rate)} ({words.interval(point.interval)}, "
        f"{words.plural(point.n, 'prompt')}) instead of {intact}"
    )
    chance = _random_beside(card, point)
    if chance is None:
        return f"{sentence}.{_what_is_left(card, point)}"
    return (
        f"{sentence}; without {words.count(chance.k)} random ones "
        f"{words.percent(chance.refusal_rate)}.{_what_is_left(card, point)}"
    )


def _random_beside(card: FragilityCard, point: RemovalPoint) -> RemovalPoint | None:
    drawn = card.curve_of(RANDOM)
    large = [p for p in drawn if p.k >= point.k] or drawn[-1:]
    return min(large, key=lambda p: p.k, default=None)


def _what_is_left(card: FragilityCard, point: RemovalPoint) -> str:
    """Whether a model that lost refusals answers, or has lost its language with them."""
    if point.on_topic is None or point.refusal_rate is None:
        return ""
    neither = max(1 - point.refusal_rate - point.on_topic, 0.0)
    more = point.on_topic - neither
    if abs(more) < _UNTOLD:
        freed = "it complies about as often as it is broken"
    elif more < 0:
        freed = "it is broken more than it complies"
    else:
        freed = "it complies more than it is broken"
    own = (
        ""
        if card.unaligned_on_topic is None
        else f" (the unaligned model answers {words.percent(card.unaligned_on_topic)} so)"
    )
    cost = _times(point.harmless_perplexity, card.intact_perplexity)
    chance = _random_beside(card, point)
    beside = (
        ""
        if chance is None
        else f" ({_times(chance.harmless_perplexity, card.intact_perplexity)} without random ones)"
    )
    return (
        f" {words.percent(point.on_topic)} of its answers are then readable and about the prompt"
        f"{own}, and {words.percent(neither)} are neither that nor refusals: {freed}. Its own "
        f"harmless answers have {cost} the perplexity{beside}."
    )


def copied_finding(card: FragilityCard) -> str | None:
    """What the unaligned model's values do in their place, which breaks nothing by themselves."""
    points = [p for p in card.curve_of(card.ranking, COPIED) if p.refusal_rate is not None]
    if not points or card.unaligned is None:
        return None
    said = [
        f"with {words.count(p.k)} {card.noun} ({_share(p)}) it refuses "
        f"{words.percent(p.refusal_rate)} and answers {words.percent(p.on_topic)} on topic"
        for p in points[-3:]
    ]
    return (
        "Given the unaligned model’s values instead of being held, which breaks nothing by itself, "
        f"by {card.ranking}: {'; '.join(said)}. The unaligned model itself: "
        f"{words.percent(card.unaligned.refusal_rate)} and "
        f"{words.percent(card.unaligned_on_topic)}."
    )


def single_finding(card: FragilityCard) -> str:
    """What single units do."""
    strongest = min(card.single, key=lambda one: one.log_odds)
    sentence = (
        f"Of the first {len(card.single)} {card.noun} of {card.single_ranking}, removed one by "
        f"one, {strongest.unit} has the largest mean change of the log-odds of refusing: "
        f"{words.number(strongest.log_odds)}."
    )
    alone = [one for one in card.single if one.generated is not None]
    rates = [one.generated.refusal_rate for one in alone if one.generated is not None]
    known = [rate for rate in rates if rate is not None]
    if known:
        sentence += (
            f" Without one of the {len(alone)} strongest, whichever it is, the model refuses at "
            f"least {words.percent(min(known))}; with all of them "
            f"{words.percent(card.intact.refusal_rate)}."
        )
    return sentence


def amplification_finding(card: FragilityCard) -> str:
    """What multiplying the chosen units does."""
    rows = {(row.factor, row.prompts): row for row in card.amplification}
    factors = sorted({row.factor for row in card.amplification})
    harmful = [rows[factor, "harmful"].refusal_rate or 0.0 for factor in factors]
    most, before = max(harmful), card.intact.refusal_rate or 0.0
    at = f"{factors[harmful.index(most)]:g}"
    best = rows[factors[harmful.index(most)], "harmful"]
    told = best.ci_low is not None and best.ci_low > before
    said = (
        f"multiplying them by {at} raises refusals of harmful prompts from {words.percent(before)} "
        f"to {words.percent(most)}"
        if told
        else "no factor raises refusals of harmful prompts by more than chance "
        f"({words.percent(most)} at most, {words.percent(before)} unchanged)"
    )
    falls = [f for f, rate in zip(factors, harmful, strict=True) if rate < before - _FALL]
    unread = rows[falls[0], "harmful"].unscored if falls else 0
    mute = (
        f", where {unread} of {rows[falls[0], 'harmful'].n} answers are empty or unreadable"
        if unread
        else ""
    )
    down = f"; from a factor of {falls[0]:g} on they fall{mute}" if falls else ""
    return f"Of the first {words.count(card.amplified_k)} {card.noun}: {said}{down}."


def spread(card: FragilityCard) -> str:
    """How unequally what refusals rest on is spread."""
    return (
        f"Of all that ablation attribution gives to {card.noun} that refusals rest on, "
        f"{words.count(card.n50)} of {words.count(card.units)} hold half. It is as unequal as if "
        f"{words.count(round(card.effective_neurons or 0))} held the same and the others nothing "
        f"(Gini {words.number(card.gini)}: 0 if all hold the same, 1 if one holds all)."
    )


def site_finding(card: FragilityCard) -> str:
    """Which of two kinds of units refusals rest on more, share for share."""
    both = {}
    for site, name in ((SiteKind.MLP, card.noun), (SiteKind.ATTENTION, "attention channels")):
        low = [
            p
            for p in card.curve_of(ABLATION, site=site)
            if p.refusal_rate is not None
            and card.intact.refusal_rate is not None
            and p.refusal_rate <= card.intact.refusal_rate / 2
        ]
        both[name] = _share(low[0]) if low else None
    said = [
        f"{share} of the {name} are enough"
        if share
        else f"no share of the {name} is that was tried"
        for name, share in both.items()
    ]
    return f"To halve refusals by ablation attribution, {' and '.join(said)}."


def removal_chart(card: FragilityCard) -> Sized:
    """Refusals against the share removed, a line for each set."""
    curves = dict(enumerate(card.curve_of(name) for name in card.sets()))
    return Sized.of(lambda size: _chart(card, curves, card.noun, size))


def topic_chart(card: FragilityCard) -> Sized:
    """Answers on topic against the share removed, a line for each set."""
    curves = dict(enumerate(card.curve_of(name) for name in card.sets()))
    return Sized.of(lambda size: _chart(card, curves, card.noun, size, on_topic=True))


def site_chart(card: FragilityCard) -> Sized:
    """The same by ablation attribution, for neurons and for attention's channels."""
    curves = {
        NEURONS: card.curve_of(ABLATION),
        CHANNELS: card.curve_of(ABLATION, site=SiteKind.ATTENTION),
        CHANCE: card.curve_of(RANDOM, site=SiteKind.ATTENTION),
    }
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
    card: FragilityCard,
    curves: Mapping[int, Sequence[RemovalPoint]],
    noun: str,
    size: str,
    *,
    on_topic: bool = False,
) -> Markup:
    """Curves by the number of their series, the one that names the shares first."""
    shares = sorted(point.share for curve in curves.values() for point in curve)
    # Units of another kind are other shares by rounding alone.
    named = sorted({point.share for point in next(iter(curves.values()))})
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
    if on_topic and card.unaligned_on_topic is not None:
        parts.append(level(frame, card.unaligned_on_topic, "level"))
    elif not on_topic and (intact := card.intact.refusal_rate) is not None:
        parts += [level(frame, intact, "level"), level(frame, intact / 2, "ceiling")]
    for place, (series, curve) in enumerate(curves.items()):
        shift = _DODGE * place - _DODGE
        marks = [mark for point in curve if (mark := _mark(point, card.noun, on_topic)) is not None]
        if marks:
            parts += marked_line(frame, marks, Style.of_series(series), shift=shift)
    what = "Answers on topic" if on_topic else "Refusals of harmful prompts"
    label = f"{what} against the share removed; figures in the table."
    return drawing(frame.width, frame.height, label, *parts, class_=f"chart {size}")


def _mark(point: RemovalPoint, noun: str, on_topic: bool) -> Mark | None:
    kind = "attention channels" if point.site is SiteKind.ATTENTION else noun
    said = f"{set_name(point.set, noun)}, {words.count(point.k)} {kind}: "
    if on_topic:
        if point.on_topic is None:
            return None
        return Mark(point.share, point.on_topic, f"{said}{words.percent(point.on_topic)} on topic")
    if point.refusal_rate is None:
        return None
    said += f"{words.percent(point.refusal_rate)} refused, {words.interval(point.interval)}"
    return Mark(point.share, point.refusal_rate, said, point.interval)


def _share(point: RemovalPoint) -> str:
    """Two digits: a share that gives a whole number of units is never quite round."""
    return f"{100 * point.share:.2g}{words.NBSP}%"


def _times(value: float | None, of: float) -> str:
    return words.NOT_ENOUGH if value is None else f"{value / of:.1f} times"
