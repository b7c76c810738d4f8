"""Who answers, and under which intervention."""

from __future__ import annotations

from dataclasses import dataclass

from safety_neurons.artifacts import digest
from safety_neurons.models import Side
from safety_neurons.neurons.sets import NeuronSet


@dataclass(frozen=True)
class Setting:
    """Who answers, with which neurons overwritten by the other side's values."""

    recipient: Side
    patch: NeuronSet | None = None

    @property
    def key(self) -> str:
        """The same for settings that must give the same answers."""
        return digest(str(self.recipient), None if self.patch is None else self.patch.flat.tolist())


UNALIGNED = Setting(Side.UNALIGNED)
ALIGNED = Setting(Side.ALIGNED)
