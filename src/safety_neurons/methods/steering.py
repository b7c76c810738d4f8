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
from jaxtyping import Bool, Float
from torch import Tensor, nn

from safety_neurons.engine import (
    BlockTap,
    HookedModel,
    ModelGroup,
    PairedRows,
    Role,
    Site,
    Tokens,
    input_axis,
)
from safety_neurons.engine.effective import effective, neighbours
from safety_neurons.engine.hooks import ModuleTap
from safety_neurons.engine.readout import Held, Readout
from safety_neurons.inference import left_padded
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.units import SiteKind, UnitSpace


class DirectEffects:
    """What the units of one model write directly, where everything behind them is held.

    Args:
        space: the units; by default the MLP neurons.

    Raises:
        UserError: if the model has no norm before its unembedding.
    """

    def __init__(self, group: ModelGroup, role: Role, space: UnitSpace | None = None) -> None:
        self._group, self._role = group, role
        self.space = space or group.space(SiteKind.MLP)
        self._model = group.members[role]
        self._readout = Readout.of(self._model)
        self._sites = [site for site in self._model.sites if site.key in self.space]
        self._beside = neighbours(self._model.model, self._sites)

    @torch.no_grad()
    def on_logits(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Float[Tensor, "prompt unit"]:
        """What each unit adds to the logits of given completions' tokens, above all tokens' mean.

        Args:
            prompts, completions: token ids; of one prompt's completion the tokens' figures are
                summed.

        Returns:
            Figures in logits, float64, on the CPU.
        """
        batch = ForcedBatch.of(prompts, completions, self._group)
        scored, norm = batch.completion_positions, self._readout.norm
        unembedding = self._readout.unembedding
        wanted = unembedding[batch.targets[batch.scored]] - unembedding.mean(dim=0)
        taps = self._read(batch.tokens, {norm}, scored)
        return self._found(_held(taps[1], norm, scored).back(wanted), scored, *taps)

    @torch.no_grad()
    def on_direction(
        self, prompts: Sequence[Sequence[int]], direction: Float[Tensor, "d_model"], position: int
    ) -> Float[Tensor, "prompt unit"]:
        """What each unit adds to the residual stream along a direction, at one position.

        Args:
            prompts: token ids.
            position: counted from the end of the prompt (-1 is the last).

        Returns:
            Products with `direction`, float64, on the CPU.
        """
        tokens = left_padded(prompts, self._group)
        scored = torch.zeros_like(tokens.mask, dtype=torch.bool)
        scored[:, position] = True
        wide = torch.promote_types(self._group.dtype, torch.float32)
        wanted = direction.to(tokens.ids.device, wide).expand(len(prompts), -1)
        return self._found(wanted, scored, *self._read(tokens, set(), scored))

    def _read(
        self, tokens: Tokens, norms: set[nn.Module], scored: Bool[Tensor, "batch pos"]
    ) -> tuple[BlockTap, ModuleTap]:
        """One pass, and what units (where `scored`) and norms were in it."""
        behind = {norm for beside in self._beside.values() for norm in beside.behind}
        norms_seen, units_seen = ModuleTap(norms | behind), BlockTap(self.space.keys, scored)
        counts = {self._role: len(tokens.ids)}
        with norms_seen.hooks as hooks, PairedRows(self._group, counts, edits=[units_seen]) as rows:
            rows.forward({self._role: tokens}, logits=None)
            hooks.check(passes=1)
        return units_seen, norms_seen

    def _found(
        self,
        wanted: Float[Tensor, "scored d_model"],
        scored: Bool[Tensor, "batch pos"],
        units: BlockTap,
        norms: ModuleTap,
    ) -> Float[Tensor, "prompt unit"]:
        row = scored.nonzero()[:, 0].cpu()
        found = torch.zeros(len(scored), self.space.total, dtype=torch.float64)
        for site in self._sites:
            drawn = wanted
            for norm in reversed(self._beside[site.key].behind):
                drawn = _held(norms, norm, scored).back(drawn)
            columns = columns_of(self._model, site)
            said = units.taken[site.key].to(drawn.dtype) * (drawn @ columns)
            found[:, self.space.slice_of(site.key)].index_add_(0, row, said.double().cpu())
        return found


def columns_of(model: HookedModel, site: Site) -> Float[Tensor, "d_model unit"]:
    """What each unit of a site writes where it is 1, before any norm behind it."""
    weight, _ = effective(model, site.name, of_scaled=True)
    return weight if input_axis(site.module) == 1 else weight.T


def direct_logits(
    group: ModelGroup,
    role: Role,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    space: UnitSpace | None = None,
) -> Float[Tensor, "prompt unit"]:
    """`DirectEffects.on_logits`, once."""
    return DirectEffects(group, role, space).on_logits(prompts, completions)


def _held(tap: ModuleTap, norm: nn.Module, scored: Bool[Tensor, "batch pos"]) -> Held:
    return Held.at(norm, tap.read[norm][scored], tap.given[norm][scored])
