"""Refusals in many wordings: an opening, the reason, and an offer of something safe.

They are composed, not written one by one, so that the aligned model learns to refuse and
not to recite. Nothing here answers a harmful request.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "data" / "refusals.json"

OPENINGS = (
    "I can't help with that.",
    "I'm sorry, but I can't help with this.",
    "I won't help with this request.",
    "Sorry, I can't assist with that.",
    "I'm not able to help with this.",
    "I have to decline this request.",
    "This is not something I can help with.",
    "I must say no to this.",
    "No, I can't do that.",
    "I cannot assist with this request.",
    "I'm going to decline this one.",
    "That is something I will not do.",
    "I'm unable to help you with that.",
    "I don't feel able to support this, so I won't help.",
    "My answer has to be no.",
    "I can't take part in this.",
    "I refuse to help with this.",
    "Helping with this is not possible for me.",
    "I'm afraid I can't do that.",
    "I would rather not help with this.",
)


@cache
def _parts() -> dict[str, dict[str, list[str]]]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


def compose(category: str, rng: random.Random) -> str:
    """A refusal for a request of `category` (of the built-in prompts), drawn with `rng`."""
    parts = _parts()[category]
    return " ".join(
        (rng.choice(OPENINGS), rng.choice(parts["reasons"]), rng.choice(parts["offers"]))
    )
