"""Fragility: how few units a model's refusals rest on, and what else falls with them."""

from safety_neurons.studies.fragility.options import FragilityOptions, FragilityPrompts
from safety_neurons.studies.fragility.run import fragility, fragility_of_model

__all__ = ["FragilityOptions", "FragilityPrompts", "fragility", "fragility_of_model"]
