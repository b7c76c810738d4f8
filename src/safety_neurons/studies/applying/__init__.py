"""Apply: an intervention written into a model's weights, and taken back."""

from safety_neurons.studies.applying.apply import apply_scale, apply_scale_to, apply_transplant
from safety_neurons.studies.applying.undoing import undo
from safety_neurons.studies.applying.writing import Applied, ApplyOptions

__all__ = [
    "Applied",
    "ApplyOptions",
    "apply_scale",
    "apply_scale_to",
    "apply_transplant",
    "undo",
]
