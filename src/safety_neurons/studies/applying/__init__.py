"""Apply: an intervention written into a model's weights, and taken back."""

from safety_neurons.studies.applying.apply import Applied, apply_scale
from safety_neurons.studies.applying.undoing import undo

__all__ = ["Applied", "apply_scale", "undo"]
