"""The built-in prompts, written for this project: requests only, no answers to them.

Ten categories. `harmful` requests, `harmless` ones matched one to one in topic and form,
and `borderline` ones that only sound dangerous. The splits are fixed in the data files;
a harmful prompt and its harmless match are always in the same split.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from safety_neurons.prompts.sets import PromptSet, load_prompts

_DATA = Path(__file__).parent / "data"


class Kind(StrEnum):
    """What a built-in prompt asks for."""

    HARMFUL = "harmful"
    HARMLESS = "harmless"
    BORDERLINE = "borderline"


class Split(StrEnum):
    """What a built-in prompt may be used for."""

    TRAIN = "train"
    """Making adapters."""
    FIND = "find"
    """Ranking neurons."""
    SELECT = "select"
    """Choosing a ranking and a share."""
    TEST = "test"
    """Claims, and nothing else."""
    CONFIRM = "confirm"
    """Claims once more, on prompts that played no part in any choice. No borderline ones."""


def builtin(kind: Kind, split: Split) -> PromptSet:
    """The built-in prompts of one kind and split; UserError where there are none."""
    loaded = load_prompts(_DATA / f"{kind}.jsonl", split=str(split))
    return PromptSet(f"builtin/{kind}/{split}", loaded.prompts)
