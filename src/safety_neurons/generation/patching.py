"""Dynamic activation patching (Chen et al. 2025, section 3), as an edit at the sites.

At every forward pass the donor runs on the recipient's tokens, and the chosen neurons of
the recipient are overwritten with the donor's values of that very pass.
"""

from __future__ import annotations

from torch import Tensor

from safety_neurons.errors import InterventionError
from safety_neurons.models import Side
from safety_neurons.models.rows import Activations
from safety_neurons.neurons.sets import NeuronSet


class PatchEdit:
    """Overwrite the recipient's chosen neurons with the donor's, row by row.

    Row i of the donor must read the same tokens as row i of the recipient.

    Args:
        neurons: what is overwritten; may be empty.
        donor: whose activations are copied; the other side is the recipient.
    """

    def __init__(self, neurons: NeuronSet, donor: Side, *, device: str = "cpu") -> None:
        self.donor = donor
        self._columns = {
            layer: columns.to(device)
            for layer in range(len(neurons.layout.widths))
            if len(columns := neurons.in_layer(layer))
        }
        self._donated: dict[int, Tensor] = {}
        self._overwritten: set[int] = set()

    def __call__(self, layer: int, sides: Activations) -> Activations | None:
        columns = self._columns.get(layer)
        if columns is None:
            return None
        if self.donor in sides:
            self._donated[layer] = sides[self.donor].index_select(-1, columns)
        recipient = sides.get(self.donor.other)
        if recipient is None:
            return None
        patched = recipient.index_copy(-1, columns, self._take(layer, recipient))
        self._overwritten.add(layer)
        return {**sides, self.donor.other: patched}

    def _take(self, layer: int, recipient: Tensor) -> Tensor:
        donated = self._donated.pop(layer, None)
        if donated is None or donated.shape[:-1] != recipient.shape[:-1]:
            raise InterventionError(
                f"Layer {layer} of the recipient ran without matching activations of the donor "
                f"(donor {None if donated is None else tuple(donated.shape)}, recipient "
                f"{tuple(recipient.shape)})."
            )
        return donated.to(recipient.dtype)

    def end_pass(self) -> None:
        """Demand that every layer with chosen neurons was overwritten in this pass."""
        missed = sorted(self._columns.keys() - self._overwritten)
        if missed:
            raise InterventionError(f"Layers {missed[:5]} were to be patched and were not.")
        self._overwritten.clear()
