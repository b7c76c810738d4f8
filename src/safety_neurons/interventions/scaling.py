"""Units times a factor: amplified, weakened, or turned round; live, and in the weights."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from safety_neurons.engine import HookedModel, Site, input_axis
from safety_neurons.engine.sites import holding
from safety_neurons.errors import UserError
from safety_neurons.interventions.base import Intervention
from safety_neurons.interventions.slices import ScaledSlices, Slices
from safety_neurons.storage import digest
from safety_neurons.units import BlockKey, UnitSet


@dataclass(frozen=True)
class Scale(Intervention):
    """Units whose activations are multiplied.

    Args:
        factor: above 1 amplifies, below 1 weakens, 0 ablates, 1 changes nothing.

    Raises:
        UserError: for a factor that is no finite number.
    """

    units: UnitSet
    factor: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor):
            raise UserError(f"A factor is a finite number, but {self.factor:g} was given.")

    @property
    def key(self) -> str:
        return digest("scale", self.units.key, float(self.factor))

    @property
    def family(self) -> Hashable:
        return ("scale", float(self.factor))

    def act(
        self,
        block: BlockKey,
        columns: Int[Tensor, "k"],
        own: Float[Tensor, "row pos k"],
        donated: Float[Tensor, "row pos k"] | None,
    ) -> Float[Tensor, "row pos k"]:
        return self.factor * own

    def slices(self, model: HookedModel) -> dict[str, Slices]:
        """What becomes of which parameters of a model that has no adapter on them, by their names.

        Returns:
            The projections' inputs that are the units, times the factor.
        """
        return {
            f"{site.name}.weight": self._at(site.module, columns)
            for site, columns in holding(model.sites, self.units)
        }

    def _at(self, reading: nn.Module, columns: Int[Tensor, "k"]) -> Slices:
        return ScaledSlices(columns, input_axis(reading), self.factor)

    @torch.no_grad()
    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        """The projections that read the units, with these inputs' weights scaled.

        Where a LoRA reads the same input, its first matrix is scaled, too.

        Returns:
            Whole tensors by the names of the model's own parameters, of the blocks that have
            units of the set.
        """
        names = {id(parameter): name for name, parameter in model.model.named_parameters()}
        changed = {}
        for site, columns in holding(model.sites, self.units):
            for module in _reading(model, site):
                weight = module.get_parameter("weight")
                changed[names[id(weight)]] = self._at(module, columns)(weight.detach())
        return changed

    def describe(self) -> dict[str, Any]:
        return {"intervention": "scale", "units": len(self.units), "factor": self.factor}


def _reading(model: HookedModel, site: Site) -> Iterator[nn.Module]:
    """The modules that read a site's units: the projection, and LoRAs of it."""
    yield site.module
    for module in model.model.get_submodule(site.name).modules():
        if isinstance(module, LoraLayer):
            yield from module.lora_A.values()
