"""What a model's own refusals rest on, by its own gradients: attribution of an ablation.

One model is enough. For each prompt, the sum over all positions that are read of

    (activation − mean) × ∂ L / ∂ activation

where L is the log-likelihood of the model's own refusal, its first tokens weighted most (as in
`path_attribution`), and the mean is over harmless prompts with the model's own answers. It is the
first-order estimate of what L loses where that unit alone is held at its mean (attribution
patching, Nanda 2023, with a mean in the place of a donor). Signed: a unit whose ablation would
raise L has a negative score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Activations, ModelGroup, PairedRows, Role
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.methods.attribution import AttributionSums, Tap
from safety_neurons.methods.path_attribution import HORIZON, first_weighted
from safety_neurons.units import UnitSpace, UnitValues


@dataclass
class ActivationSums:
    """Sums over positions of each unit's activation and its square; mergeable with `+`."""

    positions: int
    total: Float[Tensor, "unit"]
    squares: Float[Tensor, "unit"]

    @classmethod
    def zero(cls, space: UnitSpace) -> ActivationSums:
        return cls(0, *(torch.zeros(space.total, dtype=torch.float64) for _ in range(2)))

    def __add__(self, other: ActivationSums) -> ActivationSums:
        return ActivationSums(
            self.positions + other.positions,
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def mean(self) -> Float[Tensor, "unit"]:
        return self.total / self.positions

    @property
    def magnitude(self) -> Float[Tensor, "unit"]:
        """The root of the mean square."""
        return (self.squares / self.positions).sqrt()


class _Sum:
    """Adds up all activations at the positions that count."""

    def __init__(self, batch: ForcedBatch, space: UnitSpace) -> None:
        self.blocks = space.keys
        self._space = space
        # The first token draws attention that is not needed elsewhere: in most models some
        # activations are hundreds of times as large there, and would decide every mean.
        self._counted = batch.read_positions & (batch.tokens.positions > 0)
        self.sums = ActivationSums.zero(space)
        self.sums.positions = int(self._counted.sum())

    def __call__(self, block: object, roles: Activations) -> None:
        (x,) = roles.values()
        taken = x[self._counted].double()
        place = self._space.slice_of(block)  # type: ignore[arg-type]
        self.sums.total[place] = taken.sum(0).cpu()
        self.sums.squares[place] = taken.square().sum(0).cpu()

    def end_pass(self) -> None:
        """Every block is hooked, and hooks are counted."""


@torch.no_grad()
def sum_activations(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    space: UnitSpace,
) -> ActivationSums:
    """The sums of one batch of prompts and completions (token ids), as one model reads them.

    Returns:
        Sums over all positions that are read but each prompt's first.
    """
    batch = ForcedBatch.of(prompts, completions, group)
    edit = _Sum(batch, space)
    with PairedRows(group, {role: len(batch)}, edits=[edit]) as rows:
        rows.forward({role: batch.tokens}, logits=None)
    return edit.sums


def attribute_ablation(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    refusals: Sequence[Sequence[int]],
    means: UnitValues,
) -> AttributionSums:
    """The sums of one batch of prompts and the model's own refusals of them (token ids).

    Args:
        refusals: of each, the first HORIZON tokens are read.
        means: what every unit of their space would be held at.

    Returns:
        Sums over this batch's prompts.
    """
    space = means.space
    batch = ForcedBatch.of(prompts, [refusal[:HORIZON] for refusal in refusals], group)
    tap = Tap(space)
    with torch.enable_grad(), PairedRows(group, {role: len(batch)}, edits=[tap]) as rows:
        logits = rows.forward({role: batch.tokens}, logits=batch.targets.shape[1])[role]
        likelihood = first_weighted(batch, logits).sum()
        keys = list(tap.taken)
        gradients = torch.autograd.grad(likelihood, [tap.taken[key] for key in keys])
    sums = AttributionSums.zero(space)
    sums.prompts = len(batch)
    read = batch.read_positions
    for (block, of), gradient in zip(keys, gradients, strict=True):
        own = tap.taken[block, of].detach()[read].double()
        away = own - means.of(block).to(own)
        sums.attribution[space.slice_of(block)] = (away * gradient[read].double()).sum(0).cpu()
    return sums
