"""A drawing in two sizes: scaling one down would make its letters unreadable on a phone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

WIDE, NARROW = "wide", "narrow"
WIDTHS = {WIDE: 860, NARROW: 330}
"""Of the drawings, in CSS pixels."""


@dataclass(frozen=True)
class Sized:
    """What a page holds of a chart; the style sheet shows the size that fits."""

    wide: Markup
    narrow: Markup

    @classmethod
    def of(cls, draw: Callable[[str], Markup]) -> Sized:
        """Both sizes, each drawn by its name."""
        return cls(draw(WIDE), draw(NARROW))

    def __html__(self) -> str:
        return self.wide + self.narrow
