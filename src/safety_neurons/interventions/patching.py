"""Dynamic activation patching (Chen et al. 2025, section 3), as an intervention.

At every forward pass the donor runs on the recipient's tokens, and the chosen units of the
recipient get the donor's values of that very pass.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.engine import HookedModel
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.interventions.base import Intervention
from safety_neurons.storage import digest
from safety_neurons.units import BlockKey, UnitSet


@dataclass(frozen=True)
class Patch(Intervention):
    """Units overwritten with what they are in the donor.

    Args:
        strength: how far of the way from the recipient's own values to the donor's; 1 copies
            the donor's, 0 changes nothing, above 1 overshoots.

    Raises:
        UserError: for a strength that is negative or no finite number.
    """

    units: UnitSet
    strength: float = 1.0
    reads_donor: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.strength >= 0 and math.isfinite(self.strength)):
            raise UserError(
                "Strengths are 0 or more (0 changes nothing, 1 copies the donor's values), but "
                f"{self.strength:g} was given."
            )

    @property
    def key(self) -> str:
        return digest("patch", self.units.key, float(self.strength))

    @property
    def family(self) -> Hashable:
        return ("patch", float(self.strength))

    def act(
        self,
        block: BlockKey,
        columns: Int[Tensor, "k"],
        own: Float[Tensor, "row pos k"],
        donated: Float[Tensor, "row pos k"] | None,
    ) -> Float[Tensor, "row pos k"]:
        if donated is None:
            raise InterventionError(f"{block} was to be patched without a donor's activations.")
        # Exactly the donor's where the strength is 1, which rounding would not give.
        return donated if self.strength == 1 else own + self.strength * (donated - own)

    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        raise UserError(
            "A patch has no weights: it copies what another model computes on the same tokens. "
            "Transplant that model's weights instead."
        )

    def describe(self) -> dict[str, Any]:
        return {"intervention": "patch", "units": len(self.units), "strength": self.strength}
