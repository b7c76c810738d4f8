"""Rankings of all units by a score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.errors import UserError
from safety_neurons.units.sets import UnitSet
from safety_neurons.units.space import UnitSpace


@dataclass(frozen=True, eq=False)
class Ranking:
    """Every unit with a score, the highest first.

    Args:
        name: of the method that gave the scores.
        scores: flat, one for each unit.
    """

    name: str
    scores: Float[Tensor, "unit"]
    space: UnitSpace

    def __post_init__(self) -> None:
        if self.scores.shape != (self.space.total,):
            raise UserError(
                f"The ranking '{self.name}' gave scores of shape {tuple(self.scores.shape)} for "
                f"{self.space.total} units; it must give one number for each."
            )
        if not torch.isfinite(self.scores).all():
            bad = int((~torch.isfinite(self.scores)).sum())
            raise UserError(
                f"The ranking '{self.name}' has {bad} scores that are not finite numbers; run it "
                "in float32."
            )

    @cached_property
    def order(self) -> Int[Tensor, "unit"]:
        """Flat positions by descending score; ties keep the order of the space."""
        return torch.sort(self.scores, descending=True, stable=True).indices

    @cached_property
    def ranks(self) -> Int[Tensor, "unit"]:
        """Each unit's place, from 0."""
        ranks = torch.empty_like(self.order)
        ranks[self.order] = torch.arange(len(self.order))
        return ranks

    def top(self, share: float) -> UnitSet:
        """The first k = round(share × N) units.

        Returns:
            The set, with this ranking's name and the share as its provenance.

        Raises:
            UserError: for a share outside 0 to 1.
        """
        k = units_in(share, self.space)
        return UnitSet.of(self.order[:k], self.space, ranking=str(self.name), share=share)


def units_in(share: float, space: UnitSpace) -> int:
    """k = round(share × N).

    Returns:
        How many units a share is.

    Raises:
        UserError: for a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"A share of {share} is no fraction of all units; give 0 to 1.")
    return round(share * space.total)
