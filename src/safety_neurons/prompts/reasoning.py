"""Where a model's reasoning ends and its answer begins.

Models that reason before they answer write their reasoning between two markers. It is no
answer: a refusal that is considered there may not be given, and the other way round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class Markers(NamedTuple):
    """What stands before and behind a reasoning."""

    opening: str
    closing: str


MARKERS = (
    Markers("<think>", "</think>"),
    Markers("<thinking>", "</thinking>"),
    Markers("<reasoning>", "</reasoning>"),
    Markers("<seed:think>", "</seed:think>"),
    Markers("[THINK]", "[/THINK]"),
    Markers("<|START_THINKING|>", "<|END_THINKING|>"),
)

_LONE_CLOSING = re.compile(
    rf"^[^\S\n]*(?:{'|'.join(re.escape(m.closing) for m in MARKERS)})[^\S\n]*$", re.MULTILINE
)


@dataclass(frozen=True)
class ReasonedAnswer:
    """A response in two parts.

    Args:
        reasoning: None where there is none.
        answer: what stands behind the reasoning; empty while it is not finished.
        finished: whether the reasoning, if there is one, was closed.
    """

    reasoning: str | None
    answer: str
    finished: bool


def split_reasoning(text: str) -> ReasonedAnswer:
    """The reasoning at the start of a response, and the answer behind it.

    An opening marker counts only at the start (after white space), because an answer may
    speak of one. A closing marker with no opening one before it counts where it has a line for
    itself: the opening one stood in the prompt, as DeepSeek-R1's template has it.

    Returns:
        Both parts; without a reasoning, the answer is `text` as it is.
    """
    parts: list[str] = []
    answer = text
    while (beginning := _beginning(answer)) is not None:
        reasoning, rest = beginning
        parts.append(reasoning.strip())
        if rest is None:
            return ReasonedAnswer("\n".join(parts), "", finished=False)
        answer = rest.strip()
    return ReasonedAnswer("\n".join(parts) if parts else None, answer, finished=True)


def _beginning(text: str) -> tuple[str, str | None] | None:
    """The reasoning that a text begins with, and what follows; None for either missing."""
    text = text.lstrip()
    for opening, closing in MARKERS:
        if text.startswith(opening):
            reasoning, found, rest = text.removeprefix(opening).partition(closing)
            return reasoning, rest if found else None
    lone = _LONE_CLOSING.search(text)
    if lone is None or any(marker.opening in text[: lone.start()] for marker in MARKERS):
        return None
    return text[: lone.start()], text[lone.end() :]


def left_open(text: str) -> str | None:
    """The opening marker that is not closed again in `text`, the last one; None without."""
    open_ones = {
        text.rfind(opening): opening
        for opening, closing in MARKERS
        if text.rfind(opening) > text.rfind(closing)
    }
    return open_ones[max(open_ones)] if open_ones else None


def reopened(text: str, opening: str | None) -> str:
    """A completion with the opening marker in front that its prompt ended in."""
    if opening is None or text.lstrip().startswith(opening):
        return text
    return f"{opening}\n{text}".rstrip()
