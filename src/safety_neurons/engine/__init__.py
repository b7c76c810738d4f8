"""How models run: hooks, sites, gated adapters, caches, groups of models, paired rows."""

from safety_neurons.engine.group import ALONE, Alone, HookedModel, ModelGroup, Role, Side
from safety_neurons.engine.hooks import HookPoint, HookSet
from safety_neurons.engine.resuming import Resumption
from safety_neurons.engine.rows import Activations, BlockTap, PairedRows, SiteEdit, Tokens
from safety_neurons.engine.sites import Site, input_axis, space_of

__all__ = [
    "ALONE",
    "Activations",
    "Alone",
    "BlockTap",
    "HookPoint",
    "HookSet",
    "HookedModel",
    "ModelGroup",
    "PairedRows",
    "Resumption",
    "Role",
    "Side",
    "Site",
    "SiteEdit",
    "Tokens",
    "input_axis",
    "space_of",
]
