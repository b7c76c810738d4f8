"""Units held at fixed values: ablated to zero or to a mean, or patched with recorded means."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.engine import HookedModel
from safety_neurons.errors import UserError
from safety_neurons.interventions.base import Intervention
from safety_neurons.interventions.scaling import Scale
from safety_neurons.storage import digest
from safety_neurons.units import BlockKey, UnitSet, UnitValues


@dataclass(frozen=True)
class _Held(Intervention):
    """Units whose activations are the same at every position, whatever the model reads."""

    units: UnitSet
    values: UnitValues | None = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.values is not None and self.values.space != self.units.space:
            raise UserError(
                "The values are of a differently shaped model than the units; take both from one "
                "run."
            )
        if self.values is not None and not self.values.known(self.units):
            raise UserError(
                f"Some units have no finite value ({self.values.name}); record it for all of them."
            )

    @property
    def key(self) -> str:
        values = None if self.values is None else self.values.key_at(self.units)
        return digest(self.name, values, self.units.key)

    @property
    def family(self) -> Hashable:
        return self.name, self.values

    def act(
        self,
        block: BlockKey,
        columns: Int[Tensor, "k"],
        own: Float[Tensor, "row pos k"],
        donated: Float[Tensor, "row pos k"] | None,
    ) -> Float[Tensor, "row pos k"]:
        if self.values is None:
            return torch.zeros_like(own)
        return self.values.of(block).to(own.device)[columns].to(own.dtype).expand_as(own)

    def describe(self) -> dict[str, Any]:
        return {
            "intervention": self.name,
            "units": len(self.units),
            "to": self.values.name if self.values else "zero",
        }


@dataclass(frozen=True)
class Ablate(_Held):
    """Units switched off: held at zero, or at their means over some prompts.

    Args:
        values: means to hold them at, None for zero. Zero may be far from all that the model
            computes elsewhere; a mean over harmless prompts takes away what is particular.

    Raises:
        UserError: if the values are of a differently shaped model.
    """

    name: ClassVar[str] = "ablate"

    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        """As `Scale` by 0; UserError for means, which would need a bias."""
        if self.values is None:
            return Scale(self.units, 0.0).export(model)
        raise UserError(
            "Held at their means these units add a constant to what the projection gives, and it "
            "has no bias to hold it; ablate to zero, or apply it while the model runs."
        )


@dataclass(frozen=True)
class PatchMeans(_Held):
    """Units held at another model's recorded means: a patch that needs no donor beside it.

    Raises:
        UserError: without values, or if they are of a differently shaped model.
    """

    name: ClassVar[str] = "patch-means"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.values is None:
            raise UserError("A patch with recorded means needs them; read them from a saved set.")

    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        raise UserError(
            "A patch with recorded means has no weights: what it holds does not depend on what the "
            "model reads. Transplant the other model's weights instead."
        )
