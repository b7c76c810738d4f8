"""Find: rank every neuron of a pair by what it has to do with refusing."""

from safety_neurons.studies.finding.run import FindOptions, find

__all__ = ["FindOptions", "find"]
