"""Passes that begin in the middle: what enters a layer is given, and the layers below do not run.

Where many passes differ only from some layer on, what they have below is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from safety_neurons.engine.hooks import HookPoint
from safety_neurons.engine.sites import Site
from safety_neurons.errors import InterventionError
from safety_neurons.units import BlockKey, SiteKind


@dataclass(frozen=True)
class Resumption:
    """Where a pass begins.

    Args:
        layer: the first that runs.
        residual: the residual stream that enters it, `batch pos d_model`.
    """

    layer: int
    residual: Float[Tensor, "batch pos d_model"]


def entrance(layer: int) -> BlockKey:
    """The block of what enters a layer."""
    return BlockKey(layer, SiteKind.RESIDUAL)


def layers_below(sites: Sequence[Site], layer: int) -> list[nn.Module]:
    """The layers that do not run where a pass begins at `layer`."""
    return [s.module for s in sites if s.key.site is SiteKind.RESIDUAL and s.key.layer < layer]


def entering(sites: Sequence[Site], resumed: Resumption) -> HookPoint:
    """The hook that gives a layer what enters it."""
    site = next(s for s in sites if s.key == entrance(resumed.layer))

    def given(x: Tensor) -> Tensor:
        if x.shape != resumed.residual.shape:
            raise InterventionError(
                f"{site.name} was to go on from {tuple(resumed.residual.shape)} and is run on "
                f"{tuple(x.shape)}."
            )
        return resumed.residual

    return HookPoint(f"{site.name} (resumed)", site.module, "input", given)


@contextmanager
def passed_over(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let layers give on what they receive, as long as the `with` block lasts."""
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _given_on
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _given_on(hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    return hidden_states
