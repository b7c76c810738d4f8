"""What units read and write, in tokens: their weights through the embedding and the unembedding.

The logit lens of a unit's column (Geva et al. 2022): what the unit adds to the residual stream, as
the unembedding reads it. The norms on the way are held at a residual stream whose root mean square
is 1, so that a figure is in logits for an activation of 1, up to one factor that all tokens of a
model share. What makes a unit is looked at the other way: the cosine of a row of the gate or up
projection with each token's embedding. Both leave out everything that layers between do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from safety_neurons.engine import HookedModel, Site, input_axis
from safety_neurons.engine.effective import effective, neighbours
from safety_neurons.engine.readout import Held, Readout
from safety_neurons.engine.sites import base_layer
from safety_neurons.units import UnitSpace

WRITES = "writes"
"""The reading of a unit's column; rows are named by their projection."""
TOKENS = 10
"""So many tokens are listed at either end."""
NEIGHBOURS = 10
_ROWS = {"gate_proj": "gate", "up_proj": "up"}
"""What projections that make units are called for people; any other is `in`."""

Weighed = list[tuple[int, float]]
"""Ids, of tokens or units, with a figure each."""


@dataclass(frozen=True)
class TokenReading:
    """The tokens that one of a unit's weight vectors goes with most, and least.

    Args:
        of: WRITES, or the projection that makes the unit.
        highest: by descending figure; `lowest` by ascending.
    """

    of: str
    highest: Weighed
    lowest: Weighed


@torch.no_grad()
def readings(
    model: HookedModel, space: UnitSpace, units: Sequence[int], *, tokens: int
) -> list[list[TokenReading]]:
    """What some units write, and what makes them, in tokens.

    Args:
        units: flat positions in `space`.
        tokens: how many the tokenizer has; the rows of the matrices behind them are padding.

    Returns:
        For each unit, its column through the unembedding, less the mean over tokens; then each row
        that makes it, as cosines with the tokens' embeddings, where the projections are known.

    Raises:
        UserError: if the model has no norm before its unembedding, or an adapter does more than to
            add to a weight or to scale it.
    """
    readout, embedding = Readout.of(model), _embedding(model)[:tokens]
    unembedding, last = readout.unembedding[:tokens], _at_one(readout.norm, model)
    sizes, columns = _sizes(embedding, dim=1), _Columns(model, space)
    found: dict[int, list[TokenReading]] = {}
    for site, here in columns.holding(units):
        coordinates = space.coordinates_of(torch.tensor(here))
        written = _through(last, columns.of(site)[:, coordinates].T)
        logits = unembedding @ written.T
        for unit, of_unit in zip(here, (logits - logits.mean(dim=0)).T, strict=True):
            found[unit] = [_ends(WRITES, of_unit)]
        for name in site.writers:
            rows = _rows(model, name, coordinates)
            cosines = (embedding @ rows.T) / sizes / _sizes(rows, dim=1).T
            for unit, of_unit in zip(here, cosines.T, strict=True):
                found[unit].append(_ends(_ROWS.get(name.rpartition(".")[2], "in"), of_unit))
    return [found[unit] for unit in units]


@torch.no_grad()
def alike(
    model: HookedModel, space: UnitSpace, units: Sequence[int], *, kept: int = NEIGHBOURS
) -> list[Weighed]:
    """For each of some units, those of the whole space that write most along the same line.

    Blocks are looked at one by one, and of each only the nearest units are kept.

    Args:
        units: flat positions in `space`.
        kept: so many are kept of each.

    Returns:
        Flat positions with cosines of their columns, as these reach the residual stream; those
        furthest from 0 first, as a unit may write the opposite of another.

    Raises:
        UserError: if an adapter does more than to add to a weight or to scale it.
    """
    columns = _Columns(model, space)
    own = {
        unit: column
        for site, here in columns.holding(units)
        for unit, column in zip(
            here, columns.of(site)[:, space.coordinates_of(torch.tensor(here))].T, strict=True
        )
    }
    chosen = torch.stack([own[unit] for unit in units])
    chosen = chosen / _sizes(chosen, dim=1)
    itself = torch.tensor(list(units), device=chosen.device)[:, None]
    cosines, flat = chosen.new_zeros(len(units), 0), itself[:, :0]
    for site in columns.sites:
        span = space.slice_of(site.key)
        block = columns.of(site)
        places = torch.arange(span.start, span.stop, device=chosen.device).expand(len(units), -1)
        new = (chosen @ (block / _sizes(block, dim=0))).where(places != itself, torch.nan)
        cosines, flat = torch.cat([cosines, new], dim=1), torch.cat([flat, places], dim=1)
        nearest = cosines.abs().nan_to_num(-1.0).topk(min(kept, cosines.shape[1]), dim=1).indices
        cosines, flat = cosines.gather(1, nearest), flat.gather(1, nearest)
    return [
        [(at, value) for at, value in zip(*row, strict=True) if at != unit]
        for unit, *row in zip(units, flat.tolist(), cosines.tolist(), strict=True)
    ]


