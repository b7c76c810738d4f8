"""Making an aligned sibling of a model by preference training."""

from safety_neurons.alignment.evaluate import evaluate
from safety_neurons.alignment.recipe import RECIPES, AdapterKind, AlignRecipe
from safety_neurons.alignment.train import align

__all__ = ["RECIPES", "AdapterKind", "AlignRecipe", "align", "evaluate"]
