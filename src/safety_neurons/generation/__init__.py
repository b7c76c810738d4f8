"""Decoding of one side of a pair, plain or with neurons patched from the other side."""

from safety_neurons.generation.answers import (
    Decoding,
    answer,
    encode_prompts,
    kept_key,
    texts_of,
)
from safety_neurons.generation.decoding import (
    Completion,
    decode,
    left_padded,
    right_padded,
    shared_beginning,
)
from safety_neurons.generation.patching import PatchEdit
from safety_neurons.generation.settings import ALIGNED, UNALIGNED, Setting

__all__ = [
    "ALIGNED",
    "UNALIGNED",
    "Completion",
    "Decoding",
    "PatchEdit",
    "Setting",
    "answer",
    "decode",
    "encode_prompts",
    "kept_key",
    "left_padded",
    "right_padded",
    "shared_beginning",
    "texts_of",
]
