"""Interventions at work: an edit at the sites for a batch whose rows are under different ones.

Rows of the batch may have different interventions, or none. Where a donor is read, rows that
read the same tokens may share their donor row: the donor is the same whatever is done to the
recipient. What rows under interventions of one family have in common is computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from safety_neurons.engine import Activations, Role, Side
from safety_neurons.engine.around import Around, Places
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.interventions.base import AtSite, Intervention
from safety_neurons.units import BlockKey, UnitSpace


def donor_of(interventions: Sequence[Intervention], recipient: Role) -> Side | None:
    """Whose activations are read beside the recipient's.

    Returns:
        The other side of the pair if any intervention reads a donor, else None.

    Raises:
        UserError: if one does, and the recipient is a model alone.
    """
    reading = [each for each in interventions if each.reads_donor]
    if not reading:
        return None
    if not isinstance(recipient, Side):
        name = reading[0].describe().get("intervention", type(reading[0]).__name__)
        raise UserError(
            f"The intervention '{name}' reads another model's activations, and there is one model "
            "alone; load a pair."
        )
    return recipient.other


def require_units(interventions: Sequence[Intervention], space: Callable[..., UnitSpace]) -> None:
    """Demand that interventions are at units that a model has.

    Args:
        space: the model's units of some kinds of sites, such as `ModelGroup.space`.

    Raises:
        UserError: for the first that is not.
    """
    for each in interventions:
        if each.units.space != space(*each.units.space.kinds):
            raise UserError(
                "An intervention is at units of a differently shaped model; make it from a ranking "
                "or set of this one."
            )


@dataclass(frozen=True)
class _Family:
    """What interventions of one family do in one block.

    Args:
        lead: acts for all of them.
        columns: all their units of the block, as coordinates.
        chosen: for each intervention of the edit, which columns are its own.
    """

    lead: Intervention
    columns: Int[Tensor, "k"]
    chosen: Bool[Tensor, "intervention k"]


class InterventionEdit:
    """Does one of several interventions to each recipient row.

    Unless `assign` says otherwise, row i is under the first one, and its donor row is row i.
    A donor row must read the same tokens as the rows that it serves.

    Args:
        interventions: that rows may be under; None leaves a row as it is.
        recipient: whose rows are changed; where a donor is read, it is the other side.

    Raises:
        UserError: if a donor is read, and the recipient is a model alone.
    """

    def __init__(
        self,
        interventions: Sequence[Intervention | None],
        recipient: Role,
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        known = [each for each in interventions if each is not None]
        self.recipient = recipient
        self.donor = donor_of(known, recipient)
        self._several = len(interventions) > 1
        self._rows: tuple[Tensor, Tensor] | None = None
        self._donors = 0
        self._families = _families(interventions, device)
        self._donated: dict[BlockKey, Tensor] = {}
        self._live: dict[tuple[BlockKey, int], AtSite] = {}
        self._acted: set[BlockKey] = set()

    @property
    def blocks(self) -> Collection[BlockKey]:
        return self._families.keys()

    def around(self, block: BlockKey, places: Places) -> list[Around]:
        """The hooks that interventions need around one block; see `Intervention.live`."""
        found = []
        for i, family in enumerate(self._families.get(block, ())):
            chosen = functools.partial(self._under, family)
            if (live := family.lead.live(block, replace(places, chosen=chosen))) is not None:
                hooks, self._live[block, i] = live
                found.append(hooks)
        return found

    def _under(self, family: _Family) -> Bool[Tensor, "row"] | None:
        """The rows that are under interventions of a family; None for all rows."""
        if self._rows is None or not self._several:
            return None
        return family.chosen.any(dim=1)[self._rows[0]]

    def assign(self, which: Int[Tensor, "row"], donor_rows: Int[Tensor, "row"]) -> None:
        """Say of each recipient row which intervention it is under, and its donor row."""
        self._rows = (which, donor_rows)
        # Once, not at every site: on a GPU this waits for the device.
        self._donors = int(donor_rows.max()) + 1

    def __call__(self, block: BlockKey, roles: Activations) -> Activations | None:
        families = self._families[block]
        if self.donor in roles:
            columns = [f.columns for f in families if f.lead.reads_donor]
            if columns:  # of all families at once, in their order
                read = roles[self.donor]
                self._donated[block] = read.index_select(-1, torch.cat(columns))
        recipient = roles.get(self.recipient)
        if recipient is None:
            return None
        donated = self._take(block, recipient)
        for i, family in enumerate(families):
            if (at_site := self._live.get((block, i))) is not None:
                recipient = at_site(recipient)
                continue
            mine = None
            if family.lead.reads_donor:
                mine, donated = donated.split(
                    [len(family.columns), donated.shape[-1] - len(family.columns)], dim=-1
                )
            recipient = self._changed(block, family, recipient, mine)
        self._acted.add(block)
        return {**roles, self.recipient: recipient}

    def _changed(
        self, block: BlockKey, family: _Family, recipient: Tensor, donated: Tensor | None
    ) -> Float[Tensor, "row pos unit"]:
        own = recipient.index_select(-1, family.columns)
        values = family.lead.act(block, family.columns, own, donated).to(recipient.dtype)
        if values.shape != own.shape:
            raise InterventionError(
                f"An intervention gave activations of shape {tuple(values.shape)} for "
                f"{tuple(own.shape)} in {block}."
            )
        if self._rows is not None and self._several:
            values = torch.where(family.chosen[self._rows[0]][:, None, :], values, own)
        return recipient.index_copy(-1, family.columns, values)

    def _take(self, block: BlockKey, recipient: Tensor) -> Float[Tensor, "row pos k"]:
        """The donor's values for each recipient row; no columns where no donor is read."""
        donated = self._donated.pop(block, None)
        if not any(family.lead.reads_donor for family in self._families[block]):
            return recipient[..., :0]
        if self._rows is not None and donated is not None:
            which, donor_rows = self._rows
            if len(which) != len(recipient) or self._donors > len(donated):
                raise InterventionError(
                    f"{block} has {len(recipient)} recipient and {len(donated)} donor rows "
                    f"where {len(which)} and at least {self._donors} were planned."
                )
            donated = donated.index_select(0, donor_rows)
        if donated is None or donated.shape[:-1] != recipient.shape[:-1]:
            raise InterventionError(
                f"{block} of the recipient ran without matching activations of the donor "
                f"(donor {None if donated is None else tuple(donated.shape)}, recipient "
                f"{tuple(recipient.shape)})."
            )
        return donated.to(recipient.dtype)

    def end_pass(self) -> None:
        """Demand that in this pass every block was reached in which there is something to do."""
        missed = sorted(self._families.keys() - self._acted)
        # What was not taken must not be found by a later pass.
        self._acted.clear()
        self._donated.clear()
        if missed:
            raise InterventionError(
                f"Nothing was done in {', '.join(map(str, missed[:5]))}, where an intervention has "
                "units."
            )


def _families(
    interventions: Sequence[Intervention | None], device: str | torch.device
) -> dict[BlockKey, list[_Family]]:
    """What is to be done in each block; blocks without any units of the sets are left out."""
    members: dict[Hashable, list[int]] = {}
    for i, each in enumerate(interventions):
        if each is not None:
            members.setdefault(each.family, []).append(i)
    found: dict[BlockKey, list[_Family]] = {}
    for indices in members.values():
        alike = {i: interventions[i] for i in indices}
        lead = alike[indices[0]]
        assert lead is not None
        for key in lead.units.space.keys:
            of_each = [
                each.units.in_block(key) if (each := alike.get(i)) is not None else torch.empty(0)
                for i in range(len(interventions))
            ]
            columns = torch.unique(torch.cat(of_each)).long()
            if len(columns):
                chosen = torch.stack([torch.isin(columns, own) for own in of_each])
                family = _Family(lead, columns.to(device), chosen.to(device))
                found.setdefault(key, []).append(family)
    return found
