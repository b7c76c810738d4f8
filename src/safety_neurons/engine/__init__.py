"""How models run: hooks, sites, gated adapters, caches, groups of models, paired rows."""

from safety_neurons.engine.group import ALONE, Alone, HookedModel, ModelGroup, Role, Side
from safety_neurons.engine.rows import Activations, PairedRows, SiteEdit, Tokens
from safety_neurons.engine.sites import Site

__all__ = [
    "ALONE",
    "Activations",
    "Alone",
    "HookedModel",
    "ModelGroup",
    "PairedRows",
    "Role",
    "Side",
    "Site",
    "SiteEdit",
    "Tokens",
]
