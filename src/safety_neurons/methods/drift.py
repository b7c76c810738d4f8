"""How far units of one model moved from those of another: in what they write, and in weights.

What a unit writes into the residual stream is its activation times its column of the projection
that reads it. An adapter may scale either; so activations are taken with the effective column (its
norm, and its angle to the other model's), and weights with the adapter in them: an adapter and its
merged form have moved nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safety_neurons.engine import HookedModel, PairedRows, Role, Side
from safety_neurons.engine.effective import effective
from safety_neurons.engine.sites import base_layer, input_axis
from safety_neurons.errors import UserError
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.methods.bothsides import BothSides
from safety_neurons.models import ModelPair
from safety_neurons.units import BlockKey, UnitSet, UnitSpace


@dataclass
class DriftSums:
    """Sums of squares over positions, per unit, in float64; mergeable with `+`.

    Args:
        positions: how many positions were summed.
        change: of what the unit writes in the one model less what it writes in the other.
        size: of what it writes in the aligned model, the reference.
    """

    positions: int
    change: Float[Tensor, "unit"]
    size: Float[Tensor, "unit"]

    @classmethod
    def zero(cls, space: UnitSpace) -> DriftSums:
        return cls(0, *(torch.zeros(space.total, dtype=torch.float64) for _ in range(2)))

    def __add__(self, other: DriftSums) -> DriftSums:
        return DriftSums(
            self.positions + other.positions, self.change + other.change, self.size + other.size
        )

    def of(self, units: UnitSet) -> float | None:
        """The root of the change of `units` together, as a part of their size.

        Returns:
            None where they were nothing and are something.
        """
        size = float(self.size[units.flat].sum())
        change = float(self.change[units.flat].sum())
        if change == 0:
            return 0.0
        return (change / size) ** 0.5 if size > 0 else None


@dataclass(frozen=True)
class Columns:
    """Each unit's effective columns of the projections that read it, in float64.

    Args:
        aligned, other: their norms in either model.
        turned: 1 less the cosine of the two; 2 where one scale is negative.
    """

    aligned: Float[Tensor, "unit"]
    other: Float[Tensor, "unit"]
    turned: Float[Tensor, "unit"]

    @classmethod
    @torch.no_grad()
    def of(cls, pair: ModelPair, space: UnitSpace) -> Columns:
        """The columns of a pair's units."""
        found = cls(*(torch.zeros(space.total, dtype=torch.float64) for _ in range(3)))
        theirs = {site.key: site for site in pair.sides[Side.UNALIGNED].sites}
        for site in pair.sides[Side.ALIGNED].sites:
            if site.key not in space.keys:
                continue
            both = [
                effective(pair.sides[side], of.name, of_scaled=True)[0].double()
                for side, of in ((Side.ALIGNED, site), (Side.UNALIGNED, theirs[site.key]))
            ]
            span, along = space.slice_of(site.key), 1 - input_axis(site.module)
            norms = [weight.norm(dim=along) for weight in both]
            directions = [
                weight / norm.clamp(min=1e-30).unsqueeze(along)
                for weight, norm in zip(both, norms, strict=True)
            ]
            found.aligned[span], found.other[span] = (norm.cpu() for norm in norms)
            # Of a difference, as 1 − cos would round away what is small.
            apart = (directions[0] - directions[1]).square().sum(dim=along)
            found.turned[span] = (apart / 2).cpu()
        return found


class _Drift(BothSides):
    """Adds one batch's changes, block by block."""

    def __init__(
        self,
        mask: Bool[Tensor, "batch pos"],
        space: UnitSpace,
        columns: Columns,
    ) -> None:
        super().__init__(mask, space)
        self.sums = DriftSums.zero(space)
        self._columns = columns

    def take(
        self, block: BlockKey, aligned: Float[Tensor, "pos unit"], other: Float[Tensor, "pos unit"]
    ) -> None:
        span = self.space.slice_of(block)
        written = aligned * self._columns.aligned[span].to(aligned)
        now = other * self._columns.other[span].to(other)
        turned = 2 * self._columns.turned[span].to(now) * now * written
        self.sums.change[span] = ((now - written).square() + turned).sum(dim=0).cpu()
        self.sums.size[span] = written.square().sum(dim=0).cpu()

    def end_pass(self) -> None:
        super().end_pass()
        self.sums.positions = self.positions


@torch.no_grad()
def function_drift(
    pair: ModelPair,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    space: UnitSpace,
    columns: Columns,
) -> DriftSums:
    """How far what units write differs, at the positions from the last prompt token on.

    Args:
        prompts, completions: token ids, the same for both models; a completion of one token takes
            the last prompt token alone.
        columns: of these units.

    Returns:
        Sums over this batch's positions.
    """
    batch = ForcedBatch.of(prompts, completions, pair)
    edit = _Drift(batch.completion_positions, space, columns)
    counts: dict[Role, int] = dict.fromkeys(Side, len(batch))
    with PairedRows(pair, counts, edits=[edit]) as rows:
        rows.forward(dict.fromkeys(Side, batch.tokens), logits=None)
    return edit.sums


@torch.no_grad()
def weight_drift(reference: HookedModel, candidate: HookedModel, space: UnitSpace) -> DriftSums:
    """How far each unit's effective weights differ: the rows that make it, and its column out.

    Returns:
        Sums of squares over a unit's weights; `positions` is 1.

    Raises:
        UserError: if an adapter does more than to add to a weight or to scale it.
    """
    sums = DriftSums.zero(space)
    sums.positions = 1
    theirs = {site.key: site for site in candidate.sites}
    for site in reference.sites:
        if site.key not in space.keys:
            continue
        other = theirs.get(site.key)
        if other is None:
            raise UserError(f"The candidate has no {site.key}; give models of one architecture.")
        span = space.slice_of(site.key)
        names = zip((site.name, *site.writers), (other.name, *other.writers), strict=True)
        for place, (name, now) in enumerate(names):
            before, _ = effective(reference, name)
            after, _ = effective(candidate, now)
            reads = input_axis(base_layer(reference.model.get_submodule(name)))
            # The projection out of the units has them among its inputs, those into them do not.
            along = 1 - reads if place == 0 else reads
            before, after = before.double(), after.double()
            sums.change[span] += (after - before).square().sum(dim=along).cpu()
            sums.size[span] += before.square().sum(dim=along).cpu()
    return sums
