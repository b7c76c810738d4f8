"""Who answers, and under which intervention."""

from __future__ import annotations

from dataclasses import dataclass

from safety_neurons.artifacts import digest
from safety_neurons.models import Side
from safety_neurons.neurons.sets import NeuronSet


@dataclass(frozen=True)
class Setting:
    """Who answers, with which neurons overwritten by the other side's values.

    Args:
        strength: how far of the way from the recipient's own values to the donor's; 1 copies
            the donor's, 0 changes nothing, above 1 overshoots.
    """

    recipient: Side
    patch: NeuronSet | None = None
    strength: float = 1.0

    @property
    def key(self) -> str:
        """The same for settings that must give the same answers."""
        patch = None if self.patch is None else self.patch.flat.tolist()
        more = () if self.strength == 1 else (self.strength,)
        return digest(str(self.recipient), patch, *more)


UNALIGNED = Setting(Side.UNALIGNED)
ALIGNED = Setting(Side.ALIGNED)
