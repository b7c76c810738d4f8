"""Decoding of one side of a pair, plain or with neurons patched from the other side."""

from safety_neurons.generation.answers import Decoding, answer
from safety_neurons.generation.decoding import Completion, decode, left_padded
from safety_neurons.generation.patching import PatchEdit

__all__ = ["Completion", "Decoding", "PatchEdit", "answer", "decode", "left_padded"]
