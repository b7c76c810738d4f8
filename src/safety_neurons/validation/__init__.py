"""Validate: causal effects of patching, controls, curves, N90."""

from safety_neurons.validation.options import TestPrompts, ValidateOptions
from safety_neurons.validation.perplexity import perplexities
from safety_neurons.validation.run import validate

__all__ = ["TestPrompts", "ValidateOptions", "perplexities", "validate"]
