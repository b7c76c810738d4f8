"""Who answers, and under which interventions."""

from __future__ import annotations

from dataclasses import dataclass

from safety_neurons.engine import ALONE, Role, Side
from safety_neurons.interventions import Intervention, donor_of
from safety_neurons.storage import digest


@dataclass(frozen=True)
class Setting:
    """Who answers, with which interventions, one after the other.

    Args:
        recipient: a side of a pair, or the model that is alone.
    """

    recipient: Role = ALONE
    interventions: tuple[Intervention, ...] = ()

    @property
    def key(self) -> str:
        """The same for settings that must give the same answers."""
        return digest(str(self.recipient), [each.key for each in self.interventions])

    @property
    def donor(self) -> Side | None:
        """Whose activations are read beside the recipient's; UserError if there is nobody."""
        return donor_of(self.interventions, self.recipient)


UNALIGNED = Setting(Side.UNALIGNED)
ALIGNED = Setting(Side.ALIGNED)
