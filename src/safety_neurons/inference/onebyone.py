"""Interventions one at a time on the same tokens, each pass begun in the layer where it acts.

All passes on one prompt are alike below the first layer in which an intervention has units, so that
part is computed once. Interventions of one layer are rows of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from safety_neurons.engine import BlockTap, ModelGroup, Resumption, Role, Tokens
from safety_neurons.engine.resuming import entrance
from safety_neurons.engine.rounding import SINGLE, distance
from safety_neurons.errors import InterventionError
from safety_neurons.interventions import Intervention, InterventionEdit
from safety_neurons.progress import Progress
from safety_neurons.units import SiteKind

ROWS = 128
"""The most rows of one pass."""


@dataclass(frozen=True)
class Together:
    """A pass under several interventions.

    Args:
        layer: where it begins.
        places: which interventions, in the order of their rows: all prompts under the first one,
            then all under the next.
        tokens: of all rows.
        edit: does them.
        resumed: what enters the layer; None where the whole model runs.
    """

    layer: int
    places: list[int]
    tokens: Tokens
    edit: InterventionEdit
    resumed: Resumption | None


def layers_of(interventions: Sequence[Intervention]) -> list[int]:
    """The first layer in which each has units."""
    return [int(each.units.space.layers_of(each.units.flat).min()) for each in interventions]


def entrances(group: ModelGroup, role: Role, layers: Sequence[int]) -> BlockTap:
    """Keeps what enters some layers, of those that the architecture names."""
    named = {s.key.layer for s in group.members[role].sites if s.key.site is SiteKind.RESIDUAL}
    return BlockTap([entrance(layer) for layer in sorted(named & set(layers))])


def one_by_one(
    group: ModelGroup,
    role: Role,
    tokens: Tokens,
    interventions: Sequence[Intervention],
    entered: BlockTap,
    progress: Progress,
    label: str,
) -> Iterator[Together]:
    """The passes in which each of several interventions acts alone.

    Args:
        tokens: what a model reads without any.
        interventions: none without units, and none that reads a donor.
        entered: what entered their first layers (`entrances`) without any; a layer of which it has
            nothing is run whole.

    Yields:
        Passes, deeper ones later.
    """
    count = len(tokens.ids)
    of_layer: dict[int, list[int]] = {}
    for place, layer in enumerate(layers_of(interventions)):
        of_layer.setdefault(layer, []).append(place)
    together = max(ROWS // count, 1)
    passes = [
        (layer, places[i : i + together])
        for layer, places in sorted(of_layer.items())
        for i in range(0, len(places), together)
    ]
    for layer, places in progress.track(passes, label):
        edit = InterventionEdit([interventions[i] for i in places], role, device=group.device)
        rows = tokens.ids.new_tensor(range(len(places) * count))
        edit.assign(rows // count, rows)
        repeated = Tokens(tokens.ids.repeat(len(places), 1), tokens.mask.repeat(len(places), 1))
        stream, resumed = entered.taken.get(entrance(layer)), None
        if stream is not None:
            resumed = Resumption(layer, stream.repeat(len(places), 1, 1))
        yield Together(layer, places, repeated, edit, resumed)


def require_same(layer: int, whole: Tensor, resumed: Tensor) -> None:
    """Show that an architecture's layers can be passed over, by a figure of both passes.

    Raises:
        InterventionError: if it differs.
    """
    off = distance(resumed, whole)
    if not off <= SINGLE:
        raise InterventionError(
            f"Begun at layer {layer}, the model gives something else ({off:.1e} of the largest), "
            "so its layers cannot be passed over."
        )
