"""Prompts that stand in two sets, to the letter or nearly."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from safety_neurons.errors import UserError
from safety_neurons.prompts.sets import PromptSet

NEAR = 0.5
"""Jaccard similarity of character 4-grams from which two prompts count as near duplicates."""


@dataclass(frozen=True)
class NearDuplicate:
    """Two prompts that are nearly the same."""

    first: str
    second: str
    similarity: float


def normalised(text: str) -> str:
    """Lower case, words only, single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def near_duplicates(
    first: PromptSet, second: PromptSet, *, threshold: float = NEAR
) -> list[NearDuplicate]:
    """All pairs across two sets whose 4-gram Jaccard similarity reaches `threshold`."""
    theirs = [_grams(text) for text in second.texts]
    holders: dict[str, list[int]] = defaultdict(list)
    for j, grams in enumerate(theirs):
        for gram in grams:
            holders[gram].append(j)
    found = []
    for text in first.texts:
        grams = _grams(text)
        shared: dict[int, int] = defaultdict(int)
        for gram in grams:
            for j in holders.get(gram, ()):
                shared[j] += 1
        for j, count in shared.items():
            similarity = count / (len(grams) + len(theirs[j]) - count)
            if similarity >= threshold:
                found.append(NearDuplicate(text, second.texts[j], similarity))
    return found


def divide_apart(prompts: PromptSet, share: float, *, seed: int = 0) -> tuple[PromptSet, PromptSet]:
    """`PromptSet.divided`, but near duplicates stand in one part, the second.

    Returns:
        Both parts; the first has fewer prompts than asked for where some had to move.

    Raises:
        UserError: with fewer than two prompts, or where no prompt is left for the first part.
    """
    first, _ = prompts.divided(share, seed=seed)
    drawn = set(first.prompts)
    while True:
        rest = PromptSet(prompts.name, tuple(p for p in prompts if p not in drawn))
        twins = {pair.first for pair in near_duplicates(first, rest)}
        if not twins:
            return first, rest
        first = PromptSet(prompts.name, tuple(p for p in first if p.text not in twins))
        drawn = set(first.prompts)
        if not drawn:
            raise UserError(
                f"The prompts of '{prompts.name}' are nearly the same as each other, so no part of "
                "them can be tested apart from the rest; give more prompts, or name the parts in a "
                "column `split`."
            )


def refuse_overlap(found_on: PromptSet, tested_on: PromptSet) -> None:
    """Demand that no claim is tested on what the neurons were found (or chosen) on.

    Raises:
        UserError: with the number of shared prompts and one of them.
    """
    shared = near_duplicates(found_on, tested_on)
    if shared:
        raise UserError(
            f"{len(shared)} prompts of '{tested_on.name}' are (nearly) the same as in "
            f"'{found_on.name}', such as \"{shared[0].second[:80]}\"; test on prompts that the "
            "neurons were neither found nor chosen on."
        )


def _grams(text: str) -> frozenset[str]:
    padded = f" {normalised(text)} "
    return frozenset(padded[i : i + 4] for i in range(max(len(padded) - 3, 1)))
