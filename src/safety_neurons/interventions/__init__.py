"""What is done at units while a model runs, as values; and the edit that does it."""

from safety_neurons.interventions.base import Intervention
from safety_neurons.interventions.directional import AblateDirection
from safety_neurons.interventions.edits import InterventionEdit, donor_of, require_units
from safety_neurons.interventions.files import load_interventions, save_interventions
from safety_neurons.interventions.holding import Ablate, PatchMeans
from safety_neurons.interventions.live import intervene
from safety_neurons.interventions.patching import Patch
from safety_neurons.interventions.scaling import Scale
from safety_neurons.interventions.steering import Steer
from safety_neurons.interventions.transplanting import Transplant, Transplanted

__all__ = [
    "Ablate",
    "AblateDirection",
    "Intervention",
    "InterventionEdit",
    "Patch",
    "PatchMeans",
    "Scale",
    "Steer",
    "Transplant",
    "Transplanted",
    "donor_of",
    "intervene",
    "load_interventions",
    "require_units",
    "save_interventions",
]
