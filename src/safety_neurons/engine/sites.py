"""Where a model's units live, found per architecture and proved before use.

A neuron is one coordinate of the input of an MLP's down projection: after the activation
function and the gate, and after any adapter scaling of that input. An attention channel is one
coordinate of the input of the attention's output projection. A site is therefore such a
projection's own module (the base layer, where PEFT wraps it), and its units are what that
module receives. The residual stream's site is the layer that it enters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from peft.tuners.ia3 import IA3Layer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from safety_neurons.engine.hooks import HookPoint, HookSet
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.registry import ARCHITECTURES
from safety_neurons.units import Block, BlockKey, SiteKind, UnitSet, UnitSpace


@dataclass(frozen=True)
class Site:
    """The module whose input holds one block of units.

    Args:
        name: the module's path in the model.
        width: how many units it receives.
        writers: the paths of the projections that make the units; empty where none are known.
    """

    key: BlockKey
    name: str
    module: nn.Module
    width: int
    writers: tuple[str, ...] = ()


def input_axis(projection: nn.Module) -> int:
    """The axis of a projection's weight along which its inputs lie.

    Returns:
        1 for a Linear's columns, 0 for the rows of GPT-2's Conv1D.
    """
    return 1 if isinstance(projection, nn.Linear) else 0


def space_of(sites: Iterable[Site], kinds: Sequence[SiteKind]) -> UnitSpace:
    """The units of some kinds of sites.

    Returns:
        Their space, layer by layer.

    Raises:
        UserError: if the model has no site of one of the kinds.
    """
    chosen = [site for site in sites if site.key.site in kinds]
    lacking = [kind for kind in kinds if all(site.key.site is not kind for site in chosen)]
    if lacking or not kinds:
        raise UserError(
            f"The model has no site of the kind '{', '.join(lacking) or 'none'}' that is known "
            "here; add it to the architecture (safety_neurons.registry.ARCHITECTURES)."
        )
    return UnitSpace(tuple(Block(site.key, site.width) for site in chosen))


def holding(sites: Iterable[Site], units: UnitSet) -> Iterator[tuple[Site, Int[Tensor, "unit"]]]:
    """The sites that hold units of a set, each with their coordinates there."""
    for site in sites:
        if site.key in units.space and len(columns := units.in_block(site.key)):
            yield site, columns


def find_sites(model: PreTrainedModel) -> list[Site]:
    """All sites of `model`, layer by layer.

    Returns:
        One site for each kind that is known of the architecture, in each layer.

    Raises:
        UserError: if the architecture is unknown, saying what was looked at.
    """
    model_type = model.config.model_type
    if model_type not in ARCHITECTURES.names():
        raise UserError(
            f"The architecture '{model_type}' ({type(model).__name__}) has no MLP that is known "
            f"here; known are {', '.join(sorted(ARCHITECTURES.names()))}. To add one, register an "
            "Architecture in safety_neurons.registry.ARCHITECTURES."
        )
    architecture = ARCHITECTURES.get(model_type)
    sites = [
        replace(site, writers=_beside(site.name, architecture.writers.get(kind, ())))
        for kind, pattern in architecture.sites.items()
        for site in _found(model, kind, pattern)
    ]
    return sorted(sites, key=lambda site: site.key)


def _beside(name: str, writers: Sequence[str]) -> tuple[str, ...]:
    """Paths of modules that stand beside another one."""
    parent = name.rpartition(".")[0]
    return tuple(f"{parent}.{writer}" for writer in writers)


def find_live_sites(model: PreTrainedModel) -> list[Site]:
    """All sites of a model whose adapters PEFT runs itself.

    A site's module is then the last one through which all of the projection's input passes after
    it was scaled: a LoRA's wrapper, whose two branches both read it, and the inside of an (IA)³'s.

    Returns:
        As `find_sites` does.

    Raises:
        UserError: as `find_sites` does; or if a LoRA reads what an (IA)³ inside it scales.
    """
    wrappers = dict(model.named_modules())
    return [replace(site, module=_reading(wrappers[site.name])) for site in find_sites(model)]


def _reading(module: nn.Module) -> nn.Module:
    while isinstance(module, IA3Layer):
        module = module.base_layer
    if isinstance(module, BaseTunerLayer) and any(
        isinstance(inside, IA3Layer) for inside in module.modules()
    ):
        raise UserError(
            "A LoRA of a projection has an (IA)³ adapter inside it, which scales what the "
            "projection alone reads, so there is no one activation to act on; merge it first."
        )
    return module


def _found(model: PreTrainedModel, kind: SiteKind, pattern: str) -> list[Site]:
    sites = [
        Site(
            BlockKey(int(found.group(1)), kind),
            name,
            base_layer(module),
            _width(model, kind, base_layer(module)),
        )
        for name, module in model.named_modules()
        if (found := re.search(pattern, name))
    ]
    layers = model.config.get_text_config().num_hidden_layers
    if sorted(site.key.layer for site in sites) != list(range(layers)):
        raise UserError(
            f"'{model.config.model_type}' should have one module matching '{pattern}' in each of "
            f"its {layers} layers, but {len(sites)} were found; the checkpoint is not what its "
            "configuration says."
        )
    return sites


def base_layer(module: nn.Module) -> nn.Module:
    """A module without the wrapper that PEFT laid around it."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _width(model: PreTrainedModel, kind: SiteKind, projection: nn.Module) -> int:
    if kind is SiteKind.RESIDUAL:
        return int(model.config.get_text_config().hidden_size)
    return int(projection.get_parameter("weight").shape[input_axis(projection)])


@torch.no_grad()
def prove_sites(model: PreTrainedModel, sites: Sequence[Site]) -> None:
    """Show that each site acts on the logits: one batch, row i + 1 perturbed at site i.

    A table of names can be right in form and wrong in effect (an unused module, a bypassed
    wrapper), so every site is shown to matter before anything is measured.

    Raises:
        InterventionError: naming the sites whose perturbation changed no logit.
    """

    def perturb(row: int) -> Callable[[Tensor], Tensor]:
        def edit(x: Tensor) -> Tensor:
            x = x.clone()
            x[row] = x[row] * 2 + 1
            return x

        return edit

    tokens = torch.ones(len(sites) + 1, 2, dtype=torch.long, device=model.device)
    points = [HookPoint(s.name, s.module, "input", perturb(i + 1)) for i, s in enumerate(sites)]
    with HookSet(points) as hooks:
        logits = model(input_ids=tokens, use_cache=False).logits[:, -1].float()
    hooks.check(passes=1)
    change = (logits[1:] - logits[0]).norm(dim=-1) / logits[0].norm()
    # Rows of one batch differ by rounding alone, far below a thousandth.
    dead = [sites[i].name for i in (change < 1e-3).nonzero().flatten().tolist()]
    if dead:
        raise InterventionError(
            f"Perturbing the input of {', '.join(dead[:5])} changed no logit, so these modules "
            "do not hold the model's units."
        )
