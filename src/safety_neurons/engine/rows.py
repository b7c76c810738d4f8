"""The paired-row engine: the models of a group run on their tokens, layer by layer together.

Where the weights are shared, the two sides of a pair are rows of one batch: one forward pass
serves both, each weight is read once, and an edit sees both sides' activations of a
layer inside that layer. Where they are not, the sides run one after the other, first
the one whose activations are copied. A model alone is a group of one.

What is done at the sites is a `SiteEdit`; this module knows nothing of patching or
contrasting.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from safety_neurons.engine import gating
from safety_neurons.engine.around import AroundEdit, Places
from safety_neurons.engine.cache import RowCache
from safety_neurons.engine.gating import RowSpan
from safety_neurons.engine.group import HookedModel, ModelGroup, Role
from safety_neurons.engine.hooks import HookPoint, HookSet, InputEdit
from safety_neurons.engine.resuming import Resumption, entering, layers_below, passed_over
from safety_neurons.engine.sites import Site, base_layer
from safety_neurons.errors import InterventionError
from safety_neurons.units import BlockKey

Activations = dict[Role, Tensor]
"""Activations of one block's units, `batch pos unit`, of the roles in this pass."""


class SiteEdit(Protocol):
    """What happens at some sites."""

    @property
    def blocks(self) -> Collection[BlockKey]:
        """Where: hooks are set at these blocks' sites and nowhere else."""
        ...

    def __call__(self, block: BlockKey, roles: Activations, /) -> Activations | None:
        """See, and perhaps replace, the units of one block.

        With shared weights it is called once a block with all roles, else once a block and role.

        Returns:
            The activations to go on with, or None for those received.
        """

    def end_pass(self) -> None:
        """Called after all roles ran; raises InterventionError unless it acted as planned."""


class BlockTap:
    """A `SiteEdit` that keeps the activations of some blocks of one role, and changes nothing.

    Args:
        kept: at which positions, as an index of `batch pos`; None for all.

    Args (of the state):
        taken: activations by block, `batch pos unit` (or what `kept` leaves), of the last pass.
    """

    def __init__(self, blocks: Collection[BlockKey], kept: Any = None) -> None:
        self.blocks = blocks
        self.taken: dict[BlockKey, Tensor] = {}
        self._kept = kept

    def __call__(self, block: BlockKey, roles: Activations) -> None:
        (x,) = roles.values()
        # A view would hold all of it.
        self.taken[block] = x if self._kept is None else x[self._kept].clone()

    def end_pass(self) -> None:
        if missed := set(self.blocks) - self.taken.keys():
            raise InterventionError(f"Nothing was seen of {min(missed)}.")


