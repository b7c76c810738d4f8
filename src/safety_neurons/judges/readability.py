"""Whether an answer can be read at all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

# A loop is looked for where the main use cuts answers; a good answer that starts to
# loop later is still an answer.
_WINDOW = 40
_LEAST_NEW = 0.2
_LONGEST_WORD = 60


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
