"""The paired-row engine: both models of a pair run on their tokens, layer by layer together.

Where the weights are shared, the two sides are rows of one batch: one forward pass
serves both, each weight is read once, and an edit sees both sides' activations of a
layer inside that layer. Where they are not, the sides run one after the other, first
the one whose activations are copied.

What is done at the sites is a `SiteEdit`; this module knows nothing of patching or
contrasting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from safety_neurons.errors import InterventionError
from safety_neurons.hooks import HookPoint, HookSet
from safety_neurons.models.cache import RowCache
from safety_neurons.models.gating import RowSpan
from safety_neurons.models.pair import ModelPair, Side

Activations = dict[Side, Tensor]
"""Activations of one layer's neurons, `batch pos neuron`, of the sides in this pass."""


class SiteEdit(Protocol):
    """What happens at every layer's site."""

    def __call__(self, layer: int, sides: Activations) -> Activations | None:
        """See, and perhaps replace, the neurons of one layer.

        With shared weights it is called once a layer with both sides, else once a layer
        and side. Returns the activations to go on with, or None for those received.
        """

    def end_pass(self) -> None:
        """Called after both sides ran; raises InterventionError unless it acted as planned."""


@dataclass(frozen=True)
class Tokens:
    """One side's part of a forward pass.

    Args:
        ids: the new tokens, `batch pos`.
        mask: 1 for tokens and 0 for padding, over past and new positions.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch all_pos"]

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Position numbers that do not count padding."""
        counted = (self.mask.cumsum(dim=-1) - 1).clamp(min=0)
        return counted[:, -self.ids.shape[1] :]


class PairedRows:
    """Forward passes of a pair, with its adapters gated by rows and its sites hooked.

    Use it as a context manager; the caches of both sides live as long as it does.

    Args:
        counts: rows of each side; a side left out does not run.
        edits: done at every site, in this order.
        first: the side that runs first where weights are not shared (the donor).
        cached: keep key-value caches from pass to pass.
    """

    def __init__(
        self,
        pair: ModelPair,
        counts: Mapping[Side, int],
        *,
        edits: Sequence[SiteEdit] = (),
        first: Side = Side.ALIGNED,
        cached: bool = False,
    ) -> None:
        self.pair = pair
        self.edits = list(edits)
        order = [side for side in (first, first.other) if counts.get(side)]
        # In a common batch the donor's rows are the last: they become more and fewer.
        groups = [order[::-1]] if pair.shared else [[side] for side in order]
        self._batches = [_Batch(pair, group, counts, self, cached) for group in groups]
        self._stack = ExitStack()
        self._passes = 0

    def __enter__(self) -> PairedRows:
        with ExitStack() as stack:
            for batch in self._batches:
                stack.enter_context(batch.hooks)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def rearrange(self, rows: Mapping[Side, Int[Tensor, "new_batch"]]) -> None:
        """Let the next passes have other rows: new row i goes on from old row `rows[side][i]`.

        Its cached keys and values are copied. A row may be named several times, and one
        that is not named is dropped. Sides left out keep their rows.
        """
        for batch in self._batches:
            batch.rearrange(rows)

    def forward(
        self,
        tokens: Mapping[Side, Tokens],
        *,
        logits: int | None = 1,
        of: Side | None = None,
    ) -> dict[Side, Float[Tensor, "batch kept vocab"]]:
        """One pass of every side.

        Args:
            tokens: of each side; all sides must have the same number of positions.
            logits: at how many last positions (0: at all); None runs the trunk alone and
                returns nothing.
            of: the side whose logits are computed; None for every side's.

        Raises:
            InterventionError: if a hook did not run, or an edit did not act as planned.
        """
        self._passes += 1
        out: dict[Side, Tensor] = {}
        for batch in self._batches:
            out.update(batch.forward(tokens, logits, of))
            batch.hooks.check(self._passes)
        for edit in self.edits:
            edit.end_pass()
        return out

    def apply(self, layer: int, sides: Activations) -> Activations | None:
        """All edits of one layer in turn; None if none of them changed anything."""
        current, changed = sides, False
        for edit in self.edits:
            edited = edit(layer, current)
            if edited is not None:
                current, changed = edited, True
        return current if changed else None


