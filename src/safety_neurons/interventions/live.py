"""Interventions on any model in memory, for as long as a `with` block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from safety_neurons.engine import ALONE, Activations, HookPoint, HookSet, space_of
from safety_neurons.engine.around import Places
from safety_neurons.engine.hooks import InputEdit
from safety_neurons.engine.sites import Site, find_live_sites
from safety_neurons.errors import InterventionError
from safety_neurons.interventions.base import Intervention
from safety_neurons.interventions.edits import InterventionEdit, require_units


@contextmanager
def intervene(model: PreTrainedModel | PeftModel, *interventions: Intervention) -> Iterator[None]:
    """Let `model` run under interventions, one after the other, inside the `with` block.

    Every forward pass is under them at all positions, also those of `generate` and of training.
    The model may be wrapped by PEFT: a neuron is then what the projection reads after the adapter's
    scaling, and a LoRA of the projection reads what the intervention made of it, too.

    Raises:
        UserError: if the architecture is not known, an intervention is at units that the model
            does not have, or reads another model.
        InterventionError: if nothing ran inside the block, or something ran past some of the
            sites.
    """
    plain = _inside(model)
    sites = find_live_sites(plain)
    edits = [InterventionEdit([each], ALONE, device=plain.device) for each in interventions]
    require_units(interventions, lambda *kinds: space_of(sites, kinds))
    around = [
        hooks
        for site in sites
        for edit in edits
        for hooks in edit.around(site.key, _places(plain, site))
    ]
    points = [
        *(point for hooks in around for point in (*hooks.before, *hooks.made)),
        *(
            HookPoint(site.name, site.module, "input", _hook(site, acting))
            for site in sites
            if (acting := [edit for edit in edits if site.key in edit.blocks])
        ),
        *(point for hooks in reversed(around) for point in hooks.taken),
        *(point for hooks in around for point in hooks.after),
    ]
    with HookSet(points):
        yield
    # Not after an exception, which says more than that something did not act.
    _check(points)


def _inside(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model of transformers inside PEFT's wrappers, with the adapters' layers in it."""
    inside: Any = model
    while isinstance(inside, PeftModel):
        inside = inside.base_model.model
    found: PreTrainedModel = inside
    return found


def _places(model: PreTrainedModel, site: Site) -> Places:
    """Around a site whose adapters PEFT runs: outside of their wrappers."""
    writers = tuple((name, model.get_submodule(name)) for name in site.writers)
    return Places(site.name, model.get_submodule(site.name), site.module, writers)


def _hook(site: Site, edits: list[InterventionEdit]) -> InputEdit:
    def edit(x: Tensor) -> Tensor:
        shape = x.shape
        roles: Activations = {ALONE: x.reshape(-1, *shape[-2:])}
        for each in edits:
            roles = each(site.key, roles) or roles
        return roles[ALONE].reshape(shape)

    return edit


def _check(points: list[HookPoint]) -> None:
    calls = {point.calls for point in points}
    if len(calls) > 1 or calls == {0}:
        few, most = min(points, key=lambda p: p.calls), max(calls)
        raise InterventionError(
            f"Inside the block '{few.name}' ran {few.calls} times where others ran {most} times; "
            "run the whole model, on the text that the intervention is for."
            if most
            else "Nothing ran inside the block, so no intervention acted."
        )
