"""Where a share and an effect lie on the curve's drawing: logarithmic across, linear up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from safety_neurons.report.figures import Figures

_WIDEST = (-0.6, 1.6)
"""Wild bootstrap bounds are cut here, or they would flatten everything else."""
_LABEL_ROOM = 30


@dataclass(frozen=True)
class Frame:
    """The plot area of a drawing and the ranges of its axes."""

    width: int
    height: int
    shares: tuple[float, ...]
    low: float
    high: float
    left: int = 46
    right: int = 18
    top: int = 12
    bottom: int = 46

    @classmethod
    def around(cls, figures: Figures, width: int, height: int) -> Frame:
        """The frame that holds every test point with its interval and controls."""
        points = figures.on("test")
        effects = [
            value
            for p in points
            for value in (p.causal_effect, p.ci_low, p.ci_high, p.control_mean, p.control_max)
            if value is not None
        ]
        low = max(min([0.0, *effects]), _WIDEST[0])
        high = min(max([1.0, *effects]), _WIDEST[1])
        shares = tuple(sorted({point.share for point in points}))
        return cls(width, height, shares, low - 0.05, high + 0.08)

    @property
    def x_end(self) -> int:
        return self.width - self.right

    @property
    def y_end(self) -> int:
        return self.height - self.bottom

    def x(self, share: float) -> float:
        least = min([0.1, *self.shares])
        across = (math.log(share) - math.log(least)) / -math.log(least)
        inset = 16
        return self.left + inset + across * (self.x_end - self.left - 2 * inset)

    def y(self, effect: float) -> float:
        inside = min(max(effect, self.low), self.high)
        up = (inside - self.low) / (self.high - self.low)
        return self.y_end - up * (self.y_end - self.top)

    def labelled_shares(self) -> Iterator[float]:
        """Tested shares from the right, without those whose labels would touch."""
        free_until = math.inf
        for share in reversed(self.shares):
            if self.x(share) <= free_until - _LABEL_ROOM:
                free_until = self.x(share)
                yield share

    def labelled_effects(self) -> list[float]:
        """Multiples of 25 % within the range."""
        first, last = math.ceil(self.low * 4), math.floor(self.high * 4)
        return [step / 4 for step in range(first, last + 1)]
