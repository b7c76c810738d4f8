"""The first units of each ranking, one by one, from the run's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safety_neurons.report.words import NOT_ENOUGH, count, number
from safety_neurons.units import Ranking, read_means

LISTED = 30
_MEANS = ("mean_aligned", "mean_unaligned")


@dataclass(frozen=True)
class NeuronRow:
    """One unit as the page shows it.

    Args:
        place: in this ranking, from 1.
        elsewhere: its places in the other rankings.
        means: its mean activation in the aligned and the unaligned model.
    """

    place: int
    name: str
    score: str
    elsewhere: tuple[str, ...]
    means: tuple[str, str]


@dataclass(frozen=True)
class NeuronTable:
    """The first units of one ranking."""

    ranking: str
    others: tuple[str, ...]
    rows: tuple[NeuronRow, ...]


def neuron_tables(path: Path, rankings: Mapping[str, Ranking]) -> tuple[NeuronTable, ...]:
    """The first units of every ranking, with their mean activations.

    Args:
        path: of the table that the rankings were read from.

    Returns:
        A table for each ranking, the primary one first.

    Raises:
        UserError: if the file is damaged.
    """
    means = {name: column.tolist() for name, column in read_means(path).items()}
    return tuple(_table(name, rankings, means) for name in rankings)


def _table(
    name: str, rankings: Mapping[str, Ranking], means: Mapping[str, list[float]]
) -> NeuronTable:
    ranking = rankings[name]
    others = [other for other in rankings if other != name]
    first = ranking.order[:LISTED]
    named = zip(first.tolist(), ranking.space.names_of(first), strict=True)
    rows = []
    for place, (flat, unit) in enumerate(named, start=1):
        elsewhere = (count(int(rankings[other].ranks[flat]) + 1) for other in others)
        aligned, unaligned = (
            number(means[column][flat]) if column in means else NOT_ENOUGH for column in _MEANS
        )
        rows.append(
            NeuronRow(
                place,
                unit,
                number(float(ranking.scores[flat])),
                tuple(elsewhere),
                (aligned, unaligned),
            )
        )
    return NeuronTable(name, tuple(others), tuple(rows))
