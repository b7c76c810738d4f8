"""Where a ranking's first neurons lie: the part of the top k that is in each layer.

Of the two ways to count (part of the set, part of the layer) this one is drawn, because
every share then adds up to 100 % and shares of any size can be compared in one colour
scale; the part of the layer would leave all but the largest shares blank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safety_neurons.neurons import Ranking
from safety_neurons.report import words
from safety_neurons.report.svg import drawing, element, text, titled

_WIDTHS = {"wide": 860, "narrow": 330}
_LEFT, _TOP, _ROW, _BOTTOM = 46, 6, 22, 40
_LEAST_CELL = 7.0


@dataclass(frozen=True)
class HeatMap:
    """The parts of one ranking's top k, by share and layer.

    Args:
        parts: for each share, for each layer; a row of None where k is 0.
        even: the part of all neurons that each layer has.
    """

    ranking: str
    shares: tuple[float, ...]
    parts: tuple[tuple[float | None, ...], ...]
    even: tuple[float, ...]

    @classmethod
    def of(cls, ranking: Ranking, shares: Sequence[float]) -> HeatMap:
        """Counted from the ranking itself."""
        widths = ranking.layout.widths
        parts = (_parts(ranking.top(share).per_layer()) for share in shares)
        even = tuple(width / sum(widths) for width in widths)
        return cls(str(ranking.name), tuple(shares), tuple(parts), even)

    @property
    def highest(self) -> float:
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
        layers = len(self.even)
        cell = max((_WIDTHS[size] - _LEFT - 8) / layers, _LEAST_CELL)
        width, height = _LEFT + cell * layers + 8, _TOP + _ROW * len(self.shares) + _BOTTOM
        label = (
            f"Part of the first neurons of the {self.ranking} ranking that lies in each layer, at "
            f"{len(self.shares)} shares; the table below has the same figures."
        )
        parts = [*self._cells(cell, scale), *self._labels(cell, height)]
        return drawing(width, height, label, *parts, class_=f"heat {size}")

    def _cells(self, cell: float, scale: float) -> Iterator[Markup]:
        for i, (share, row) in enumerate(zip(self.shares, self.parts, strict=True)):
            for layer, part in enumerate(row):
                square = element(
                    "rect",
                    x=_LEFT + cell * layer,
                    y=_TOP + _ROW * i,
                    width=cell - 1,
                    height=_ROW - 1,
                    class_="cell",
                    style=f"fill-opacity:{strength(part, scale):.3f}",
                )
                said = f"{words.share(share)}, layer {layer}: {words.percent(part)} of the set"
                yield titled(said, square)

    def _labels(self, cell: float, height: float) -> Iterator[Markup]:
        for i, share in enumerate(self.shares):
            yield text(_LEFT - 7, _TOP + _ROW * i + 15, words.share(share), "tick", "end")
        under = _TOP + _ROW * len(self.shares) + 14
        step = next(step for step in (1, 2, 5, 10) if cell * step >= 24 or step == 10)
        for layer in range(0, len(self.even), step):
            yield text(_LEFT + cell * (layer + 0.5), under, str(layer), "tick", "middle")
        middle = _LEFT + cell * len(self.even) / 2
        yield text(middle, height - 6, "layer", "title", "middle")


def strength(part: float | None, scale: float) -> float:
    """How much colour a part gets, 0 to 1."""
    return 0.0 if part is None or scale <= 0 else min(part / scale, 1.0)


def _parts(counts: list[int]) -> tuple[float | None, ...]:
    total = sum(counts)
    return tuple(count / total if total else None for count in counts)
