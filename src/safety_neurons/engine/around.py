"""Where a block's units are made and read in a model that runs, and hooks around these places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Bool
from torch import Tensor, nn

from safety_neurons.engine.gating import RowSpan
from safety_neurons.engine.group import Role
from safety_neurons.engine.hooks import HookPoint
from safety_neurons.units import BlockKey


@dataclass(frozen=True)
class Places:
    """The modules around one block, and the rows of their batch that something is done to.

    Args:
        name: of the projection that reads the units.
        outer: that projection with adapters' wrappers around it, where these run.
        site: the module whose input holds the units.
        writers: the projections that make the units, by name, with adapters' wrappers.
        span: whose rows; None for the whole batch.
        chosen: which of these rows; None for all of them.
    """

    name: str
    outer: nn.Module
    site: nn.Module
    writers: tuple[tuple[str, nn.Module], ...]
    span: RowSpan | None = None
    chosen: Callable[[], Bool[Tensor, "row"] | None] = lambda: None

    def part(self, x: Tensor) -> Tensor:
        """The rows of `x` in question."""
        return x if self.span is None else self.span.of(x)

    def put(self, x: Tensor, new: Tensor) -> Tensor:
        """`x` with these rows replaced."""
        return new if self.span is None else self.span.put(x, new)


@dataclass(frozen=True)
class Around:
    """Hooks beside the one at a site, by when they run on their module.

    Args:
        before: before adapters act.
        made: behind adapters.
        taken: behind all edits at the site; of several the last one first.
        after: behind everything else.
    """

    before: list[HookPoint] = field(default_factory=list)
    made: list[HookPoint] = field(default_factory=list)
    taken: list[HookPoint] = field(default_factory=list)
    after: list[HookPoint] = field(default_factory=list)


@runtime_checkable
class AroundEdit(Protocol):
    """A `SiteEdit` that may need more than what a site receives."""

    @property
    def recipient(self) -> Role:
        """Whose rows are changed."""
        ...

    def around(self, block: BlockKey, places: Places) -> list[Around]:
        """The hooks that it needs around one block, none where a site's is enough."""
        ...
