"""A direction added to the residual stream that enters a layer (activation steering).

Turner et al., "Steering Language Models With Activation Engineering", arXiv 2308.10248; for
refusals Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction", NeurIPS
2024, arXiv 2406.11717.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.engine import HookedModel
from safety_neurons.errors import UserError
from safety_neurons.interventions.base import Intervention
from safety_neurons.storage import digest
from safety_neurons.units import BlockKey, SiteKind, UnitSet, UnitSpace, UnitValues


@dataclass(frozen=True)
class Steer(Intervention):
    """A vector added at every position; make it with `Steer.at`.

    Args:
        units: all channels of the residual stream at one layer.
        vector: a value for each of them.
        factor: how often it is added; negative ones push the other way.

    Raises:
        UserError: for a vector that does not hold a finite number for each channel, or a factor
            that is no finite number.
    """

    units: UnitSet
    vector: UnitValues
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor):
            raise UserError(f"A factor is a finite number, but {self.factor:g} was given.")
        if self.vector.space != self.units.space or not self.vector.known(self.units):
            raise UserError(
                "A steering vector has a finite number for each channel of the residual stream."
            )

    @classmethod
    def at(
        cls, layer: int, vector: Float[Tensor, "d_model"], space: UnitSpace, factor: float = 1.0
    ) -> Steer:
        """Of the residual stream that enters `layer`.

        Args:
            space: the model's residual stream, `model.space(SiteKind.RESIDUAL)`.

        Returns:
            The intervention.

        Raises:
            UserError: for a layer that the model does not have, or a vector of another length.
        """
        key = BlockKey(layer, SiteKind.RESIDUAL)
        if key not in space:
            raise UserError(
                f"There is no residual stream at layer {layer} of this space; take "
                "`model.space(SiteKind.RESIDUAL)` and a layer from 0 on."
            )
        span = space.slice_of(key)
        width = span.stop - span.start
        if vector.shape != (width,):
            raise UserError(
                f"The steering vector has {tuple(vector.shape)} numbers for {width} channels."
            )
        units = UnitSet.of(torch.arange(span.start, span.stop), space)
        return cls(units, UnitValues.at(units, vector, f"vector at layer {layer}"), factor)

    @property
    def key(self) -> str:
        vector = self.vector.key_at(self.units)
        return digest("steer", self.units.key, vector, float(self.factor))

    @property
    def family(self) -> Hashable:
        return "steer", self.vector, float(self.factor)

    def act(
        self,
        block: BlockKey,
        columns: Int[Tensor, "k"],
        own: Float[Tensor, "row pos k"],
        donated: Float[Tensor, "row pos k"] | None,
    ) -> Float[Tensor, "row pos k"]:
        return own + self.factor * self.vector.of(block).to(own.device)[columns].to(own.dtype)

    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        raise UserError(
            "Steering has no weights: nothing in these architectures adds a constant to the "
            "residual stream before a layer. Apply it while the model runs."
        )

    def describe(self) -> dict[str, Any]:
        return {"intervention": "steer", "units": len(self.units), "factor": self.factor}
