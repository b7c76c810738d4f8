"""What is looked at: a loaded model, a pair of two, and where they come from."""

from safety_neurons.models.model import LoadedModel
from safety_neurons.models.pair import ModelPair
from safety_neurons.models.sources import Source

__all__ = ["LoadedModel", "ModelPair", "Source"]
