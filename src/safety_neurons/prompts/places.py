"""Where in a prompt's tokens the user's own text stands, and which of its words carry content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from safety_neurons.errors import UserError
from safety_neurons.prompts.chat import EXAMPLE, ChatFormat

_WORD = re.compile(r"\w+")
_SHORT = 3
"""Words of so many letters seldom say what a text is about; an ideograph does."""


@dataclass(frozen=True)
class Places:
    """Positions in the token ids of one prompt.

    Args:
        content: of the tokens of the user's words that carry content (longer than three letters, or
            not ASCII); of all tokens of the user's text where it has no such word, or where the
            tokenizer does not say which letters a token stands for.
        end: of the last token of the user's text.
        tail: of the prompt's last token, behind which the answer begins.
    """

    content: tuple[int, ...]
    end: int
    tail: int

    @property
    def behind(self) -> int:
        """How many tokens the template writes behind the user's text."""
        return self.tail - self.end


def places_of(
    tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, text: str, ids: Sequence[int]
) -> Places:
    """Where the user's text stands in a prompt.

    Args:
        text: of the user.
        ids: what `chat.encode` makes of it.

    Returns:
        Positions in `ids`.

    Raises:
        UserError: if no token of the prompt stands for the user's text.
    """
    spans = _spans(tokenizer, chat, text, ids)
    if spans is None:
        inside, words = _differing(ids, chat.encode(tokenizer, EXAMPLE)), list[int]()
    else:
        inside, words = spans
    if not inside:
        raise UserError(
            f"No token of the prompt {text[:40]!r} stands for the user's text; check the chat "
            "template."
        )
    return Places(tuple(words or inside), inside[-1], len(ids) - 1)


def _spans(
    tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, text: str, ids: Sequence[int]
) -> tuple[list[int], list[int]] | None:
    """The tokens of the text, and of its content words; None where letters are not known."""
    if not tokenizer.is_fast:
        return None
    rendered = chat.render(tokenizer, text)
    given = tokenizer(
        rendered,
        add_special_tokens=not tokenizer.chat_template,
        return_offsets_mapping=True,
    )
    # A text that the template's own tail holds, too, stands before that tail.
    _, _, tail = chat.render(tokenizer, EXAMPLE).rpartition(EXAMPLE)
    before = len(rendered) - len(tail) if rendered.endswith(tail) else len(rendered)
    start = rendered.rindex(text.strip(), 0, before)
    letters = given["offset_mapping"]
    if list(given["input_ids"]) != list(ids):
        return None
    whole = [(start, start + len(text.strip()))]
    words = [
        (start + word.start(), start + word.end())
        for word in _WORD.finditer(text.strip())
        if len(word.group()) > _SHORT or not word.group().isascii()
    ]
    return _overlapping(letters, whole), _overlapping(letters, words)


def _overlapping(letters: Sequence[tuple[int, int]], spans: Iterable[tuple[int, int]]) -> list[int]:
    spans = list(spans)
    return [
        i
        for i, (first, last) in enumerate(letters)
        if any(first < stop and last > start for start, stop in spans) and last > first
    ]


def _differing(ids: Sequence[int], other: Sequence[int]) -> list[int]:
    """Positions between what two prompts begin and end with alike."""
    most = min(len(ids), len(other))
    begin = next((i for i in range(most) if ids[i] != other[i]), most)
    end = next((i for i in range(most - begin) if ids[-1 - i] != other[-1 - i]), most - begin)
    return list(range(begin, len(ids) - end))
