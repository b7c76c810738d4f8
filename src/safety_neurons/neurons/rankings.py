"""Rankings of all neurons, and the table that a run keeps them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.errors import UserError, reading
from safety_neurons.models import NeuronLayout
from safety_neurons.neurons.sets import NeuronSet


class RankingName(StrEnum):
    """By what neurons are ranked."""

    CHANGE_SCORE = "change-score"
    """Root mean square of the activation difference (Chen et al. 2025)."""
    ATTRIBUTION = "attribution"
    """Activation difference × gradient of the aligned answer's likelihood."""

    @property
    def column(self) -> str:
        """The name as it stands in table columns."""
        return self.value.replace("-", "_")


@dataclass(frozen=True, eq=False)
class Ranking:
    """Every neuron with a score, the highest first.

    Args:
        name: of the method that gave the scores.
        scores: flat, one for each neuron.
    """

    name: RankingName
    scores: Float[Tensor, "neuron"]
    layout: NeuronLayout

    def __post_init__(self) -> None:
        if not torch.isfinite(self.scores).all():
            bad = int((~torch.isfinite(self.scores)).sum())
            raise UserError(
                f"The ranking '{self.name}' has {bad} scores that are not finite numbers; run it "
                "in float32."
            )

    @cached_property
    def order(self) -> Int[Tensor, "neuron"]:
        """Flat positions by descending score; ties keep the order of the layout."""
        return torch.sort(self.scores, descending=True, stable=True).indices

    @cached_property
    def ranks(self) -> Int[Tensor, "neuron"]:
        """Each neuron's place, from 0."""
        ranks = torch.empty_like(self.order)
        ranks[self.order] = torch.arange(len(self.order))
        return ranks

    def top(self, share: float) -> NeuronSet:
        """The first k = round(share × N) neurons."""
        k = neurons_in(share, self.layout)
        return NeuronSet.of(self.order[:k], self.layout, ranking=str(self.name), share=share)


def neurons_in(share: float, layout: NeuronLayout) -> int:
    """k = round(share × N).

    Raises:
        UserError: for a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"A share of {share} is no fraction of all neurons; give 0 to 1.")
    return round(share * layout.total)


def write_table(
    path: Path,
    rankings: Mapping[RankingName, Ranking],
    means: Mapping[str, Float[Tensor, "neuron"]],
) -> None:
    """Write `neurons.parquet`, one row a neuron; the first ranking is the primary one."""
    primary = next(iter(rankings.values()))
    flat = torch.arange(primary.layout.total)
    columns = {
        "layer": primary.layout.layers_of(flat).int(),
        "neuron": primary.layout.neurons_of(flat).int(),
        "score": primary.scores,
        "rank": primary.ranks,
    }
    for name, ranking in rankings.items():
        columns[f"score_{name.column}"] = ranking.scores
        columns[f"rank_{name.column}"] = ranking.ranks
    table = pa.table({k: v.numpy() for k, v in {**columns, **means}.items()})
    names = ",".join(rankings)
    parquet.write_table(table.replace_schema_metadata({"rankings": names}), path)


def read_table(path: Path) -> dict[RankingName, Ranking]:
    """The rankings of a `neurons.parquet`, the primary one first.

    Raises:
        UserError: if the file is damaged, or not every neuron stands in it once, in order.
    """
    with reading(path, remedy="run `safety-neurons find` again"):
        table = parquet.read_table(path)
        layers = torch.from_numpy(table["layer"].to_numpy().copy()).long()
        layout = NeuronLayout(tuple(torch.bincount(layers).tolist()))
        flat = torch.arange(layout.total)
        neurons = torch.from_numpy(table["neuron"].to_numpy().copy()).long()
        in_order = torch.equal(layers, layout.layers_of(flat)) and torch.equal(
            neurons, layout.neurons_of(flat)
        )
        names = [RankingName(n) for n in table.schema.metadata[b"rankings"].decode().split(",")]
        scores = {
            name: torch.from_numpy(table[f"score_{name.column}"].to_numpy().copy())
            for name in names
        }
    if not in_order:
        raise UserError(
            f"'{path}' does not hold every neuron once, in order; run `safety-neurons find` again."
        )
    return {name: Ranking(name, scores[name], layout) for name in names}
