"""Making an aligned sibling of a model by preference training."""

from safety_neurons.studies.alignment.evaluate import evaluate
from safety_neurons.studies.alignment.recipe import RECIPES, AdapterKind, AlignRecipe
from safety_neurons.studies.alignment.train import align

__all__ = ["RECIPES", "AdapterKind", "AlignRecipe", "align", "evaluate"]
