"""Repair a fine-tune by its safety neurons, without training its task away."""

from safety_neurons.studies.repairing.options import RepairOptions, RepairPrompts
from safety_neurons.studies.repairing.run import forget, repair
from safety_neurons.studies.repairing.scoring import RepairTask

__all__ = ["RepairOptions", "RepairPrompts", "RepairTask", "forget", "repair"]
