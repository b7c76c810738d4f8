"""Completions as text."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from safety_neurons.prompts.reasoning import MARKERS


def decode_text(tokenizer: PreTrainedTokenizerBase, completion: Sequence[int]) -> str:
    """A completion as text, without special tokens except those that mark a reasoning."""
    marks = _special_marks(tokenizer)
    text, since = "", 0
    for i, token in enumerate(completion):
        if token in marks:
            text += _plain(tokenizer, completion[since:i]) + marks[token]
            since = i + 1
    return (text + _plain(tokenizer, completion[since:])).strip()


def _plain(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True)) if tokens else ""


def _special_marks(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The markers of reasoning that are one token each, which decoding would leave out."""
    found = {}
    for mark in (mark for pair in MARKERS for mark in pair):
        token = tokenizer.convert_tokens_to_ids(mark)
        # Without such a token it is that of unknown words, or None.
        if (
            isinstance(token, int)
            and tokenizer.convert_ids_to_tokens(token) == mark
            and not _plain(tokenizer, [token])
        ):
            found[token] = mark
    return found
