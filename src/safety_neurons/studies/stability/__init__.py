"""Stability: does the chosen set remain when prompts, completions, rankings or pairs change?"""

from safety_neurons.studies.stability.run import stability

__all__ = ["stability"]
