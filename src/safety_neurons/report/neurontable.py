"""The first neurons of each ranking, one by one, from the run's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as parquet

from safety_neurons.errors import reading
from safety_neurons.neurons import Ranking, RankingName
from safety_neurons.report.words import NOT_ENOUGH, count, number

LISTED = 30
_MEANS = ("mean_aligned", "mean_unaligned")


@dataclass(frozen=True)
class NeuronRow:
    """One neuron as the page shows it.

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
    """The first neurons of one ranking."""

    ranking: str
    others: tuple[str, ...]
    rows: tuple[NeuronRow, ...]


def neuron_tables(path: Path, rankings: Mapping[RankingName, Ranking]) -> tuple[NeuronTable, ...]:
    """A table for each ranking, the primary one first."""
    with reading(path, remedy="run `safety-neurons find` again"):
        available = set(parquet.read_schema(path).names)
        columns = parquet.read_table(path, columns=[c for c in _MEANS if c in available])
    means = {name: columns[name].to_pylist() for name in columns.column_names}
    return tuple(_table(name, rankings, means) for name in rankings)


def _table(
    name: RankingName,
    rankings: Mapping[RankingName, Ranking],
    means: Mapping[str, list[float]],
) -> NeuronTable:
    ranking = rankings[name]
    others = [other for other in rankings if other != name]
    rows = []
    for place, flat in enumerate(ranking.order[:LISTED].tolist(), start=1):
        elsewhere = (count(int(rankings[other].ranks[flat]) + 1) for other in others)
        aligned, unaligned = (
            number(means[column][flat]) if column in means else NOT_ENOUGH for column in _MEANS
        )
        rows.append(
            NeuronRow(
                place,
                _name(ranking, flat),
                number(float(ranking.scores[flat])),
                tuple(elsewhere),
                (aligned, unaligned),
            )
        )
    return NeuronTable(str(name), tuple(map(str, others)), tuple(rows))


def _name(ranking: Ranking, flat: int) -> str:
    layer = next(i for i, end in enumerate(ranking.layout.offsets[1:]) if flat < end)
    return f"L{layer}.N{flat - ranking.layout.offsets[layer]}"
