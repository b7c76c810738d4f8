"""One file of prompts for several uses: to find on, to choose on, to claim on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safety_neurons.prompts.overlap import divide_apart
from safety_neurons.prompts.sets import PromptSet, prompts_of, splits_of
from safety_neurons.storage import read_rows


def parts_of(
    source: str | Path, shares: Mapping[str, float], *, column: str = "prompt", seed: int = 0
) -> list[PromptSet]:
    """The prompts of a file by use.

    Args:
        shares: of the prompts, by use; together 1. The uses are names of splits: where the file's
            column `split` has all of them, its own parts are taken.
        seed: of the draw where it has not; near duplicates then stand in one part, the later.

    Returns:
        A set for each of `shares`, in their order, no prompt in two.

    Raises:
        UserError: if the file cannot be read, or holds too few prompts.
    """
    rows = read_rows(source)
    if set(shares) <= splits_of(rows, source):
        return [prompts_of(rows, source, column=column, split=use) for use in shares]
    rest, left, parts = prompts_of(rows, source, column=column), 1.0, list[PromptSet]()
    for share in list(shares.values())[:-1]:
        part, rest = divide_apart(rest, share / left, seed=seed)
        left -= share
        parts.append(part)
    return [*parts, rest]
