"""Validate: causal effects of patching, controls, curves, N90."""

from safety_neurons.studies.validation.options import TestPrompts, ValidateOptions
from safety_neurons.studies.validation.run import plan_prompts, validate

__all__ = ["TestPrompts", "ValidateOptions", "plan_prompts", "validate"]
