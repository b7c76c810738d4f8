"""The table of all units that a run keeps: where each is, its scores and places, its means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.errors import UserError, reading
from safety_neurons.units.rankings import Ranking
from safety_neurons.units.space import Block, BlockKey, SiteKind, UnitSpace

MEANS = "mean_"
"""What the names of columns of mean activations begin with."""

_REMEDY = "run `safety-neurons find` again"


def write_table(
    path: Path, rankings: Mapping[str, Ranking], means: Mapping[str, Float[Tensor, "unit"]]
) -> None:
    """Write `neurons.parquet`, one row a unit; the first ranking is the primary one.

    Args:
        means: further columns, by name.

    Raises:
        UserError: if the names of two rankings differ in signs alone.
    """
    if len({column(name) for name in rankings}) < len(rankings):
        raise UserError(
            f"The rankings {', '.join(rankings)} would share a column; rename one of them."
        )
    primary = next(iter(rankings.values()))
    space = primary.space
    flat = torch.arange(space.total)
    sites = [str(block.key.site) for block in space.blocks for _ in range(block.width)]
    columns = {
        "layer": space.layers_of(flat).int(),
        "neuron": space.coordinates_of(flat).int(),
        "score": primary.scores,
        "rank": primary.ranks,
    }
    for name, ranking in rankings.items():
        columns[f"score_{column(name)}"] = ranking.scores
        columns[f"rank_{column(name)}"] = ranking.ranks
    arrays = {name: pa.array(values.numpy()) for name, values in {**columns, **means}.items()}
    table = pa.table({"site": pa.array(sites).dictionary_encode(), **arrays})
    names = ",".join(rankings)
    parquet.write_table(table.replace_schema_metadata({"rankings": names}), path)


def column(ranking: str) -> str:
    """A ranking's name as it stands in the names of columns."""
    return ranking.replace("-", "_").replace(".", "_")


def read_table(path: Path) -> dict[str, Ranking]:
    """The rankings of a `neurons.parquet`.

    Returns:
        Rankings by name, the primary one first. Files without the column `site` hold neurons.

    Raises:
        UserError: if the file is damaged, or not every unit stands in it once, in order.
    """
    with reading(path, remedy=_REMEDY):
        table = parquet.read_table(path)
        layers = table["layer"].to_numpy()
        sites = table["site"].to_pylist() if "site" in table.column_names else None
        space = _space(layers.tolist(), sites or [SiteKind.MLP] * len(layers))
        units = torch.from_numpy(table["neuron"].to_numpy().copy()).long()
        in_order = torch.equal(units, space.coordinates_of(torch.arange(space.total)))
        names = table.schema.metadata[b"rankings"].decode().split(",")
        scores = {
            name: torch.from_numpy(table[f"score_{column(name)}"].to_numpy().copy())
            for name in names
        }
    if not in_order or len(set(space.keys)) < len(space.keys):
        raise UserError(f"'{path}' does not hold every unit once, in order; {_REMEDY}.")
    return {name: Ranking(name, scores[name], space) for name in names}


def read_means(path: Path) -> dict[str, Float[Tensor, "unit"]]:
    """The mean activations in a `neurons.parquet`.

    Returns:
        Columns by name (`mean_aligned`, `mean_unaligned`), in the order of the space; none in files
        without any.

    Raises:
        UserError: if the file is damaged.
    """
    with reading(path, remedy=_REMEDY):
        names = [n for n in parquet.read_schema(path).names if n.startswith(MEANS)]
        table = parquet.read_table(path, columns=names)
        return {name: torch.from_numpy(table[name].to_numpy().copy()) for name in names}


def _space(layers: list[int], sites: list[str]) -> UnitSpace:
    """Blocks from the rows that follow each other with the same layer and site."""
    widths: dict[int, tuple[BlockKey, int]] = {}
    block, last = -1, None
    for layer, site in zip(layers, sites, strict=True):
        if (layer, site) != last:
            block, last = block + 1, (layer, site)
            widths[block] = (BlockKey(layer, SiteKind(site)), 0)
        key, width = widths[block]
        widths[block] = (key, width + 1)
    return UnitSpace(tuple(Block(key, width) for key, width in widths.values()))
