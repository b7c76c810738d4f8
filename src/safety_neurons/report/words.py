"""Figures as words on a page: no line breaks inside them, and what is undefined says so."""

from __future__ import annotations

from collections.abc import Iterable

from safety_neurons import figures
from safety_neurons.figures import digits, minus
from safety_neurons.statistics import Interval
from safety_neurons.units import SiteKind

NOT_ENOUGH, NOT_RECORDED = "not enough data", "not recorded"
NBSP = "\u00a0"


def percent(value: float | None) -> str:
    """A fraction as per cent, see `figures.percent`: `87 %`."""
    return NOT_ENOUGH if value is None else _whole(figures.percent(value))


def share(value: float | None) -> str:
    """A share of all units as per cent, with up to three digits: `0.5 %`."""
    return NOT_ENOUGH if value is None else _whole(figures.share(value))


def interval(bounds: Interval | None) -> str:
    """`95 % interval 72 to 98 %`."""
    if bounds is None:
        return f"no 95{NBSP}% interval: {NOT_ENOUGH}"
    if bounds.low == bounds.high:
        return f"95{NBSP}% interval of no width: all prompts agree"
    return f"95{NBSP}% interval {bounds_only(bounds)}"


def bounds_only(bounds: Interval | None) -> str:
    """`72 to 98 %`; a dash would read as a minus before a bound."""
    if bounds is None:
        return NOT_ENOUGH
    if bounds.low == bounds.high:
        return "all agree"
    return _whole(figures.bounds(bounds))


def count(value: int | None) -> str:
    """`46,080`."""
    return NOT_ENOUGH if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Three significant digits."""
    return NOT_ENOUGH if value is None else minus(f"{value:#.3g}".removesuffix("."))


def unscored(n: int) -> str:
    """`3 unscored`."""
    return f"{count(n)}{NBSP}unscored"


def times(value: float | None) -> str:
    """`3.2 times`."""
    return NOT_ENOUGH if value is None else f"{digits(value, 1)}{NBSP}times"


def p_value(value: float | None) -> str:
    """`0.03`, `under 0.001`."""
    if value is None:
        return NOT_ENOUGH
    return "under 0.001" if value < 0.001 else f"{value:.2g}"


def noun_of(kinds: Iterable[SiteKind]) -> str:
    """What the units of these sites are called on a page: neurons, unless there are others."""
    return "neurons" if {kind.units for kind in kinds} <= {SiteKind.MLP.units} else "units"


def plural(n: int, noun: str) -> str:
    """`1 prompt`, `32 prompts`."""
    return f"{count(n)}{NBSP}{noun}" if n == 1 else f"{count(n)}{NBSP}{noun}s"


def seconds(value: float | None) -> str:
    """`48 s`, `12 min`, `3 h 05 min`."""
    if value is None:
        return NOT_ENOUGH
    minutes = round(value / 60)
    if value < 120:
        return f"{value:.0f}{NBSP}s"
    if minutes < 120:
        return f"{minutes}{NBSP}min"
    return f"{minutes // 60}{NBSP}h {minutes % 60:02}{NBSP}min"


def _whole(text: str) -> str:
    return text.replace(" ", NBSP)
