"""Dynamic activation patching (Chen et al. 2025, section 3), as an edit at the sites.

At every forward pass the donor runs on the recipient's tokens, and the chosen neurons of
the recipient are overwritten with the donor's values of that very pass. Rows of the batch
may be patched with different neuron sets, and rows that read the same tokens may share
their donor row: the donor is the same whatever is patched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from safety_neurons.errors import InterventionError
from safety_neurons.models import Side
from safety_neurons.models.rows import Activations
from safety_neurons.neurons.sets import NeuronSet


class PatchEdit:
    """Overwrite chosen neurons of each recipient row with those of its donor row.

    Unless `assign` says otherwise, row i is patched with the first set from donor row i.
    A donor row must read the same tokens as the rows that it serves.

    Args:
        patches: the neuron sets that rows may be patched with; they may be empty.
        donor: whose activations are copied; the other side is the recipient.
        strengths: for each set, how far of the way to the donor's values (1 everywhere).
    """

    def __init__(
        self,
        patches: Sequence[NeuronSet],
        donor: Side,
        *,
        strengths: Sequence[float] | None = None,
        device: str = "cpu",
    ) -> None:
        self.donor = donor
        partial = strengths is not None and any(strength != 1 for strength in strengths)
        self._strengths = torch.tensor(strengths, device=device) if partial else None
        self._rows: tuple[Tensor, Tensor] | None = None
        self._donors = 0
        self._columns: dict[int, Tensor] = {}
        self._chosen: dict[int, Tensor] = {}
        for layer in range(len(patches[0].layout.widths)):
            of_each = [neurons.in_layer(layer) for neurons in patches]
            columns = torch.unique(torch.cat(of_each))
            if len(columns):
                chosen = torch.stack([torch.isin(columns, own) for own in of_each])
                self._columns[layer] = columns.to(device)
                self._chosen[layer] = chosen.to(device)
        self._donated: dict[int, Tensor] = {}
        self._overwritten: set[int] = set()

    def assign(self, patch_of: Int[Tensor, "batch"], donor_of: Int[Tensor, "batch"]) -> None:
        """Say of each recipient row which set it is patched with, and from which donor row."""
        self._rows = (patch_of, donor_of)
        # Once, not at every layer: on a GPU this waits for the device.
        self._donors = int(donor_of.max()) + 1

    def __call__(self, layer: int, sides: Activations) -> Activations | None:
        columns = self._columns.get(layer)
        if columns is None:
            return None
        if self.donor in sides:
            self._donated[layer] = sides[self.donor].index_select(-1, columns)
        recipient = sides.get(self.donor.other)
        if recipient is None:
            return None
        values = self._take(layer, recipient)
        several = self._rows is not None and len(self._chosen[layer]) > 1
        if several or self._strengths is not None:
            own = recipient.index_select(-1, columns)
            if self._strengths is not None:
                values = self._partly(values, own)
            if several:
                values = torch.where(self._of_row(layer), values, own)
        self._overwritten.add(layer)
        return {**sides, self.donor.other: recipient.index_copy(-1, columns, values)}

    def _of_row(self, layer: int) -> Tensor:
        """Whether a row's own set has the column, `batch 1 column`."""
        assert self._rows is not None
        return self._chosen[layer][self._rows[0]][:, None, :]

    def _partly(self, donated: Tensor, own: Tensor) -> Tensor:
        """Between the recipient's own values and the donor's, or beyond; `batch pos column`."""
        assert self._strengths is not None
        of_row = self._strengths[:1] if self._rows is None else self._strengths[self._rows[0]]
        strength = of_row.to(own.dtype)[:, None, None]
        # Exactly the donor's where the strength is 1, which rounding would not give.
        return torch.where(strength == 1, donated, own + strength * (donated - own))

    def _take(self, layer: int, recipient: Tensor) -> Tensor:
        """The donor's values for each recipient row, `batch pos column`."""
        donated = self._donated.pop(layer, None)
        if self._rows is not None and donated is not None:
            patch_of, donor_of = self._rows
            if len(patch_of) != len(recipient) or self._donors > len(donated):
                raise InterventionError(
                    f"Layer {layer} has {len(recipient)} recipient and {len(donated)} donor rows "
                    f"where {len(patch_of)} and at least {self._donors} were planned."
                )
            donated = donated.index_select(0, donor_of)
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
        # What was not taken must not be found by a later pass.
        self._overwritten.clear()
        self._donated.clear()
        if missed:
            raise InterventionError(f"Layers {missed[:5]} were to be patched and were not.")
