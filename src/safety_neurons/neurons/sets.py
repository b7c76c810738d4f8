"""Sets of neurons, as values: algebra, a file format, and matched random controls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from safety_neurons.errors import UserError, reading
from safety_neurons.models import NeuronLayout


@dataclass(frozen=True, eq=False)
class NeuronSet:
    """Some of a model's neurons.

    Args:
        flat: sorted, distinct positions in the flat vector of all neurons.
        layout: of the model whose neurons these are.
        provenance: where the set comes from, such as `{"ranking": ..., "share": ...}`.
    """

    flat: Int[Tensor, "k"]
    layout: NeuronLayout
    provenance: dict[str, str | int | float | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls, flat: Tensor, layout: NeuronLayout, **provenance: str | int | float | None
    ) -> NeuronSet:
        """The set of the neurons at `flat`, in any order.

        Raises:
            UserError: for positions that the model does not have.
        """
        flat = torch.unique(flat.long().cpu())
        if len(flat) and (flat[0] < 0 or flat[-1] >= layout.total):
            raise UserError(f"A neuron set reaches beyond the model's {layout.total} neurons.")
        return cls(flat, layout, provenance)

    @classmethod
    def all(cls, layout: NeuronLayout) -> NeuronSet:
        return cls.of(torch.arange(layout.total), layout, share=1.0)

    def __len__(self) -> int:
        return len(self.flat)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NeuronSet)
            and self.layout == other.layout
            and torch.equal(self.flat, other.flat)
        )

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return self._kept(torch.isin(self.flat, self._same_model(other).flat))

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return self._kept(~torch.isin(self.flat, self._same_model(other).flat))

    def __or__(self, other: NeuronSet) -> NeuronSet:
        joined = torch.cat([self.flat, self._same_model(other).flat])
        return NeuronSet.of(joined, self.layout)

    def _kept(self, mask: Tensor) -> NeuronSet:
        return NeuronSet(self.flat[mask], self.layout)

    def _same_model(self, other: NeuronSet) -> NeuronSet:
        if self.layout != other.layout:
            raise UserError("Neuron sets of differently shaped models cannot be combined.")
        return other

    @property
    def names(self) -> list[str]:
        """`L12.N345` for each neuron."""
        layers, neurons = self.layout.layers_of(self.flat), self.layout.neurons_of(self.flat)
        return [f"L{a}.N{b}" for a, b in zip(layers.tolist(), neurons.tolist(), strict=True)]

    def in_layer(self, layer: int) -> Int[Tensor, "in_layer"]:
        """The set's neurons of one layer, as coordinates within that layer."""
        span = self.layout.layer_slice(layer)
        inside = self.flat[(self.flat >= span.start) & (self.flat < span.stop)]
        return inside - span.start

    def per_layer(self) -> list[int]:
        """How many neurons of the set each layer has."""
        layers = self.layout.layers_of(self.flat)
        return torch.bincount(layers, minlength=len(self.layout.widths)).tolist()

    def matched_random(self, seed: int) -> NeuronSet | None:
        """As many neurons in each layer, drawn outside the set; None where too few are left."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for layer, (width, taken) in enumerate(
            zip(self.layout.widths, self.per_layer(), strict=True)
        ):
            outside = torch.ones(width, dtype=torch.bool)
            outside[self.in_layer(layer)] = False
            free = outside.nonzero().flatten()
            if len(free) < taken:
                return None
            order = torch.randperm(len(free), generator=generator)[:taken]
            drawn.append(free[order] + self.layout.offsets[layer])
        return NeuronSet.of(torch.cat(drawn), self.layout, control="matched random", seed=seed)

    def save(self, path: str | Path) -> None:
        """Write the set as safetensors, its layout and provenance as metadata."""
        metadata = {
            "format": "safety-neurons/neuron-set/1",
            "widths": json.dumps(self.layout.widths),
            "provenance": json.dumps(self.provenance),
        }
        save_file({"flat": self.flat.contiguous()}, path, metadata)

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Read what `save` wrote.

        Raises:
            UserError: if there is no such file, or it is damaged or something else.
        """
        if not Path(path).is_file():
            raise UserError(f"The neuron set '{path}' does not exist; check the path.")
        with reading(path, remedy="save the set again"), safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "safety-neurons/neuron-set/1":
                raise UserError(f"'{path}' is no neuron set written by this package.")
            layout = NeuronLayout(tuple(json.loads(metadata["widths"])))
            return cls.of(file.get_tensor("flat"), layout, **json.loads(metadata["provenance"]))
