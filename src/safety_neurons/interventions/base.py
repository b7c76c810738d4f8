"""What every intervention looks like: a value that says what is done at which units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from safety_neurons.engine import HookedModel
from safety_neurons.engine.around import Around, Places
from safety_neurons.errors import UserError
from safety_neurons.units import BlockKey, UnitSet

AtSite = Callable[[Tensor], Tensor]
"""What becomes of all activations of a block, of the rows in question."""


class Intervention(ABC):
    """What is done at some units of a model while it runs.

    A value, best a frozen dataclass: it holds no state of a pass and can be used in any number of
    them. That it acted at every block in which it has units is checked for all interventions
    alike (`edits`). A subclass gives `units`, `key` and `act`; the rest where it differs.

    Args:
        units: where it acts.
    """

    units: UnitSet

    reads_donor: ClassVar[bool] = False
    """Whether it needs the other model of the pair, run on the same tokens."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The same for interventions that must give the same answers, in every process."""

    @abstractmethod
    def act(
        self,
        block: BlockKey,
        columns: Int[Tensor, "k"],
        own: Float[Tensor, "row pos k"],
        donated: Float[Tensor, "row pos k"] | None,
    ) -> Float[Tensor, "row pos k"]:
        """The edit: new activations of some units of one block.

        Args:
            columns: the units' coordinates within the block.
            own: the recipient's activations of these units; not to be changed in place.
            donated: the donor's, None unless `reads_donor`.

        Returns:
            What the recipient goes on with.
        """

    @property
    def family(self) -> Hashable:
        """The same for interventions that differ in nothing but their units.

        `act` of one of them is called for all, on all their columns at once, and each row keeps
        what is new at its own units.
        """
        return self.key

    def live(self, block: BlockKey, places: Places) -> tuple[Around, AtSite] | None:
        """Hooks around the block, where what a site receives is not enough.

        Args:
            places: the modules around it, and the rows that are under this intervention.

        Returns:
            The hooks, and what is done at the site in the place of `act`; None where `act` is all.
        """
        return None

    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        """The weights of `model` with which it does the same without any hook.

        They are new tensors by the names of the model's own parameters.

        Raises:
            UserError: where no weights do the same, saying why.
        """
        raise UserError(
            f"'{self.describe()['intervention']}' has no weights that do the same; apply it while "
            "the model runs."
        )

    def describe(self) -> dict[str, Any]:
        """For files: a name, its numbers, and how many units it has, as JSON."""
        return {"intervention": type(self).__name__.lower(), "units": len(self.units)}
