"""Figures in sentences: rates, shares and effects as per cent, in every text that people read.

Files for programs, options and code have the same as fractions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safety_neurons.statistics import Interval

UNKNOWN = "–"
_TELLING = (0, 50, 90, 100)


def percent(value: float | None, unknown: str = UNKNOWN) -> str:
    """A fraction as per cent: `87 %`.

    Returns:
        No decimals, unless rounding would hide on which side of 0, 50, 90 or 100 % it lies.
    """
    if value is None:
        return unknown
    exact = 100 * value
    hides = round(exact) in _TELLING and abs(exact - round(exact)) > 0.05
    return f"{digits(exact, 1 if hides else 0)} %"


def share(value: float | None, unknown: str = UNKNOWN) -> str:
    """A share of all units as per cent, with up to three digits: `0.5 %`."""
    return unknown if value is None else f"{100 * value:.3g} %"


def bounds(of: Interval | None) -> str:
    """`72 to 98 %`; a dash would read as a minus before a bound."""
    if of is None:
        return UNKNOWN
    return f"{digits(100 * of.low, 0)} to {digits(100 * of.high, 0)} %"


def within(of: Interval | None) -> str:
    """The interval behind a figure, ` (72 to 98 %)`; nothing where there is none."""
    return "" if of is None else f" ({bounds(of)})"


def bounded(value: float | None, of: Interval | None, unknown: str = UNKNOWN) -> str:
    """A figure with its interval: `87 % (72 to 98 %)`."""
    return percent(value, unknown) + ("" if value is None else within(of))


def digits(value: float, decimals: int) -> str:
    """With so many decimals, and a minus that is one."""
    rounded = round(value, decimals) + 0.0  # adding 0.0 makes a negative zero positive
    return minus(f"{rounded:.{decimals}f}")


def points(value: float, decimals: int = 1) -> str:
    """A difference of two rates in percentage points, with its sign: `−4.8`."""
    return minus(f"{100 * value:+.{decimals}f}")


def minus(text: str) -> str:
    """With a minus for each hyphen."""
    return text.replace("-", "−")