class _Columns:
    """What units of a space write into the residual stream for an activation of 1, by block.

    Args (of the state):
        sites: that have units of the space.
    """

    def __init__(self, model: HookedModel, space: UnitSpace) -> None:
        self.sites = [site for site in model.sites if site.key in space]
        self._model, self._space = model, space
        # What stands before a site is not asked for, and not all kinds know what makes them.
        alone = [replace(site, writers=(site.name,)) for site in self.sites]
        self._beside = neighbours(model.model, alone)

    def of(self, site: Site) -> Float[Tensor, "d_model width"]:
        """The columns of one block, through the norms behind it."""
        weight, _ = effective(self._model, site.name, of_scaled=True)
        columns = weight if input_axis(site.module) == 1 else weight.T
        for norm in self._beside[site.key].behind:
            columns = _through(_at_one(norm, self._model), columns.T).T
        return columns

    def holding(self, units: Sequence[int]) -> Iterator[tuple[Site, list[int]]]:
        """The sites of some units, each with those that it holds."""
        for site in self.sites:
            span = self._space.slice_of(site.key)
            if here := [unit for unit in dict.fromkeys(units) if span.start <= unit < span.stop]:
                yield site, here


def _at_one(norm: nn.Module, model: HookedModel) -> Held:
    """A norm held at a residual stream without a mean and with a root mean square of 1.

    Its scale is then the gain, however the norm keeps that (Gemma's is 1 + its weight).

    Returns:
        The norm's linear part; a module that passes on what it reads has a scale of 1.
    """
    width = model.model.config.get_text_config().hidden_size
    signs = 1 - 2 * (torch.arange(width, device=model.model.device) % 2)
    probe = signs.to(model.model.dtype)[None]
    return Held.at(norm, probe[0], norm(probe)[0])


def _through(norm: Held, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What a held norm makes of parts of what it reads."""
    entered = rows - rows.mean(dim=-1, keepdim=True) if norm.centred else rows
    return entered * norm.scale


def _rows(
    model: HookedModel, writer: str, coordinates: Int[Tensor, "k"]
) -> Float[Tensor, "k d_model"]:
    """The rows of a projection that make some of its outputs."""
    weight, _ = effective(model, writer)
    outputs = 1 - input_axis(base_layer(model.model.get_submodule(writer)))
    return (weight if outputs == 0 else weight.T)[coordinates]


def _embedding(model: HookedModel) -> Float[Tensor, "vocab d_model"]:
    """The tokens' embeddings with the model's adapter in them, up to a common scale."""
    module = model.model.get_input_embeddings()
    weight = base_layer(module).get_parameter("weight").detach()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    adapter = model.adapter
    if adapter is None or not isinstance(module, LoraLayer):
        return weight
    if adapter not in module.lora_embedding_A:
        return weight
    down, up = module.lora_embedding_A[adapter].detach(), module.lora_embedding_B[adapter].detach()
    return weight + (up @ down).T.to(weight) * module.scaling[adapter]


def _sizes(vectors: Tensor, *, dim: int) -> Tensor:
    """Lengths to divide by; a vector of zeros stays one."""
    return vectors.norm(dim=dim, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def _ends(of: str, figures: Float[Tensor, "vocab"]) -> TokenReading:
    """The tokens with the largest and the smallest figures."""
    count = min(TOKENS, len(figures))
    high, low = figures.topk(count), figures.topk(count, largest=False)
    return TokenReading(
        of,
        list(zip(high.indices.tolist(), high.values.tolist(), strict=True)),
        list(zip(low.indices.tolist(), low.values.tolist(), strict=True)),
    )
