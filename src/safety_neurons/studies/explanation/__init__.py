"""Explain: what the units of a set do, and single units looked at closely."""

from safety_neurons.studies.explanation.options import ExplainOptions, ExplanationPrompts
from safety_neurons.studies.explanation.run import explain

__all__ = ["ExplainOptions", "ExplanationPrompts", "explain"]
