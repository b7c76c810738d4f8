"""What a model computes with: weights with an adapter in them, and the norms around an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from safety_neurons.engine.group import HookedModel
from safety_neurons.engine.hooks import ModuleTap
from safety_neurons.engine.sites import Site, base_layer, input_axis
from safety_neurons.errors import UserError
from safety_neurons.units import BlockKey

_IDLE = (nn.Dropout, nn.Identity)
"""Modules that give what they read, as models run here."""
_PROBES = 8
_CLOSE = 1e-5
"""Norms that differ by less, as a part of the largest value, are taken for scaled ones: many are
computed in float32 whatever the model is."""


def effective(
    model: HookedModel, name: str, *, of_scaled: bool = False
) -> tuple[Tensor, Tensor | None]:
    """A projection's weight and bias with the model's adapter folded in, at least in float32.

    Args:
        name: the path of the module.
        of_scaled: what is read is scaled by an (IA)³ adapter already, as units at a site are.

    Returns:
        The weight as the module keeps it, and the bias where there is one.

    Raises:
        UserError: if the adapter does more than to add a product or to scale.
    """
    module = model.model.get_submodule(name)
    base = base_layer(module)
    weight, bias = base.get_parameter("weight").detach(), getattr(base, "bias", None)
    wide = torch.promote_types(weight.dtype, torch.float32)
    weight, bias = weight.to(wide), None if bias is None else bias.detach().to(wide)
    adapter = model.adapter
    if not isinstance(module, BaseTunerLayer) or adapter is None:
        return weight, bias
    if isinstance(module, IA3Layer):
        if adapter not in module.ia3_l:
            return weight, bias
        scale = module.ia3_l[adapter].detach().flatten().to(wide)
        if module.is_feedforward and of_scaled:
            return weight, bias
        inputs = input_axis(base)
        along = inputs if module.is_feedforward else 1 - inputs
        weight = weight * (scale[:, None] if along == 0 else scale)
        return weight, bias if bias is None or module.is_feedforward else bias * scale
    if isinstance(module, LoraLayer) and not isinstance(base, BaseTunerLayer):
        if adapter not in module.lora_A:
            return weight, bias
        down = module.lora_A[adapter].get_parameter("weight").detach().to(wide)
        up = module.lora_B[adapter].get_parameter("weight").detach().to(wide)
        product = (up @ down) * module.scaling[adapter]
        return weight + (product if input_axis(base) == 1 else product.T), bias
    raise UserError(
        f"The adapter's layer '{name}' ({type(module).__name__}) does more than to add to a weight "
        "or to scale it; merge it where it was trained."
    )


@dataclass(frozen=True)
class Norms:
    """What the modules before and behind an MLP make of the same probe, the same for all models.

    Args:
        before: of what the MLP reads; None where it reads the residual stream itself.
        behind: of what it gives; empty where nothing stands between it and the residual stream.
    """

    before: Float[Tensor, "probe d_model"] | None
    behind: tuple[Float[Tensor, "probe d_model"], ...]


@dataclass(frozen=True)
class Neighbours:
    """The modules that stand between an MLP and the residual stream.

    Args:
        before: gives what the MLP reads; None where that is the residual stream itself, or where
            the architecture does not name the projections that read it.
        behind: read what it gives, one after the other as they stand.
    """

    before: nn.Module | None
    behind: tuple[nn.Module, ...]


@torch.no_grad()
def neighbours(model: PreTrainedModel, sites: Sequence[Site]) -> dict[BlockKey, Neighbours]:
    """The modules beside the MLPs of some sites, found by where tensors come from and go."""
    leaves = [m for m in model.modules() if not any(True for _ in m.children())]
    tap = ModuleTap(filter(_takes_hidden_states, leaves))
    with tap.hooks:
        tokens = torch.ones(1, 4, dtype=torch.long, device=model.device)
        model(input_ids=tokens, use_cache=False)
    found = {}
    for site in sites:
        left, before = tap.given[site.module], list[nn.Module]()
        if site.writers:
            into = base_layer(model.get_submodule(site.writers[0]))
            entered = tap.read[into]
            before = [m for m, given in tap.given.items() if given is entered and m is not into]
        behind = [
            m
            for m, read in tap.read.items()
            if read is left and m is not site.module and not isinstance(m, _IDLE)
        ]
        found[site.key] = Neighbours(before[0] if before else None, tuple(behind))
    return found


@torch.no_grad()
def norms_around(model: PreTrainedModel, sites: Sequence[Site]) -> dict[BlockKey, Norms]:
    """What the modules around the MLPs of some sites make of a probe, by block."""
    generator = torch.Generator().manual_seed(0)
    width = model.config.get_text_config().hidden_size
    drawn = torch.randn(_PROBES, width, generator=generator, dtype=torch.float64)
    probe = torch.cat([drawn, -drawn, 0.01 * drawn]).to(model.device, model.dtype)[None]
    return {
        block: Norms(
            None if beside.before is None else beside.before(probe)[0].cpu(),
            tuple(module(probe)[0].cpu() for module in beside.behind),
        )
        for block, beside in neighbours(model, sites).items()
    }


def ratio(
    donor: Norms, recipient: Norms, block: BlockKey
) -> tuple[Float[Tensor, "d_model"] | None, tuple[Tensor, Tensor] | None]:
    """By what the donor's norm differs from the recipient's, where a scale and a shift say it all.

    Returns:
        The donor's scale over the recipient's, and the shifts of both; None where nothing differs.

    Raises:
        UserError: if the norms differ otherwise.
    """
    refusal = UserError(
        f"The norms around the MLP of layer {block.layer} differ between donor and recipient in "
        "what the weights of single units cannot make up for; give models with the same norms."
    )
    same_kind = (donor.before is None) == (recipient.before is None)
    if not same_kind or len(donor.behind) != len(recipient.behind):
        raise refusal
    if any(not torch.equal(a, b) for a, b in zip(donor.behind, recipient.behind, strict=True)):
        raise refusal
    theirs, mine = donor.before, recipient.before
    if theirs is None or mine is None or torch.equal(theirs, mine):
        return None, None
    wide = torch.promote_types(theirs.dtype, torch.float32)
    theirs, mine = theirs.to(wide), mine.to(wide)
    shifts = tuple((y[:_PROBES] + y[_PROBES : 2 * _PROBES]).mean(0) / 2 for y in (theirs, mine))
    theirs, mine = theirs - shifts[0], mine - shifts[1]
    best = mine.abs().argmax(dim=0, keepdim=True)
    above, below = theirs.gather(0, best)[0], mine.gather(0, best)[0]
    if bool(((below == 0) & (above != 0)).any()):
        raise refusal
    scale = torch.where(below == 0, 1.0, above / below.where(below != 0, torch.ones_like(below)))
    if bool(((theirs - scale * mine).abs() > _CLOSE * theirs.abs().max()).any()):
        raise refusal
    moved = max(float(shift.abs().max()) for shift in shifts)
    return scale, None if moved <= _CLOSE * float(theirs.abs().max()) else (shifts[0], shifts[1])


def _takes_hidden_states(module: nn.Module) -> bool:
    """Whether a module without parts reads one tensor by position: projections, norms, dropout."""
    return not isinstance(module, nn.Embedding) and "rotary" not in type(module).__name__.lower()
