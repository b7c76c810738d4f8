"""What units say directly: their part of the logits, everything behind them held.

Direct logit attribution (Elhage et al. 2021): a unit's activation times its column of the
projection that reads it, through the norm behind the MLP where there is one, the last norm and the
unembedding. Later blocks' outputs and the scales of these norms are held at what they were, so that
the figure is what the logit loses where that unit alone is set to zero and nothing behind it
reacts. A soft cap of the logits is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Activations, HookPoint, HookSet, ModelGroup, PairedRows, Role
from safety_neurons.engine.effective import effective, neighbours
from safety_neurons.engine.readout import Held, Readout
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.units import BlockKey, SiteKind, UnitSpace


class _Seen:
    """Keeps every block's activations."""

    def __init__(self, space: UnitSpace) -> None:
        self.blocks = space.keys
        self.taken: dict[BlockKey, Tensor] = {}

    def __call__(self, block: BlockKey, roles: Activations) -> None:
        (self.taken[block],) = roles.values()

    def end_pass(self) -> None:
        """Every block is hooked, and hooks are counted."""


@torch.no_grad()
def direct_logits(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    space: UnitSpace | None = None,
) -> Float[Tensor, "prompt unit"]:
    """What each unit adds to the logits of given completions' tokens, above the mean of all tokens.

    Args:
        prompts, completions: token ids; of one prompt's completion the tokens' figures are summed.
        space: the units; by default the MLP neurons.

    Returns:
        Figures in logits, float64, on the CPU.

    Raises:
        UserError: if the model has no norm before its unembedding.
    """
    space = space or group.space(SiteKind.MLP)
    model = group.members[role]
    readout, batch = Readout.of(model), ForcedBatch.of(prompts, completions, group)
    sites = [site for site in model.sites if site.key in space]
    beside = neighbours(model.model, sites)
    norms = {
        id(norm): norm for norm in (readout.norm, *(m for of in beside.values() for m in of.behind))
    }
    read: dict[int, Tensor] = {}
    given: dict[int, Tensor] = {}
    seen = _Seen(space)
    points = [point for key, norm in norms.items() for point in _taps(key, norm, read, given)]
    with HookSet(points) as hooks, PairedRows(group, {role: len(batch)}, edits=[seen]) as rows:
        rows.forward({role: batch.tokens}, logits=None)
        hooks.check(passes=1)
    scored = batch.completion_positions
    row = scored.nonzero()[:, 0].cpu()
    unembedding = readout.unembedding
    wanted = unembedding[batch.targets[batch.scored]] - unembedding.mean(dim=0)
    last = Held.at(readout.norm, read[id(readout.norm)][scored], given[id(readout.norm)][scored])
    direction = last.back(wanted)
    found = torch.zeros(len(batch), space.total, dtype=torch.float64)
    for site in sites:
        drawn = direction
        for norm in reversed(beside[site.key].behind):
            drawn = Held.at(norm, read[id(norm)][scored], given[id(norm)][scored]).back(drawn)
        weight, _ = effective(model, site.name, of_scaled=True)
        columns = weight if weight.shape[0] == drawn.shape[-1] else weight.T
        said = seen.taken[site.key][scored].to(drawn.dtype) * (drawn @ columns)
        found[:, space.slice_of(site.key)].index_add_(0, row, said.double().cpu())
    return found


def _taps(
    key: int, norm: torch.nn.Module, read: dict[int, Tensor], given: dict[int, Tensor]
) -> list[HookPoint]:
    def entering(x: Tensor) -> None:
        read[key] = x

    def leaving(_: Tensor, y: Tensor) -> None:
        given[key] = y

    name = type(norm).__name__
    return [HookPoint(name, norm, "input", entering), HookPoint(name, norm, "output", leaving)]
