"""Models at work: decoding, teacher forcing, likelihoods, and answers that are kept."""

from safety_neurons.inference.answers import Decoding, answer, encode_prompts, kept_key, texts_of
from safety_neurons.inference.decoding import (
    Completion,
    decode,
    left_padded,
    right_padded,
    shared_beginning,
)
from safety_neurons.inference.forcing import ForcedBatch
from safety_neurons.inference.likelihood import (
    log_likelihoods,
    opening_likelihoods,
    opening_margins,
    opening_rows,
)
from safety_neurons.inference.perplexity import Surprisals, perplexities, surprisals
from safety_neurons.inference.settings import ALIGNED, UNALIGNED, Setting

__all__ = [
    "ALIGNED",
    "UNALIGNED",
    "Completion",
    "Decoding",
    "ForcedBatch",
    "Setting",
    "Surprisals",
    "answer",
    "decode",
    "encode_prompts",
    "kept_key",
    "left_padded",
    "log_likelihoods",
    "opening_likelihoods",
    "opening_margins",
    "opening_rows",
    "perplexities",
    "right_padded",
    "shared_beginning",
    "surprisals",
    "texts_of",
]
