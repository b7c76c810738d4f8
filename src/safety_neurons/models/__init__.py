"""What is looked at: model pairs, where they come from, and where their neurons live."""

from safety_neurons.models.pair import ModelPair, Side
from safety_neurons.models.rows import PairedRows, SiteEdit, Tokens
from safety_neurons.models.sites import NeuronLayout, Site
from safety_neurons.models.sources import Source

__all__ = [
    "ModelPair",
    "NeuronLayout",
    "PairedRows",
    "Side",
    "Site",
    "SiteEdit",
    "Source",
    "Tokens",
]
