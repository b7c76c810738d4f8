"""Where in texts units are large and small, and which units are active together; streamed.

Models read documents in batches. Of each batch remain the largest and smallest activations of a few
units with their places, one place of a document, and sums over positions for the correlation of
these units with all: memory does not grow with documents or tokens, and the order of batches does
not matter. The first token of a document draws attention that is not needed elsewhere, and in most
models some activations are hundreds of times as large there, so it never counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from safety_neurons.engine import Activations, ModelGroup, PairedRows, Role
from safety_neurons.errors import InterventionError
from safety_neurons.inference.decoding import right_padded
from safety_neurons.units import BlockKey, UnitSpace

KEPT = 10
"""So many places are kept of each unit at either end."""


@dataclass(frozen=True)
class Document:
    """A text that models read at once.

    Args:
        number: of this document among all.
        tokens: its ids.
        counted: the first position that counts; behind the first in any case.
        begins: where its own text begins, behind what a chat template writes in front of it.
    """

    number: int
    tokens: tuple[int, ...]
    counted: int = 1
    begins: int = 0


@dataclass
class Peaks:
    """The largest values of some units and where they were, at most one a document.

    Equal values are in the order of documents. Where there were too few documents, values are -inf
    and places -1.
    """

    values: Float[Tensor, "unit kept"]
    documents: Int[Tensor, "unit kept"]
    positions: Int[Tensor, "unit kept"]

    @classmethod
    def none(cls, units: int, kept: int = KEPT) -> Peaks:
        """Those of no document."""
        nowhere = torch.full((units, kept), -1)
        return cls(torch.full((units, kept), -torch.inf, dtype=torch.float64), nowhere, nowhere)

    def __add__(self, other: Peaks) -> Peaks:
        """The largest of both, whose documents are others."""
        values = torch.cat([self.values, other.values], dim=1)
        documents = torch.cat([self.documents, other.documents], dim=1)
        positions = torch.cat([self.positions, other.positions], dim=1)
        in_order = documents.argsort(dim=1, stable=True)
        by_value = values.gather(1, in_order).argsort(dim=1, descending=True, stable=True)
        first = in_order.gather(1, by_value)[:, : self.values.shape[1]]
        return Peaks(
            values.gather(1, first), documents.gather(1, first), positions.gather(1, first)
        )

    def of(self, unit: int) -> list[tuple[float, int, int]]:
        """One unit's values, documents and positions, the largest first."""
        columns = (self.values[unit], self.documents[unit], self.positions[unit])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [row for row in rows if row[1] >= 0]


@dataclass
class Activity:
    """What one model's units do on documents; mergeable with `+`.

    Args:
        positions: how many counted.
        total, squares: sums over these of all units' activations and their squares.
        products: of the chosen units' activations times all units'.
        highest: places of the chosen units' largest activations; `lowest` of the largest negative
            ones, so its values have the other sign.
    """

    positions: int
    total: Float[Tensor, "unit"]
    squares: Float[Tensor, "unit"]
    products: Float[Tensor, "chosen unit"]
    highest: Peaks
    lowest: Peaks

    @classmethod
    def zero(cls, space: UnitSpace, chosen: int, kept: int = KEPT) -> Activity:
        """That of no document."""
        total, squares = (torch.zeros(space.total, dtype=torch.float64) for _ in range(2))
        products = torch.zeros(chosen, space.total, dtype=torch.float64)
        highest, lowest = (Peaks.none(chosen, kept) for _ in range(2))
        return cls(0, total, squares, products, highest, lowest)

    def __add__(self, other: Activity) -> Activity:
        return Activity(
            self.positions + other.positions,
            self.total + other.total,
            self.squares + other.squares,
            self.products + other.products,
            self.highest + other.highest,
            self.lowest + other.lowest,
        )

    def correlations(self, units: Sequence[int]) -> Float[Tensor, "chosen unit"]:
        """Pearson's r of the chosen units with all, over positions; 0 where one does not vary.

        Args:
            units: the chosen ones, as flat positions, in the order of `products`.

        Returns:
            Between -1 and 1, float64.
        """
        n = max(self.positions, 1)
        own = torch.tensor(list(units), dtype=torch.long)
        common = self.products / n - self.total[own, None] / n * (self.total / n)
        spread = self.squares / n - (self.total / n).square()
        # What rounding leaves of a unit that does not vary is no variance.
        spread = spread.where(spread > 1e-12 * self.squares / n, torch.inf)
        return (common / (spread[own, None] * spread).sqrt()).clamp(-1, 1)