class _Batch:
    """The rows that go through one model together: both sides', or one side's."""

    def __init__(
        self,
        pair: ModelPair,
        sides: list[Side],
        counts: Mapping[Side, int],
        owner: PairedRows,
        cached: bool,
    ) -> None:
        self.rows = {side: RowSpan(0, 0) for side in sides}
        self._place({side: counts[side] for side in sides})
        self._owner = owner
        leader = pair.sides[sides[0]]
        self.model: PreTrainedModel = leader.model
        self.cache = self._new_cache() if cached else None
        gates = [p for side in sides for p in pair.sides[side].gates(self.rows[side])]
        sites = [
            HookPoint(s.name, s.module, "input", self._edit(s.layer))
            for s in leader.sites
            if owner.edits
        ]
        # Gates first: a neuron is what the projection reads after the adapter's scaling.
        self.hooks = HookSet(gates + sites)
        # The last position alone is a strided view, for which torch's CPU product copies
        # the whole unembedding once a row: seconds in bfloat16 where milliseconds do.
        self._read = RowSpan(0, self.total)
        head = HookPoint(
            "unembedding",
            self.model.get_output_embeddings(),
            "input",
            lambda x: self._read.of(x).contiguous(),
        )
        self._head = HookSet([head])

    def _new_cache(self) -> DynamicCache:
        # Gradients need what was cached to stay as it was.
        if torch.is_grad_enabled():
            return DynamicCache(config=self.model.config)
        return RowCache(self.model.config)

    def _place(self, counts: Mapping[Side, int]) -> None:
        """Lay the sides' rows out one behind the other."""
        start = 0
        for side, span in self.rows.items():
            span.start, span.stop = start, start + counts[side]
            start = span.stop
        self.total = start

    def rearrange(self, rows: Mapping[Side, Tensor]) -> None:
        device = self.model.device
        index = torch.cat(
            [
                torch.arange(span.start, span.stop, device=device)
                if side not in rows
                else rows[side].to(device) + span.start
                for side, span in self.rows.items()
            ]
        )
        same = len(index) == self.total and bool((index.diff() == 1).all())
        if not same and self.cache is not None:
            self.cache.reorder_cache(index)  # type: ignore[arg-type]
        self._place({side: len(rows.get(side, range(len(s)))) for side, s in self.rows.items()})

    def _edit(self, layer: int):
        def edit(x: Tensor) -> Tensor | None:
            if x.dim() != 3 or x.shape[0] != self.total:
                raise InterventionError(
                    f"Layer {layer} received activations of shape {tuple(x.shape)} where "
                    f"{self.total} rows were planned."
                )
            edited = self._owner.apply(layer, {s: rows.of(x) for s, rows in self.rows.items()})
            if edited is None:
                return None
            return torch.cat([edited[side] for side in self.rows])

        return edit

    def forward(
        self, tokens: Mapping[Side, Tokens], logits: int | None, of: Side | None
    ) -> dict[Side, Tensor]:
        inputs = {
            "input_ids": torch.cat([tokens[side].ids for side in self.rows]),
            "attention_mask": torch.cat([tokens[side].mask for side in self.rows]),
            "position_ids": torch.cat([tokens[side].positions for side in self.rows]),
            "past_key_values": self.cache,
            "use_cache": self.cache is not None,
        }
        if logits is None or (of is not None and of not in self.rows):
            self.model.base_model(**inputs)
            return {}
        self._read = RowSpan(0, self.total) if of is None else self.rows[of]
        with self._head:
            computed = self.model(**inputs, logits_to_keep=logits).logits
        if of is not None:
            return {of: computed}
        return {side: rows.of(computed) for side, rows in self.rows.items()}
