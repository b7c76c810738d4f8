"""Where a ranking's first units lie: how many times an even spread each layer has of the top k.

1 is what a set drawn at random would have, at any share, so sets of all sizes are compared in one
colour scale; each ranking has a scale of its own. All sites of a layer count together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from safety_neurons.report import words
from safety_neurons.report.charts.grid import Grid
from safety_neurons.report.charts.sized import WIDTHS, Sized
from safety_neurons.report.charts.svg import drawing
from safety_neurons.units import Ranking


@dataclass(frozen=True)
class HeatMap:
    """The parts of one ranking's top k, by share and layer.

    Args:
        noun: what the units are called.
        parts: for each share, for each layer; a row of None where k is 0.
        even: the part of all units that each layer has.
    """

    ranking: str
    noun: str
    shares: tuple[float, ...]
    parts: tuple[tuple[float | None, ...], ...]
    even: tuple[float, ...]

    @classmethod
    def of(cls, ranking: Ranking, shares: Sequence[float]) -> HeatMap:
        """Counted from the ranking itself."""
        space = ranking.space
        parts = (_parts(ranking.top(share).per_layer()) for share in shares)
        even = (width / space.total for width in space.by_layer(space.widths))
        return cls(
            ranking.name, words.noun_of(space.kinds), tuple(shares), tuple(parts), tuple(even)
        )

    @cached_property
    def times(self) -> tuple[tuple[float | None, ...], ...]:
        """For each share, for each layer: its part of the set over its part of all units."""
        return tuple(
            tuple(None if p is None else p / even for p, even in zip(row, self.even, strict=True))
            for row in self.parts
        )

    @property
    def highest(self) -> float:
        """How often an even spread the fullest layer has of any set."""
        return max((times or 0.0 for row in self.times for times in row), default=0.0)

    def chart(self) -> Sized:
        """The fullest layer gets the full colour."""
        return Sized.of(self._draw)

    def sentence(self, share: float) -> str:
        """The fullest layers at one share."""
        place = self.shares.index(share)
        row, times = self.parts[place], self.times[place]
        if row[0] is None:
            return f"At {words.share(share)} the set is empty."
        fullest = sorted(range(len(row)), key=lambda layer: -(row[layer] or 0.0))[:3]
        named = ", ".join(
            f"layer {layer} ({words.percent(row[layer])} of the set, "
            f"{words.times(times[layer])} an even spread)"
            for layer in fullest
        )
        return f"At {words.share(share)} the fullest layers are {named}."

    def _draw(self, size: str) -> Markup:
        rows = tuple(words.share(share) for share in self.shares)
        columns = tuple(str(layer) for layer in range(len(self.even)))
        grid = Grid(WIDTHS[size], rows, columns)
        label = (
            f"How many times an even spread each layer has of the first {self.noun} of the "
            f"{self.ranking} ranking, at {len(self.shares)} shares; the table below has the same "
            "figures."
        )
        parts = [*self._cells(grid), *grid.labels("layer")]
        return drawing(grid.width, grid.height, label, *parts, class_=f"heat {size}")

    def _cells(self, grid: Grid) -> Iterator[Markup]:
        scale = self.highest
        for i, (share, row) in enumerate(zip(grid.rows, self.times, strict=True)):
            for layer, times in enumerate(row):
                part = self.parts[i][layer]
                said = (
                    f"{share}, layer {layer}: {words.times(times)} an even spread, "
                    f"{words.percent(part)} of the set"
                )
                yield grid.cell(i, layer, strength=strength(times, scale), said=said)


def strength(times: float | None, scale: float) -> float:
    """How much colour a cell gets, 0 to 1."""
    return 0.0 if times is None or scale <= 0 else min(times / scale, 1.0)


def _parts(counts: list[int]) -> tuple[float | None, ...]:
    total = sum(counts)
    return tuple(count / total if total else None for count in counts)
