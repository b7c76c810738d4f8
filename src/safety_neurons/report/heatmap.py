"""Where a ranking's first units lie: the part of the top k that is in each layer.

Of the two ways to count (part of the set, part of the layer) this one is drawn, because
every share then adds up to 100 % and shares of any size can be compared in one colour
scale; the part of the layer would leave all but the largest shares blank. All sites of a
layer count together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safety_neurons.report import words
from safety_neurons.report.charts.grid import Grid
from safety_neurons.report.charts.svg import drawing
from safety_neurons.units import Ranking

_WIDTHS = {"wide": 860, "narrow": 330}


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

    @property
    def highest(self) -> float:
        """The largest part of any set in one layer."""
        return max((part or 0.0 for row in self.parts for part in row), default=0.0)

    def draw(self, scale: float) -> Markup:
        """Both sizes; a part of `scale` gets the full colour."""
        return Markup("").join(self._draw(size, scale) for size in _WIDTHS)

    def sentence(self, share: float) -> str:
        """The fullest layers at one share."""
        row = self.parts[self.shares.index(share)]
        if row[0] is None:
            return f"At {words.share(share)} the set is empty."
        fullest = sorted(range(len(row)), key=lambda layer: -(row[layer] or 0.0))[:3]
        named = ", ".join(f"layer {layer} ({words.percent(row[layer])})" for layer in fullest)
        return f"At {words.share(share)} the fullest layers are {named}."

    def _draw(self, size: str, scale: float) -> Markup:
        rows = tuple(words.share(share) for share in self.shares)
        columns = tuple(str(layer) for layer in range(len(self.even)))
        grid = Grid(_WIDTHS[size], rows, columns)
        label = (
            f"Part of the first {self.noun} of the {self.ranking} ranking that lies in each layer, "
            f"at {len(self.shares)} shares; the table below has the same figures."
        )
        parts = [*self._cells(grid, scale), *grid.labels("layer")]
        return drawing(grid.width, grid.height, label, *parts, class_=f"heat {size}")

    def _cells(self, grid: Grid, scale: float) -> Iterator[Markup]:
        for i, (share, row) in enumerate(zip(grid.rows, self.parts, strict=True)):
            for layer, part in enumerate(row):
                said = f"{share}, layer {layer}: {words.percent(part)} of the set"
                yield grid.cell(i, layer, strength=strength(part, scale), said=said)


def strength(part: float | None, scale: float) -> float:
    """How much colour a part gets, 0 to 1."""
    return 0.0 if part is None or scale <= 0 else min(part / scale, 1.0)


def _parts(counts: list[int]) -> tuple[float | None, ...]:
    total = sum(counts)
    return tuple(count / total if total else None for count in counts)
