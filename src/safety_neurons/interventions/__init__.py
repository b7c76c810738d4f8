"""What is done at units while a model runs, as values; and the edit that does it."""

from safety_neurons.interventions.base import Intervention
from safety_neurons.interventions.edits import InterventionEdit, donor_of, require_units
from safety_neurons.interventions.patching import Patch

__all__ = ["Intervention", "InterventionEdit", "Patch", "donor_of", "require_units"]
