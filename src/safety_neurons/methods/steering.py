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
from torch import Tensor, nn

from safety_neurons.engine import BlockTap, ModelGroup, PairedRows, Role
from safety_neurons.engine.effective import effective, neighbours
from safety_neurons.engine.hooks import ModuleTap
from safety_neurons.engine.readout import Held, Readout
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.units import SiteKind, UnitSpace


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
    tap = ModuleTap({readout.norm, *(norm for of in beside.values() for norm in of.behind)})
    seen = BlockTap(space.keys)
    with tap.hooks as hooks, PairedRows(group, {role: len(batch)}, edits=[seen]) as rows:
        rows.forward({role: batch.tokens}, logits=None)
        hooks.check(passes=1)

    def held(norm: nn.Module) -> Held:
        return Held.at(norm, tap.read[norm][scored], tap.given[norm][scored])

    scored = batch.completion_positions
    row = scored.nonzero()[:, 0].cpu()
    unembedding = readout.unembedding
    wanted = unembedding[batch.targets[batch.scored]] - unembedding.mean(dim=0)
    direction = held(readout.norm).back(wanted)
    found = torch.zeros(len(batch), space.total, dtype=torch.float64)
    for site in sites:
        drawn = direction
        for norm in reversed(beside[site.key].behind):
            drawn = held(norm).back(drawn)
        weight, _ = effective(model, site.name, of_scaled=True)
        columns = weight if weight.shape[0] == drawn.shape[-1] else weight.T
        said = seen.taken[site.key][scored].to(drawn.dtype) * (drawn @ columns)
        found[:, space.slice_of(site.key)].index_add_(0, row, said.double().cpu())
    return found
