"""What is lost behind a unit where it is held at its mean: by gradients for all, by passes for few.

Of each prompt, two figures of a unit in layer L:

- the way of the residual stream along a direction, at one position, mean over what enters each
  layer behind L;
- the same of some units in layers behind L, along what sets two kinds of prompts apart in them.

Both are told as parts of what is between the two kinds, so that 0.1 is a tenth of the way. By
gradients a figure is, summed over all positions that are read,

    (activation − mean) × ∂ figure / ∂ activation,

the first-order estimate of what holding that unit alone would take (attribution patching, Nanda
2023).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import BlockTap, ModelGroup, PairedRows, Resumption, Role, Tokens
from safety_neurons.engine.resuming import entrance
from safety_neurons.errors import UserError
from safety_neurons.inference import left_padded
from safety_neurons.inference.onebyone import entrances, layers_of, one_by_one, require_same
from safety_neurons.interventions import Ablate, InterventionEdit
from safety_neurons.methods.attribution import Tap
from safety_neurons.methods.moments import Moments
from safety_neurons.progress import Progress, Silent
from safety_neurons.units import Block, BlockKey, SiteKind, UnitSet, UnitSpace, UnitValues


@dataclass(frozen=True)
class Targets:
    """What is looked at behind units.

    Args:
        streams: by layer, a vector whose product with what enters the layer is the figure.
        position: where, counted from the end of the prompt (-1 is the last).
        later: the same for each unit of the space; 0 for units that are not looked at.
    """

    streams: Mapping[int, Float[Tensor, "d_model"]]
    position: int
    later: Float[Tensor, "unit"]

    def behind(self, layer: int) -> list[int]:
        """The layers whose entering streams are looked at, behind one layer."""
        return [each for each in self.streams if each > layer]


@dataclass
class Mediation:
    """Both figures, as sums over prompts; mergeable with `+`."""

    direction: Moments
    later: Moments

    def tensors(self) -> dict[str, Tensor]:
        """As tensors by name."""
        return {**self.direction.tensors("direction-"), **self.later.tensors("later-")}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Mediation:
        """What `tensors` gave."""
        both = (Moments.of_tensors(tensors, name) for name in ("direction-", "later-"))
        return cls(*both)

    def __add__(self, other: Mediation) -> Mediation:
        return Mediation(self.direction + other.direction, self.later + other.later)


def first_order(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    targets: Targets,
    means: UnitValues,
) -> Mediation:
    """The figures of every unit, of one batch of prompts (token ids).

    Args:
        means: what each unit of their space would be held at.

    Returns:
        Sums over this batch's prompts; 0 for units with nothing behind them.

    Raises:
        UserError: if gradients are no finite numbers.
    """
    space, batch = means.space, left_padded(prompts, group)
    streams = {layer: entrance(layer) for layer in targets.streams}
    tap = Tap(UnitSpace((*space.blocks, *_blocks(group, streams.values()))))
    with torch.enable_grad(), PairedRows(group, {role: len(prompts)}, edits=[tap]) as rows:
        rows.forward({role: batch}, logits=None)
        own = [tap.taken[key, role] for key in space.keys]
        place = targets.position
        ways = [
            (tap.taken[streams[layer], role][:, place] @ vector.to(own[0])).sum()
            for layer, vector in targets.streams.items()
        ]
        later = [
            (x[:, place] @ targets.later[space.slice_of(key)].to(x)).sum()
            for key, x in zip(space.keys, own, strict=True)
        ]
        to_ways = torch.autograd.grad(
            torch.stack(ways).sum(), own, retain_graph=True, materialize_grads=True
        )
        to_later = torch.autograd.grad(torch.stack(later).sum(), own, materialize_grads=True)
    found = torch.zeros(2, len(prompts), space.total, dtype=torch.float64)
    read = batch.mask.bool()[..., None]
    for key, x, one, other in zip(space.keys, own, to_ways, to_later, strict=True):
        span = space.slice_of(key)
        away = (x.detach() - means.of(key).to(x)) * read
        direct = torch.zeros_like(other)
        direct[:, place] = targets.later[span].to(x)  # a unit is not behind itself
        for of, gradient, count in (
            (0, one, len(targets.behind(key.layer))),
            (1, other - direct, _layers_behind(targets.later, space, key.layer)),
        ):
            if count:
                found[of, :, span] = (away * gradient).sum(dim=1).double().cpu() / count
    if not bool(torch.isfinite(found).all()):
        raise UserError("Some gradients are no finite numbers; run the model in float32.")
    return Mediation(Moments.of(found[0]), Moments.of(found[1]))


@torch.no_grad()
def exact(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    units: Sequence[int],
    targets: Targets,
    means: UnitValues,
    progress: Progress | None = None,
) -> Float[Tensor, "unit prompt"]:
    """The figure of the streams by passes, each with one unit held at its mean.

    What is below a unit's layer is computed once for all.

    Args:
        units: flat positions in the space of `means`, each with a layer behind it.

    Returns:
        A row for each of `units`, float64.

    Raises:
        InterventionError: if a unit was not held, or the model's layers cannot be passed over.
    """
    space, batch = means.space, left_padded(prompts, group)
    held = [Ablate(UnitSet.of(torch.tensor([unit]), space), means) for unit in units]
    begun = sorted(set(layers_of(held)))
    entered, plain = entrances(group, role, begun), _at(targets, targets.streams)
    _run(group, role, batch, [entered, plain])
    again = _at(targets, targets.behind(begun[-1]))
    _run(group, role, batch, [again], Resumption(begun[-1], entered.taken[entrance(begun[-1])]))
    whole, resumed = (_figures(tap, targets.behind(begun[-1]), targets) for tap in (plain, again))
    require_same(begun[-1], whole, resumed)
    found = torch.empty(len(units), len(prompts), dtype=torch.float64)
    progress, label = progress or Silent(), "Units held one by one"
    for each in one_by_one(group, role, batch, held, entered, progress, label):
        behind = targets.behind(each.layer)
        tap = _at(targets, behind)
        _run(group, role, each.tokens, [each.edit, tap], each.resumed)
        after = _figures(tap, behind, targets).view(len(each.places), len(prompts))
        found[each.places] = _figures(plain, behind, targets) - after
    return found


def _run(
    group: ModelGroup,
    role: Role,
    tokens: Tokens,
    edits: Sequence[BlockTap | InterventionEdit],
    resumed: Resumption | None = None,
) -> None:
    with PairedRows(group, {role: len(tokens.ids)}, edits=edits, resumed=resumed) as rows:
        rows.forward({role: tokens}, logits=None)


def _at(targets: Targets, layers: Iterable[int]) -> BlockTap:
    """Keeps what enters some layers, at the targets' position."""
    return BlockTap([entrance(layer) for layer in layers], (slice(None), targets.position))


def _figures(tap: BlockTap, layers: Sequence[int], targets: Targets) -> Float[Tensor, "row"]:
    ways = [
        tap.taken[entrance(layer)].double()
        @ targets.streams[layer].to(tap.taken[entrance(layer)].device).double()
        for layer in layers
    ]
    return torch.stack(ways).mean(dim=0).cpu()


def _layers_behind(later: Float[Tensor, "unit"], space: UnitSpace, layer: int) -> int:
    watched = space.layers_of(later.nonzero().flatten())
    return len(torch.unique(watched[watched > layer]))


def _blocks(group: ModelGroup, keys: Collection[BlockKey]) -> list[Block]:
    return [block for block in group.space(SiteKind.RESIDUAL).blocks if block.key in keys]