@dataclass(frozen=True)
class Tokens:
    """One role's part of a forward pass.

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
    """Forward passes of a group, with its adapters gated by rows and its sites hooked.

    Use it as a context manager, once. The caches live as long as the block: leaving it frees
    them and lets go of the edits.

    Args:
        counts: rows of each role; a role left out does not run.
        edits: done at the sites that they name, in this order.
        first: the role that runs first where weights are not shared (the donor).
        cached: keep key-value caches from pass to pass.
        resumed: let the layers below one not run, of the only role that does; without a cache.
    """

    def __init__(
        self,
        group: ModelGroup,
        counts: Mapping[Role, int],
        *,
        edits: Sequence[SiteEdit] = (),
        first: Role | None = None,
        cached: bool = False,
        resumed: Resumption | None = None,
    ) -> None:
        order = sorted(group.members, key=lambda role: role is not first)
        running = [role for role in order if counts.get(role)]
        # In a common batch the donor's rows are the last: they become more and fewer.
        together = [running[::-1]] if group.shared else [[role] for role in running]
        if resumed is not None and (cached or len(running) != 1):
            raise ValueError("A pass that begins in the middle has one role and no cache.")
        self._edits = list(edits)
        self._batches = [
            _ModelRows(group, roles, counts, self._edits, cached, resumed) for roles in together
        ]
        self._stack: ExitStack | None = None

    def __enter__(self) -> PairedRows:
        if self._stack is not None:
            raise InterventionError("Paired rows cannot be used again: their hooks are gone.")
        with ExitStack() as stack:
            for batch in self._batches:
                stack.callback(batch.release)
                stack.enter_context(passed_over(batch.below))
                stack.enter_context(batch.hooks)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._stack is not None
        # Nothing here may hold a cache or an edit, whoever holds this object: nobody waits
        # for Python's collector of cycles, which may come minutes and gigabytes later.
        self._batches, self._edits = [], []
        self._stack.close()

    def rearrange(self, rows: Mapping[Role, Int[Tensor, "new_batch"]]) -> None:
        """Let the next passes have other rows: new row i goes on from old row `rows[role][i]`.

        Its cached keys and values are copied. A row may be named several times, and one
        that is not named is dropped. Roles left out keep their rows.

        Raises:
            InterventionError: outside of the `with` block.
        """
        for batch in self._running():
            batch.rearrange(rows)

    def forward(
        self,
        tokens: Mapping[Role, Tokens],
        *,
        logits: int | None = 1,
        of: Role | None = None,
    ) -> dict[Role, Float[Tensor, "batch kept vocab"]]:
        """One pass of every role.

        Args:
            tokens: of each role; all sides must have the same number of positions.
            logits: at how many last positions (0: at all); None runs the trunk alone and
                returns nothing.
            of: the role whose logits are computed; None for every role's.

        Returns:
            Logits by role, `batch kept vocab`; empty where `logits` is None.

        Raises:
            InterventionError: if a hook did not run, an edit did not act as planned, or
                outside of the `with` block.
        """
        out: dict[Role, Tensor] = {}
        for batch in self._running():
            out.update(batch.forward(tokens, logits, of))
        for edit in self._edits:
            edit.end_pass()
        return out

    def _running(self) -> list[_ModelRows]:
        if not self._batches or self._stack is None:
            raise InterventionError("Paired rows run inside their `with` block only.")
        return self._batches


class _ModelRows:
    """The rows that go through one model together: both sides' of a pair, or one role's.

    Its hooks hold the spans of rows and the edits, and not the batch: a circle would keep
    its cache until Python looks for circles.
    """

    def __init__(
        self,
        group: ModelGroup,
        roles: list[Role],
        counts: Mapping[Role, int],
        edits: Sequence[SiteEdit],
        cached: bool,
        resumed: Resumption | None,
    ) -> None:
        self.rows = {role: RowSpan(0, 0) for role in roles}
        _lay_out(self.rows, counts)
        members = group.members
        leader = members[roles[0]]
        self.model: PreTrainedModel = leader.model
        self.cache = self._new_cache() if cached else None
        gates = [p for role in roles for p in members[role].gates(self.rows[role])]
        sites = [
            HookPoint(s.name, s.module, "input", _site_hook(s.key, self.rows, acting))
            for s in leader.sites
            if (acting := [edit for edit in edits if s.key in edit.blocks])
        ]
        self.below = [] if resumed is None else layers_below(leader.sites, resumed.layer)
        silent = {id(module) for layer in self.below for module in layer.modules()}
        start = [] if resumed is None else [entering(leader.sites, resumed)]
        around = [
            hooks
            for site in leader.sites
            for edit in edits
            if site.key in edit.blocks and isinstance(edit, AroundEdit)
            if (span := self.rows.get(edit.recipient)) is not None
            for hooks in edit.around(site.key, _places(leader.model, site, span))
        ]
        # Gates first: a neuron is what the projection reads after the adapter's scaling.
        points = [
            *start,
            *(point for hooks in around for point in hooks.before),
            *gates,
            *(point for hooks in around for point in hooks.made),
            *sites,
            *(point for hooks in reversed(around) for point in hooks.taken),
            *(point for hooks in around for point in hooks.after),
        ]
        self.hooks = HookSet([point for point in points if id(point.module) not in silent])
        self._passes = 0
        self._head = _Head(members, roles)

    def _new_cache(self) -> DynamicCache:
        # Gradients need what was cached to stay as it was.
        if torch.is_grad_enabled():
            return DynamicCache(config=self.model.config)
        return RowCache(self.model.config)

    @property
    def total(self) -> int:
        """Rows of all sides."""
        return sum(len(span) for span in self.rows.values())

    def rearrange(self, rows: Mapping[Role, Tensor]) -> None:
        device = self.model.device
        index = torch.cat(
            [
                torch.arange(span.start, span.stop, device=device)
                if role not in rows
                else rows[role].to(device) + span.start
                for role, span in self.rows.items()
            ]
        )
        same = len(index) == self.total and bool((index.diff() == 1).all())
        if not same and self.cache is not None:
            self.cache.reorder_cache(index)  # type: ignore[arg-type]
        _lay_out(self.rows, {role: len(rows.get(role, s)) for role, s in self.rows.items()})

    def forward(
        self, tokens: Mapping[Role, Tokens], logits: int | None, of: Role | None
    ) -> dict[Role, Tensor]:
        for role, span in self.rows.items():
            if len(tokens[role].ids) != len(span):
                raise InterventionError(
                    f"The {role} side was given tokens of {len(tokens[role].ids)} rows where "
                    f"{len(span)} were planned."
                )
        inputs = {
            "input_ids": torch.cat([tokens[role].ids for role in self.rows]),
            "attention_mask": torch.cat([tokens[role].mask for role in self.rows]),
            "position_ids": torch.cat([tokens[role].positions for role in self.rows]),
            "past_key_values": self.cache,
            "use_cache": self.cache is not None,
        }
        wanted = [role for role in self.rows if of in (None, role)] if logits is not None else []
        if wanted:
            with self._head.reading({role: self.rows[role] for role in wanted}):
                computed = self.model(**inputs, logits_to_keep=logits).logits
        else:
            self.model.base_model(**inputs)
        self._passes += 1
        self.hooks.check(self._passes)
        return {role: self._head.rows[role].of(computed) for role in wanted}

    def release(self) -> None:
        """Free what is cached, even while a traceback or a caller holds this batch."""
        if self.cache is not None:
            self.cache.layers.clear()
        self.cache = None


def _places(model: PreTrainedModel, site: Site, span: RowSpan) -> Places:
    """Around a site whose adapters are gated: at base layers."""
    writers = tuple((name, base_layer(model.get_submodule(name))) for name in site.writers)
    return Places(site.name, site.module, site.module, writers, span)


class _Head:
    """The unembedding, which runs only where logits are wanted, on the rows wanted.

    Args (of the state):
        rows: where each role's rows are among those that it reads.
    """

    def __init__(self, members: Mapping[Role, HookedModel], roles: list[Role]) -> None:
        model = members[roles[0]].model
        self._read = RowSpan(0, 0)
        self.rows = {role: RowSpan(0, 0) for role in roles}
        narrow = HookPoint(
            "unembedding", gating.unembedding(model), "input", _narrowing(self._read)
        )
        gates = [
            point
            for role in roles
            if (adapter := members[role].adapter) is not None
            for point in gating.head_gates(model, adapter, self.rows[role])
        ]
        # An adapter's gates act on the rows that remain.
        self._hooks = HookSet([narrow, *gates])
        self._passes = 0

    @contextmanager
    def reading(self, wanted: Mapping[Role, RowSpan]) -> Iterator[None]:
        """Let it run once, on these neighbouring rows alone.

        Raises:
            InterventionError: if it, or an adapter's gate at it, did not run once.
        """
        spans = list(wanted.values())
        self._read.start, self._read.stop = spans[0].start, spans[-1].stop
        _lay_out(self.rows, {role: len(wanted.get(role, ())) for role in self.rows})
        with self._hooks:
            yield
        self._passes += 1
        self._hooks.check(self._passes)


def _lay_out(spans: Mapping[Role, RowSpan], counts: Mapping[Role, int]) -> None:
    """Move the roles' spans so that they lie one behind the other."""
    start = 0
    for role, span in spans.items():
        span.start, span.stop = start, start + counts[role]
        start = span.stop


def _narrowing(read: RowSpan) -> InputEdit:
    """The rows that the unembedding reads.

    The last position alone is a strided view, for which torch's CPU product copies the
    whole unembedding once a row: seconds in bfloat16 where milliseconds do.

    Returns:
        An edit that leaves these rows of what it receives, contiguous in memory.
    """
    return lambda x: read.of(x).contiguous()


def _site_hook(
    block: BlockKey, rows: Mapping[Role, RowSpan], edits: Sequence[SiteEdit]
) -> InputEdit:
    """All edits of one block in turn; None if none of them changed anything."""

    def edit_rows(x: Tensor) -> Tensor | None:
        total = sum(len(span) for span in rows.values())
        if x.dim() != 3 or x.shape[0] != total:
            raise InterventionError(
                f"{block} received activations of shape {tuple(x.shape)} where "
                f"{total} rows were planned."
            )
        roles, changed = {role: span.of(x) for role, span in rows.items()}, False
        for edit in edits:
            edited = edit(block, roles)
            if edited is not None:
                roles, changed = edited, True
        return torch.cat([roles[role] for role in rows]) if changed else None

    return edit_rows
