"""Cells in rows and columns, with labels on the left and below: what heat maps are drawn on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from safety_neurons.report.charts.marks import cell
from safety_neurons.report.charts.svg import text

_LEAST_CELL = 7.0
_LABEL_ROOM = 24
_STEPS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Grid:
    """Named rows and columns.

    Args:
        room: the width to fill; with many columns the drawing is wider.
        left, right, top, bottom: room around the cells, for labels.
        row: the height of one.
    """

    room: int
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    left: int = 46
    right: int = 8
    top: int = 6
    bottom: int = 40
    row: int = 22

    @property
    def column(self) -> float:
        """The width of one."""
        return max((self.room - self.left - self.right) / len(self.columns), _LEAST_CELL)

    @property
    def width(self) -> float:
        """Of the whole drawing."""
        return self.left + self.column * len(self.columns) + self.right

    @property
    def height(self) -> float:
        """Of the whole drawing."""
        return self.top + self.row * len(self.rows) + self.bottom

    def cell(self, row: int, column: int, *, strength: float, said: str) -> Markup:
        """One cell, in so much of the full colour."""
        x, y = self.left + self.column * column, self.top + self.row * row
        return cell(x, y, self.column - 1, self.row - 1, strength=strength, said=said)

    def labels(self, title: str) -> Iterator[Markup]:
        """The names of all rows, and of as many columns as have room, with the columns' title."""
        for i, name in enumerate(self.rows):
            yield text(self.left - 7, self.top + self.row * i + 15, name, "tick", "end")
        under = self.top + self.row * len(self.rows) + 14
        fitting = (step for step in _STEPS if self.column * step >= _LABEL_ROOM)
        step = next(fitting, _STEPS[-1])
        for i in range(0, len(self.columns), step):
            middle = self.left + self.column * (i + 0.5)
            yield text(middle, under, self.columns[i], "tick", "middle")
        middle = self.left + self.column * len(self.columns) / 2
        yield text(middle, self.height - 6, title, "title", "middle")
