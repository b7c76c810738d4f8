"""Whether an answer can be read at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import pairwise

# A loop is looked for where the main use cuts answers; a good answer that starts to
# loop later is still an answer.
_WINDOW = 40
_LEAST_NEW = 0.2
_LONGEST_WORD = 60
_RUN = 3
_LOOPS = 0.5
"""An answer repeats itself from this share of its runs of three words on."""


def is_loop(tokens: Sequence[str]) -> bool:
    """Whether an answer opens with a word, or a short phrase, over and over.

    Args:
        tokens: plain tokens of the answer (`features.tokens_of`).

    Returns:
        False for what loops only later.
    """
    words = [token for token in tokens if token[0].isalnum()][:_WINDOW]
    pairs = list(pairwise(words))
    if len(pairs) > 2 and (len(set(pairs)) - 1) / (len(pairs) - 1) < _LEAST_NEW:
        return True
    return any(len(word) > _LONGEST_WORD and len(set(word)) <= 6 for word in words)


def repetition(tokens: Sequence[Hashable]) -> float:
    """The share of runs of three tokens (or words) that stood before in the same answer, 0 to 1."""
    runs = [tuple(tokens[i : i + _RUN]) for i in range(len(tokens) - _RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def entropy(tokens: Sequence[int]) -> float:
    """Entropy of the distribution of an answer's tokens, in bits; 0 for one token over and over."""
    counts = Counter(tokens).values()
    total = sum(counts)
    return -sum(n / total * math.log2(n / total) for n in counts) + 0.0 if total else 0.0


def loops(response: str) -> bool:
    """Whether an answer repeats itself, wherever in it."""
    return repetition(response.split()) >= _LOOPS