class _Reading:
    """Keeps what one pass shows of all blocks, and makes sums of it when the pass has ended.

    A chosen unit of a late layer meets those of all earlier ones, so that sums wait for the end.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        counted: Bool[Tensor, "document pos"],
        space: UnitSpace,
        units: Sequence[int],
        kept: int,
    ) -> None:
        self.blocks = space.keys
        self.found: dict[Role, Activity] = {}
        self._numbers = torch.tensor([document.number for document in documents])
        self._counted, self._space, self._kept = counted, space, kept
        self._units = torch.tensor(list(units), dtype=torch.long)
        self._seen: dict[Role, dict[BlockKey, Tensor]] = {}
        self._chosen: dict[Role, Float[Tensor, "document pos chosen"]] = {}

    def __call__(self, block: BlockKey, roles: Activations) -> None:
        span = self._space.slice_of(block)
        here = ((self._units >= span.start) & (self._units < span.stop)).nonzero()[:, 0]
        columns = self._units[here] - span.start
        for role, x in roles.items():
            self._seen.setdefault(role, {})[block] = x[self._counted]
            if role not in self._chosen:
                shape = (*self._counted.shape, len(self._units))
                self._chosen[role] = torch.zeros(shape, dtype=torch.float64, device=x.device)
            self._chosen[role][..., here] = x[..., columns].double()

    def end_pass(self) -> None:
        for role, seen in self._seen.items():
            if missed := set(self.blocks) - seen.keys():
                raise InterventionError(f"Nothing was seen of {min(missed)}.")
            self.found[role] = self._summed(seen, self._chosen[role])
        self._seen, self._chosen = {}, {}

    def _summed(
        self, seen: dict[BlockKey, Tensor], chosen: Float[Tensor, "document pos chosen"]
    ) -> Activity:
        sums = Activity.zero(self._space, len(self._units), self._kept)
        sums.positions = int(self._counted.sum())
        read = chosen[self._counted]
        for block, taken in seen.items():
            span, x = self._space.slice_of(block), taken.double()
            sums.total[span] = x.sum(dim=0).cpu()
            sums.squares[span] = x.square().sum(dim=0).cpu()
            sums.products[:, span] = (read.T @ x).cpu()
        sums.highest += self._peaks(chosen)
        sums.lowest += self._peaks(-chosen)
        return sums

    def _peaks(self, values: Float[Tensor, "document pos chosen"]) -> Peaks:
        """Each document's largest values."""
        shown = values.masked_fill(~self._counted[..., None], -torch.inf)
        largest, places = (of.T.cpu() for of in shown.max(dim=1))
        real = self._counted.any(dim=1).cpu()
        numbers = self._numbers.where(real, -1).expand_as(places)
        return Peaks(largest, numbers, places.where(real, -1))


@torch.no_grad()
def activity(
    group: ModelGroup,
    documents: Sequence[Document],
    space: UnitSpace,
    units: Sequence[int],
    *,
    kept: int = KEPT,
) -> dict[Role, Activity]:
    """What units do in every model of a group while it reads one batch of documents.

    Args:
        units: the chosen ones, as flat positions in `space`.
        kept: so many places are kept of each at either end.

    Returns:
        Sums over this batch, by model.

    Raises:
        InterventionError: if a block was not seen.
    """
    tokens = right_padded([document.tokens for document in documents], group)
    first = torch.tensor([max(document.counted, 1) for document in documents])
    places = torch.arange(tokens.ids.shape[1])
    counted = (places >= first[:, None]).to(group.device) & tokens.mask.bool()
    edit = _Reading(documents, counted, space, units, kept)
    counts: dict[Role, int] = dict.fromkeys(group.members, len(documents))
    with PairedRows(group, counts, edits=[edit]) as rows:
        rows.forward(dict.fromkeys(group.members, tokens), logits=None)
    return edit.found
