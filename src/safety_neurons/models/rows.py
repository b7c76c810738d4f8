"""The paired-row engine: both models of a pair run on their tokens, layer by layer together.

Where the weights are shared, the two sides are rows of one batch: one forward pass
serves both, each weight is read once, and an edit sees both sides' activations of a
layer inside that layer. Where they are not, the sides run one after the other, first
the one whose activations are copied.

What is done at the sites is a `SiteEdit`; this module knows nothing of patching or
contrasting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from safety_neurons.errors import InterventionError
from safety_neurons.hooks import HookPoint, HookSet, InputEdit
from safety_neurons.models import gating
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

    Use it as a context manager, once. The caches of both sides live as long as the block:
    leaving it frees them and lets go of the edits.

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
        order = [side for side in (first, first.other) if counts.get(side)]
        # In a common batch the donor's rows are the last: they become more and fewer.
        groups = [order[::-1]] if pair.shared else [[side] for side in order]
        self._edits = list(edits)
        self._batches = [_Batch(pair, group, counts, self._edits, cached) for group in groups]
        self._stack: ExitStack | None = None

    def __enter__(self) -> PairedRows:
        if self._stack is not None:
            raise InterventionError("Paired rows cannot be used again: their hooks are gone.")
        with ExitStack() as stack:
            for batch in self._batches:
                stack.callback(batch.release)
                stack.enter_context(batch.hooks)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._stack is not None
        # Nothing here may hold a cache or an edit, whoever holds this object: nobody waits
        # for Python's collector of cycles, which may come minutes and gigabytes later.
        self._batches, self._edits = [], []
        self._stack.close()

    def rearrange(self, rows: Mapping[Side, Int[Tensor, "new_batch"]]) -> None:
        """Let the next passes have other rows: new row i goes on from old row `rows[side][i]`.

        Its cached keys and values are copied. A row may be named several times, and one
        that is not named is dropped. Sides left out keep their rows.

        Raises:
            InterventionError: outside of the `with` block.
        """
        for batch in self._running():
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
            InterventionError: if a hook did not run, an edit did not act as planned, or
                outside of the `with` block.
        """
        out: dict[Side, Tensor] = {}
        for batch in self._running():
            out.update(batch.forward(tokens, logits, of))
        for edit in self._edits:
            edit.end_pass()
        return out

    def _running(self) -> list[_Batch]:
        if not self._batches or self._stack is None:
            raise InterventionError("Paired rows run inside their `with` block only.")
        return self._batches


class _Batch:
    """The rows that go through one model together: both sides', or one side's.

    Its hooks hold the spans of rows and the edits, and not the batch: a circle would keep
    its cache until Python looks for circles.
    """

    def __init__(
        self,
        pair: ModelPair,
        sides: list[Side],
        counts: Mapping[Side, int],
        edits: Sequence[SiteEdit],
        cached: bool,
    ) -> None:
        self.rows = {side: RowSpan(0, 0) for side in sides}
        _lay_out(self.rows, counts)
        leader = pair.sides[sides[0]]
        self.model: PreTrainedModel = leader.model
        self.cache = self._new_cache() if cached else None
        gates = [p for side in sides for p in pair.sides[side].gates(self.rows[side])]
        sites = [
            HookPoint(s.name, s.module, "input", _site_hook(s.layer, self.rows, edits))
            for s in leader.sites
            if edits
        ]
        # Gates first: a neuron is what the projection reads after the adapter's scaling.
        self.hooks = HookSet(gates + sites)
        self._passes = 0
        self._head = _Head(pair, sides)

    def _new_cache(self) -> DynamicCache:
        # Gradients need what was cached to stay as it was.
        if torch.is_grad_enabled():
            return DynamicCache(config=self.model.config)
        return RowCache(self.model.config)

    @property
    def total(self) -> int:
        """Rows of all sides."""
        return sum(len(span) for span in self.rows.values())

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
        _lay_out(self.rows, {side: len(rows.get(side, s)) for side, s in self.rows.items()})

    def forward(
        self, tokens: Mapping[Side, Tokens], logits: int | None, of: Side | None
    ) -> dict[Side, Tensor]:
        for side, span in self.rows.items():
            if len(tokens[side].ids) != len(span):
                raise InterventionError(
                    f"The {side} side was given tokens of {len(tokens[side].ids)} rows where "
                    f"{len(span)} were planned."
                )
        inputs = {
            "input_ids": torch.cat([tokens[side].ids for side in self.rows]),
            "attention_mask": torch.cat([tokens[side].mask for side in self.rows]),
            "position_ids": torch.cat([tokens[side].positions for side in self.rows]),
            "past_key_values": self.cache,
            "use_cache": self.cache is not None,
        }
        asked = [side for side in self.rows if of in (None, side)] if logits is not None else []
        if asked:
            with self._head.reading({side: self.rows[side] for side in asked}):
                computed = self.model(**inputs, logits_to_keep=logits).logits
        else:
            self.model.base_model(**inputs)
        self._passes += 1
        self.hooks.check(self._passes)
        return {side: self._head.rows[side].of(computed) for side in asked}

    def release(self) -> None:
        """Free what is cached, even while a traceback or a caller holds this batch."""
        if self.cache is not None:
            self.cache.layers.clear()
        self.cache = None


