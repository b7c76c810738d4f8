"""Making an aligned sibling of a model by preference training."""

from safety_neurons.alignment.evaluate import evaluate
from safety_neurons.alignment.train import AlignRecipe, align

__all__ = ["AlignRecipe", "align", "evaluate"]
