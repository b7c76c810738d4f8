"""The rows that a judge of refusals is trained on, and what is known of each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from safety_neurons.judges import Verdict

CUTS = (24, 40, 256)
"""Where answers are cut, in pieces of text about as long as tokens: a cut answer's label is not the
whole one's."""

_PIECE = re.compile(r"\s*(?:[A-Za-z']{1,7}|[^\sA-Za-z]|[A-Za-z']+)")


class Origin(StrEnum):
    """Who labelled a row."""

    PEOPLE = "people"
    """Annotators of a public data set."""
    MODEL = "model"
    """A language model that read the row, twice, the second time blind and in another order."""
    WRITTEN = "written"
    """A language model wrote the row to its label."""
    COMPOSED = "composed"
    """Put together from sentences whose roles are known."""


@dataclass(frozen=True)
class LabelledRow:
    """One answer with its label.

    Args:
        source: the model that answered, or what made the row; a held-out fold shares none.
        language: its code, such as `en`.
        kind: what sort of refusal or answer it is, where that is known.
    """

    prompt: str
    response: str
    label: Verdict
    origin: Origin
    source: str
    language: str = "en"
    kind: str = ""


def cut(text: str, pieces: int) -> str:
    """The first `pieces` of a text, the last one whole."""
    return "".join(_PIECE.findall(text)[:pieces])


def text_key(prompt: str, response: str) -> str:
    """By what a label is kept: it tells nothing of the text and finds it again."""
    return hashlib.sha256(f"{prompt}\0{response}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