class _Head:
    """The unembedding, which runs only where logits are asked for, on the rows asked for.

    Args (of the state):
        rows: where each side's rows are among those that it reads.
    """

    def __init__(self, pair: ModelPair, sides: list[Side]) -> None:
        model = pair.sides[sides[0]].model
        self._read = RowSpan(0, 0)
        self.rows = {side: RowSpan(0, 0) for side in sides}
        narrow = HookPoint(
            "unembedding", gating.unembedding(model), "input", _narrowing(self._read)
        )
        gates = [
            point
            for side in sides
            if (adapter := pair.sides[side].adapter) is not None
            for point in gating.head_gates(model, adapter, self.rows[side])
        ]
        # An adapter's gates act on the rows that remain.
        self._hooks = HookSet([narrow, *gates])
        self._passes = 0

    @contextmanager
    def reading(self, asked: Mapping[Side, RowSpan]) -> Iterator[None]:
        """Let it run once, on these neighbouring rows alone.

        Raises:
            InterventionError: if it, or an adapter's gate at it, did not run once.
        """
        spans = list(asked.values())
        self._read.start, self._read.stop = spans[0].start, spans[-1].stop
        _lay_out(self.rows, {side: len(asked.get(side, ())) for side in self.rows})
        with self._hooks:
            yield
        self._passes += 1
        self._hooks.check(self._passes)


def _lay_out(spans: Mapping[Side, RowSpan], counts: Mapping[Side, int]) -> None:
    """Move the sides' spans so that they lie one behind the other."""
    start = 0
    for side, span in spans.items():
        span.start, span.stop = start, start + counts[side]
        start = span.stop


def _narrowing(read: RowSpan) -> InputEdit:
    """The rows that the unembedding reads.

    The last position alone is a strided view, for which torch's CPU product copies the
    whole unembedding once a row: seconds in bfloat16 where milliseconds do.
    """
    return lambda x: read.of(x).contiguous()


def _site_hook(layer: int, rows: Mapping[Side, RowSpan], edits: Sequence[SiteEdit]) -> InputEdit:
    """All edits of one layer in turn; None if none of them changed anything."""

    def edit_rows(x: Tensor) -> Tensor | None:
        total = sum(len(span) for span in rows.values())
        if x.dim() != 3 or x.shape[0] != total:
            raise InterventionError(
                f"Layer {layer} received activations of shape {tuple(x.shape)} where "
                f"{total} rows were planned."
            )
        sides, changed = {side: span.of(x) for side, span in rows.items()}, False
        for edit in edits:
            edited = edit(layer, sides)
            if edited is not None:
                sides, changed = edited, True
        return torch.cat([sides[side] for side in rows]) if changed else None

    return edit_rows
