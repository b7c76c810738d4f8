"""Changes of a fine-tune's weights towards the model that it was made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons import figures
from safety_neurons.engine import HookedModel
from safety_neurons.engine.sites import holding, input_axis
from safety_neurons.interventions import Transplant
from safety_neurons.interventions.slices import BlendedSlices, ReplacedSlices, Slices, WeighedSlices
from safety_neurons.models import LoadedModel
from safety_neurons.storage import digest
from safety_neurons.units import UnitSet

TRANSPLANT, SCALES, WHOLE = "transplant", "scales", "whole update"
"""What is done."""
RANDOM, ALL = "random", "all"
"""Of which neurons, where not of the safety neurons."""

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Blend:
    """A whole tensor that goes a part of the way to another."""

    values: Tensor
    strength: float

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor + self.strength * (self.values.to(tensor) - tensor)


@dataclass(frozen=True)
class Move:
    """One change, which can be made in memory and on disk.

    Args:
        kind: what is done.
        units: to which neurons; None for all weights.
        share: of all neurons.
        strength: how far to the aligned model's weights; 1 for scales.
        of: `RANDOM` or `ALL` for a baseline, None for the safety neurons.
        make: the edits, by the names of the model's parameters, made when they are needed.
    """

    kind: str
    units: UnitSet | None
    share: float | None
    strength: float
    of: str | None
    make: Callable[[], Mapping[str, Edit]]

    @property
    def name(self) -> str:
        """For people."""
        far = "" if self.strength == 1 else f", {figures.percent(self.strength)} of the way"
        if self.units is None:
            return f"the whole update undone{far or ', all of it'}"
        which = {None: "", RANDOM: " of random neurons", ALL: " of all neurons"}[self.of]
        share = "" if self.share is None or self.of == ALL else f" {figures.share(self.share)}"
        return f"{self.kind}{which}{share}{far}"

    @property
    def key(self) -> str:
        """The same for the same change of the same model."""
        units = None if self.units is None else self.units.key
        return digest("move", self.kind, units, self.strength)

    @property
    def baseline(self) -> bool:
        """Whether it is there to compare with."""
        return self.of is not None or self.units is None


def transplanted(
    aligned: LoadedModel, candidate: LoadedModel, units: UnitSet, strength: float
) -> dict[str, Slices]:
    """What becomes of which of the candidate's parameters.

    Args:
        aligned, candidate: plain models, without adapters.

    Returns:
        Rows and columns of `units` a part of the way to the aligned model's.

    Raises:
        UserError: if the aligned model's neurons mean nothing in the candidate.
    """
    transplant = Transplant.between(aligned.hooked, candidate.hooked, units, or_same=True)
    slices = transplant.slices(candidate.hooked)
    return {name: _blended(of, strength) for name, of in slices.items()}


def _blended(of: Slices, strength: float) -> Slices:
    assert isinstance(of, ReplacedSlices)
    return BlendedSlices(of.index, of.axis, of.values, strength)


def scaled(
    candidate: HookedModel, units: UnitSet, factors: Float[Tensor, "k"]
) -> dict[str, Slices]:
    """The columns that read `units`, times a factor each, in the order of the set."""
    place, found = 0, dict[str, Slices]()
    for site, index in holding(candidate.sites, units):
        own = factors[place : place + len(index)]
        place += len(index)
        found[f"{site.name}.weight"] = WeighedSlices(index, input_axis(site.module), own)
    return found


def whole_update(aligned: LoadedModel, candidate: LoadedModel, strength: float) -> dict[str, Edit]:
    """All weights a part of the way to the aligned model's."""
    theirs = dict(aligned.hooked.model.named_parameters())
    return {
        name: Blend(theirs[name].detach(), strength)
        for name, parameter in candidate.hooked.model.named_parameters()
        if name in theirs and theirs[name].shape == parameter.shape
    }


@contextlib.contextmanager
def in_place(model: LoadedModel, edits: Mapping[str, Edit]) -> Iterator[int]:
    """Change a plain model's parameters inside the block, bit for bit as they were behind it.

    Yields:
        How many numbers are others than before.
    """
    parameters = dict(model.hooked.model.named_parameters())
    before: dict[str, Tensor] = {}
    try:
        changed = 0
        for name, edit in edits.items():
            parameter = parameters[name]
            before[name] = parameter.data
            with torch.no_grad():
                parameter.data = edit(parameter.data)
            changed += int((parameter.data != before[name]).sum())
        yield changed
    finally:
        for name, data in before.items():
            parameters[name].data = data
