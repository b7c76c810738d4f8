"""A direction taken out of the residual stream (directional ablation).

Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction", NeurIPS 2024,
arXiv 2406.11717: what lies along a direction is removed wherever a layer reads the stream.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.engine import HookedModel
from safety_neurons.errors import UserError
from safety_neurons.interventions.base import Intervention
from safety_neurons.storage import digest
from safety_neurons.units import BlockKey, UnitSet, UnitSpace, UnitValues


@dataclass(frozen=True)
class AblateDirection(Intervention):
    """What lies along a direction, taken out of the stream that enters each layer.

    What the last layer itself writes along it stays: nothing enters a layer behind it. Make it
    with `AblateDirection.everywhere`.

    Args:
        units: all channels of the residual stream, at the layers in question.
        direction: in each of these blocks a vector of any length but zero.

    Raises:
        UserError: for a direction that does not hold a finite number for each channel, or is zero.
    """

    units: UnitSet
    direction: UnitValues

    def __post_init__(self) -> None:
        if self.direction.space != self.units.space or not self.direction.known(self.units):
            raise UserError("A direction has a finite number for each channel that it is taken of.")
        for block in self.units.space.keys:
            taken = self.units.in_block(block)
            if len(taken) and not bool(self.direction.of(block)[taken].any()):
                raise UserError("A direction that is zero cannot be taken out; give another.")

    @classmethod
    def everywhere(
        cls, direction: Float[Tensor, "d_model"], space: UnitSpace, name: str = "direction"
    ) -> AblateDirection:
        """Of what enters every layer.

        Args:
            space: the model's residual stream, `model.space(SiteKind.RESIDUAL)`.

        Returns:
            The intervention.

        Raises:
            UserError: for a vector of another length.
        """
        if any(block.width != len(direction) for block in space.blocks):
            raise UserError(
                f"The direction has {len(direction)} numbers, and the residual stream "
                f"{space.widths[0]} channels."
            )
        repeated = direction.detach().cpu().float().repeat(len(space.blocks))
        return cls(UnitSet.all(space), UnitValues(repeated, space, name))

    @property
    def key(self) -> str:
        return digest("ablate-direction", self.units.key, self.direction.key_at(self.units))

    @property
    def family(self) -> Hashable:
        return "ablate-direction", self.units, self.direction

    def act(
        self,
        block: BlockKey,
        columns: Int[Tensor, "k"],
        own: Float[Tensor, "row pos k"],
        donated: Float[Tensor, "row pos k"] | None,
    ) -> Float[Tensor, "row pos k"]:
        vector = self.direction.of(block).to(own.device)[columns].to(own.dtype)
        unit = vector / vector.norm()
        return own - (own @ unit)[..., None] * unit

    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        raise UserError(
            "A direction is taken out while the model runs; weights do the same only if every "
            "matrix that writes into the residual stream is changed, embeddings among them."
        )

    def describe(self) -> dict[str, Any]:
        return {"intervention": "ablate-direction", "units": len(self.units)}
