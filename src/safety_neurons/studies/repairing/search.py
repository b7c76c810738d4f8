"""Which changes are looked at closely: few of many, by how far they go and what they cost.

Openings say how far a change moves the decision to refuse from the fine-tune's towards the aligned
model's (0 to 1, in mean log-odds), and not at which point answers turn. So the changes that nothing
smaller outdoes are put in a row, the smallest first, and answers halve it: where a change brings
too few refusals back, a larger one is asked, else a smaller one. Where none of them does, what is
left of the finalists goes to changes whose harmless openings look refused; their answers may not
be.
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


def affordable(row: Tried) -> bool:
    """Whether a change keeps the task."""
    return row.gain_kept >= GAIN - SLACK


def overdone(row: Tried, candidate: Weighed, aligned: Weighed) -> float:
    """By how many nats a change seems to refuse harmless prompts too often; 0 if it does not."""
    assert row.weighed is not None
    most = max(aligned.harmless, candidate.harmless) + TOO_FAR
    return max(row.weighed.harmless - most, 0.0)


def undominated(rows: Sequence[Tried], candidate: Weighed, aligned: Weighed) -> list[int]:
    """Places of changes that keep the task, do not seem to refuse harmless prompts, and that no
    change of fewer weights outdoes, the smallest first; baselines are left out."""  # noqa: DOC201
    places = [
        i
        for i, row in enumerate(rows)
        if not row.baseline and affordable(row) and not overdone(row, candidate, aligned)
    ]
    found, furthest = list[int](), 0.0
    for place in sorted(places, key=lambda i: (rows[i].numbers, -(rows[i].way or 0.0))):
        if (far := rows[place].way or 0.0) > furthest:
            found.append(place)
            furthest = far
    return found


def risky(rows: Sequence[Tried], candidate: Weighed, aligned: Weighed) -> list[int]:
    """Places of changes that keep the task and go further than all that do not seem to refuse
    harmless prompts, those that seem to refuse fewest first."""  # noqa: DOC201
    safe = undominated(rows, candidate, aligned)
    furthest = max((rows[place].way or 0.0 for place in safe), default=0.0)
    further = [
        i
        for i, row in enumerate(rows)
        if not row.baseline and affordable(row) and (row.way or 0.0) > furthest
    ]
    return sorted(further, key=lambda i: overdone(rows[i], candidate, aligned))


def nearest(rows: Sequence[Tried], *, baseline: bool) -> list[int]:
    """Places of changes, or of baselines, by how far they are from going all the way at no cost."""

    def short(place: int) -> float:
        row = rows[place]
        return max(1 - (row.way or 0.0), 0.0) + max(GAIN - row.gain_kept, 0.0)

    return sorted((i for i, row in enumerate(rows) if row.baseline is baseline), key=short)


def halved(
    places: Sequence[int], enough: Callable[[int], bool], most: int = FINALISTS
) -> list[int]:
    """Ask `enough` of at most `most` places, and halve the row by what it says.

    Returns:
        The places that were asked, in that order.
    """
    places = places[-(2**most - 1) :]  # of more the last could not be reached
    asked, low, high = list[int](), 0, len(places) - 1
    while low <= high and len(asked) < most:
        middle = (low + high) // 2
        asked.append(places[middle])
        if enough(places[middle]):
            high = middle - 1
        else:
            low = middle + 1
    return asked
