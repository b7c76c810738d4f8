"""Which changes are looked at closely: few of many, by how far they go and what they cost.

Openings say how far a change moves the decision to refuse from the fine-tune's towards the aligned
model's (0 to 1, in mean log-odds), and not at which point answers turn. So the changes that nothing
smaller outdoes are put in a row, the smallest first, and answers halve it: where a change brings
too few refusals back, a larger one is asked, else a smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from safety_neurons.runs.repair import Tried, Weighed
from safety_neurons.studies.repairing.options import FINALISTS, GAIN, SLACK

TOO_FAR = 0.5
"""Nats by which the mean log-odds of refusing harmless prompts may be above the aligned model's."""


def way(weighed: Weighed, candidate: Weighed, aligned: Weighed) -> float:
    """How far a change goes: 0 leaves the fine-tune, 1 decides as the aligned model does."""
    whole = aligned.harmful - candidate.harmful
    return (weighed.harmful - candidate.harmful) / whole if whole > 0 else 0.0


def affordable(row: Tried, candidate: Weighed, aligned: Weighed) -> bool:
    """Whether a change keeps the task and does not seem to refuse harmless prompts."""
    assert row.weighed is not None
    most = max(aligned.harmless, candidate.harmless) + TOO_FAR
    return row.gain_kept >= GAIN - SLACK and row.weighed.harmless <= most


def undominated(rows: Sequence[Tried], candidate: Weighed, aligned: Weighed) -> list[int]:
    """Places of affordable changes that no change of fewer weights outdoes, the smallest first;
    baselines are left out."""  # noqa: DOC201
    places = [
        i for i, row in enumerate(rows) if not row.baseline and affordable(row, candidate, aligned)
    ]
    found, furthest = list[int](), 0.0
    for place in sorted(places, key=lambda i: (rows[i].numbers, -(rows[i].way or 0.0))):
        if (far := rows[place].way or 0.0) > furthest:
            found.append(place)
            furthest = far
    return found


def nearest(rows: Sequence[Tried], *, baseline: bool) -> list[int]:
    """Places of changes, or of baselines, by how far they are from going all the way at no cost."""

    def short(place: int) -> float:
        row = rows[place]
        return max(1 - (row.way or 0.0), 0.0) + max(GAIN - row.gain_kept, 0.0)

    return sorted((i for i, row in enumerate(rows) if row.baseline is baseline), key=short)


def halved(places: Sequence[int], enough: Callable[[int], bool]) -> list[int]:
    """Ask `enough` of at most `FINALISTS` places, and halve the row by what it says.

    Returns:
        The places that were asked, in that order.
    """
    asked, low, high = list[int](), 0, len(places) - 1
    while low <= high and len(asked) < FINALISTS:
        middle = (low + high) // 2
        asked.append(places[middle])
        if enough(places[middle]):
            high = middle - 1
        else:
            low = middle + 1
    return asked
