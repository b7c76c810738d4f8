"""An intervention of your own: units held at zero, live, and exported into the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from safety_neurons import Intervention, LoadedModel, Setting, UnitSet, decode
from safety_neurons.engine import HookedModel
from safety_neurons.storage import digest


@dataclass(frozen=True)
class Ablate(Intervention):
    """Units whose activations are zero."""

    units: UnitSet

    @property
    def key(self) -> str:
        return digest("ablate", self.units.key)

    def act(self, block, columns, own, donated):
        return torch.zeros_like(own)

    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        """The weights with which the projections read nothing from the units."""
        names = {id(parameter): name for name, parameter in model.model.named_parameters()}
        changed = {}
        for site in model.sites:
            if site.key in self.units.space and len(self.units.in_block(site.key)):
                weight = site.module.get_parameter("weight")
                baked = weight.detach().clone()
                # Inputs are columns of a Linear, and rows of GPT-2's Conv1D.
                inputs = baked.T if isinstance(site.module, torch.nn.Linear) else baked
                inputs[self.units.in_block(site.key)] = 0
                changed[names[id(weight)]] = baked
        return changed


def main(model: LoadedModel, prompt: str = "Hello!", *, share: float = 0.05) -> list[list[int]]:
    """A completion as it is, ablated live, and by the model with the exported weights."""
    space = model.space()
    drawn = torch.randperm(space.total, generator=torch.Generator().manual_seed(0))
    ablate = Ablate(UnitSet.of(drawn[: round(share * space.total)], space))
    ids = [model.tokenizer(prompt)["input_ids"]]
    plain, ablated = Setting(), Setting(interventions=(ablate,))
    (as_it_is,), (live,) = decode(model, ids, [plain, ablated], max_new_tokens=10)
    hooked = model.hooked.model
    before = {name: tensor.clone() for name, tensor in hooked.state_dict().items()}
    hooked.load_state_dict(ablate.export(model.hooked), strict=False)
    ((baked,),) = decode(model, ids, [plain], max_new_tokens=10)
    hooked.load_state_dict(before)
    for name, tokens in (("as it is", as_it_is), ("live", live), ("baked", baked)):
        print(f"{name}: {model.tokenizer.decode(tokens)!r}")
    return [as_it_is, live, baked]


if __name__ == "__main__":
    main(LoadedModel.load("embedded:unaligned"))
