"""What neurons do on given tokens: contrast of two models, and attribution."""

from safety_neurons.activations.attribution import AttributionSums, attribute
from safety_neurons.activations.contrast import ContrastSums, contrast
from safety_neurons.activations.forcing import ForcedBatch

__all__ = ["AttributionSums", "ContrastSums", "ForcedBatch", "attribute", "contrast"]
