"""Where a model's neurons live, found per architecture and proved before use.

A neuron is one coordinate of the input of an MLP's down projection: after the
activation function and the gate, and after any adapter scaling of that input. The site
of a layer is therefore the down projection's own module (the base layer, where PEFT
wraps it), and its neurons are what that module receives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from safety_neurons.errors import InterventionError, UserError
from safety_neurons.hooks import HookPoint, HookSet

_GATED = r"\.layers\.(\d+)\.mlp\.down_proj$"
DOWN_PROJECTIONS = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "gemma3": r"language_model\.layers\.(\d+)\.mlp\.down_proj$",
    "gpt2": r"\.h\.(\d+)\.mlp\.c_proj$",
    "gpt_neox": r"\.layers\.(\d+)\.mlp\.dense_4h_to_h$",
}
"""Model type (of the configuration) -> the names of its down projections."""


@dataclass(frozen=True)
class Site:
    """The module whose input holds one layer's neurons."""

    layer: int
    name: str
    module: nn.Module
    width: int


@dataclass(frozen=True)
class NeuronLayout:
    """How neurons `(layer, neuron)` are laid out in one flat vector of all N neurons."""

    widths: tuple[int, ...]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        return (0, *accumulate(self.widths))

    @property
    def total(self) -> int:
        """N, the number of all neurons."""
        return self.offsets[-1]

    def layer_slice(self, layer: int) -> slice:
        return slice(self.offsets[layer], self.offsets[layer + 1])

    def layers_of(self, flat: Tensor) -> Tensor:
        """The layer of each flat index."""
        bounds = torch.tensor(self.offsets[1:])
        return torch.bucketize(flat, bounds, right=True)

    def neurons_of(self, flat: Tensor) -> Tensor:
        """The coordinate within its layer of each flat index."""
        return flat - torch.tensor(self.offsets)[self.layers_of(flat)]


def find_sites(model: PreTrainedModel) -> list[Site]:
    """The down projections of `model`, in the order of its layers.

    Raises:
        UserError: if the architecture is unknown, saying what was looked at.
    """
    model_type = model.config.model_type
    pattern = DOWN_PROJECTIONS.get(model_type)
    if pattern is None:
        raise UserError(
            f"The architecture '{model_type}' ({type(model).__name__}) has no MLP that is known "
            f"here; known are {', '.join(sorted(DOWN_PROJECTIONS))}. To add one, name its down "
            "projection in safety_neurons.models.sites.DOWN_PROJECTIONS."
        )
    sites = [
        Site(int(found.group(1)), name, _base_layer(module), _input_width(_base_layer(module)))
        for name, module in model.named_modules()
        if (found := re.search(pattern, name))
    ]
    sites.sort(key=lambda site: site.layer)
    layers = model.config.get_text_config().num_hidden_layers
    if [site.layer for site in sites] != list(range(layers)):
        raise UserError(
            f"'{model_type}' should have one down projection matching '{pattern}' in each of its "
            f"{layers} layers, but {len(sites)} were found; the checkpoint is not what its "
            "configuration says."
        )
    return sites


def _base_layer(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _input_width(projection: nn.Module) -> int:
    if isinstance(projection, nn.Linear):
        return projection.in_features
    return int(
        projection.get_parameter("weight").shape[0]
    )  # transformers' Conv1D keeps (inputs, outputs)


@torch.no_grad()
def prove_sites(model: PreTrainedModel, sites: list[Site]) -> None:
    """Show that each site acts on the logits: one batch, row i + 1 perturbed in layer i.

    A table of names can be right in form and wrong in effect (an unused module, a bypassed
    wrapper), so every layer is shown to matter before anything is measured.

    Raises:
        InterventionError: naming the layers whose perturbation changed no logit.
    """

    def perturb(row: int):
        def edit(x: Tensor) -> Tensor:
            x = x.clone()
            x[row] = x[row] * 2 + 1
            return x

        return edit

    tokens = torch.ones(len(sites) + 1, 2, dtype=torch.long, device=model.device)
    points = [HookPoint(s.name, s.module, "input", perturb(s.layer + 1)) for s in sites]
    with HookSet(points) as hooks:
        logits = model(input_ids=tokens, use_cache=False).logits[:, -1].float()
    hooks.check(passes=1)
    change = (logits[1:] - logits[0]).norm(dim=-1) / logits[0].norm()
    # Rows of one batch differ by rounding alone, far below a thousandth.
    dead = [sites[i].name for i in (change < 1e-3).nonzero().flatten().tolist()]
    if dead:
        raise InterventionError(
            f"Perturbing the input of {', '.join(dead[:5])} changed no logit, so these modules "
            "do not hold the model's neurons."
        )
