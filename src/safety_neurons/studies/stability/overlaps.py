"""What other choices would have found, and how much of the chosen set that shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from safety_neurons.engine import Side
from safety_neurons.methods.utility import UTILITY
from safety_neurons.registry import RANKINGS
from safety_neurons.runs.stability import Overlap
from safety_neurons.studies.finding.ranking import Given
from safety_neurons.studies.stability.verdict import HALVES
from safety_neurons.units import Ranking, UnitSet
from safety_neurons.units.overlap import iou, iou_by_chance, rank_correlation

RANKING, RUN, COMPLETIONS, UTILITY_UNITS = (
    "ranking",
    "run",
    "whose completions",
    "units of harmless answers",
)


def overlap(one: Ranking, other: Ranking, k: int, changed: str, against: str) -> Overlap:
    """What the first k units of two rankings share."""
    a, b = (UnitSet.of(ranking.order[:k], ranking.space) for ranking in (one, other))
    space = one.space
    layers: list[float | None] = []
    for layer in range(space.layers):
        mine, theirs = (_of_layer(units, layer) for units in (a, b))
        layers.append(iou(mine, theirs))
    return Overlap(
        changed=changed,
        against=against,
        k=k,
        iou=iou(a, b),
        chance=iou_by_chance(k, k, space.total),
        rank_correlation=rank_correlation(one, other),
        per_layer=layers,
    )


def _of_layer(units: UnitSet, layer: int) -> UnitSet:
    return UnitSet.of(units.flat[units.space.layers_of(units.flat) == layer], units.space)


def of_this_run(
    given: Given, rankings: Mapping[str, Ranking], chosen: str, k: int
) -> Iterator[Overlap]:
    """With halves of the prompts, other rankings, and the other side's completions.

    Args:
        given: the completions that the run found its rankings on, of both sides.
        rankings: of the run, by name.

    Yields:
        An overlap each.
    """
    method = RANKINGS.get(chosen)
    count = len(given.completions.prompts)
    halves = []
    for name, rows in (("even", range(0, count, 2)), ("odd", range(1, count, 2))):
        beside = given.harmless
        part = replace(
            given,
            completions=given.completions.of(rows),
            harmless=beside.of(range(rows.start, len(beside.prompts), 2)) if beside else None,
            part=f"-{name}",
        )
        halves.append(part.ranking(chosen, method))
    even, odd = halves
    yield overlap(even, odd, k, HALVES, f"{chosen} on every other prompt")
    for name, ranking in rankings.items():
        if name != chosen:
            yield overlap(rankings[chosen], ranking, k, RANKING, name)
    for name in rankings:
        if _always(name):
            continue
        other = given.contrast_on.other
        swapped = replace(given, contrast_on=other, part=f"-{other}")
        against = f"{name} on the {other} model's completions"
        theirs = swapped.ranking(name, RANKINGS.get(name))
        yield overlap(rankings[name], theirs, k, COMPLETIONS, against)


def _always(name: str) -> bool:
    """Whether a ranking reads the same side's completions whatever is contrasted."""
    method = RANKINGS.get(name)
    return len({method.completions_of(side) for side in Side}) == 1


def with_utility(harmless: Given, chosen: Ranking, k: int) -> Overlap:
    """With the units that the aligned model's harmless answers rest on."""
    theirs = replace(harmless, part="-harmless").ranking("utility", UTILITY)
    return overlap(chosen, theirs, k, UTILITY_UNITS, "the units that harmless answers rest on most")


def with_runs(chosen: Ranking, others: Sequence[tuple[str, Ranking]], k: int) -> Iterator[Overlap]:
    """With the primary rankings of other runs."""
    for name, ranking in others:
        yield overlap(chosen, ranking, k, RUN, name)
