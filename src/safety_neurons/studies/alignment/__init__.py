"""Making an aligned sibling of a model by preference training."""

from safety_neurons.studies.alignment.evaluate import evaluate
from safety_neurons.studies.alignment.recipe import AdapterKind, AlignRecipe, Modules, recipe_for
from safety_neurons.studies.alignment.train import align

__all__ = ["AdapterKind", "AlignRecipe", "Modules", "align", "evaluate", "recipe_for"]
