"""An intervention of your own: activations that stay between two bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from safety_neurons import Intervention, LoadedModel, Setting, UnitSet, decode
from safety_neurons.storage import digest


@dataclass(frozen=True)
class Clip(Intervention):
    """Units whose activations are cut at `limit` and at `-limit`."""

    units: UnitSet
    limit: float

    @property
    def key(self) -> str:
        return digest("clip", self.units.key, float(self.limit))

    def act(self, block, columns, own, donated):
        return own.clamp(-self.limit, self.limit)


def main(model: LoadedModel, prompt: str = "Hello!", *, limit: float = 0.1) -> list[list[int]]:
    """A completion as it is, and with all neurons between the bounds."""
    clip = Clip(UnitSet.all(model.space()), limit)
    ids = [model.tokenizer(prompt)["input_ids"]]
    settings = [Setting(), Setting(interventions=(clip,))]
    (as_it_is,), (clipped,) = decode(model, ids, settings, max_new_tokens=10)
    for name, tokens in (("as it is", as_it_is), ("clipped", clipped)):
        print(f"{name}: {model.tokenizer.decode(tokens)!r}")
    return [as_it_is, clipped]


if __name__ == "__main__":
    with torch.no_grad():
        main(LoadedModel.load("embedded:unaligned"))
