"""Which units are removed, in which order, and how: what a fragility study plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import ModelGroup, Role, Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Setting
from safety_neurons.interventions import Ablate, Intervention, Patch
from safety_neurons.methods.ablation import ActivationSums, attribute_ablation, sum_activations
from safety_neurons.methods.attribution import AttributionSums
from safety_neurons.runs.fragility import ABLATION, GIVEN, HEADLINE, MAGNITUDE, RANDOM
from safety_neurons.units import Ranking, SiteKind, UnitSet, UnitSpace, UnitValues, units_in

ZERO, UNALIGNED_VALUES = "zero", "unaligned"

Batches = Sequence[tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]]
"""Token ids of prompts and of one model's answers to them, batch by batch."""


@dataclass(frozen=True)
class Traced:
    """What one model's own answers say of its units.

    Args:
        means: over harmless prompts and answers.
        ablation: by what removing a unit would take from the model's refusals, first order.
        magnitude: by root mean square on harmful prompts.
    """

    means: UnitValues
    ablation: Ranking
    magnitude: Ranking

    @classmethod
    def of(
        cls,
        group: ModelGroup,
        role: Role,
        space: UnitSpace,
        harmless: Batches,
        harmful: Batches,
        refused: Batches,
    ) -> Traced:
        """Read all batches: `harmful` with any answers, `refused` with refusals."""
        ordinary, loud = ActivationSums.zero(space), ActivationSums.zero(space)
        for batch in harmless:
            ordinary += sum_activations(group, role, *batch, space)
        for batch in harmful:
            loud += sum_activations(group, role, *batch, space)
        means = UnitValues(ordinary.mean.float(), space, "mean over harmless prompts")
        attribution = AttributionSums.zero(space)
        for batch in refused:
            attribution += attribute_ablation(group, role, *batch, means)
        return cls(
            means,
            Ranking(ABLATION, attribution.score, space),
            Ranking(MAGNITUDE, loud.magnitude, space),
        )

    def within(self, space: UnitSpace) -> Traced:
        """The same of some of the blocks."""
        whole = self.means.space

        def part(values: Tensor) -> Tensor:
            return torch.cat([values[whole.slice_of(key)] for key in space.keys])

        return Traced(
            UnitValues(part(self.means.values), space, self.means.name),
            Ranking(ABLATION, part(self.ablation.scores), space),
            Ranking(MAGNITUDE, part(self.magnitude.scores), space),
        )


@dataclass(frozen=True)
class Removal:
    """One set of units removed in one way."""

    removal: str
    name: str
    site: SiteKind
    share: float
    units: UnitSet
    setting: Setting


def planned(
    role: Role,
    first: Ranking | UnitSet | None,
    traced: Traced,
    channels: Traced | None,
    shares: Sequence[float],
    seed: int,
) -> list[Removal]:
    """All removals of a study.

    Args:
        first: the ranking in question, or a set of a file, or nothing but ablation attribution.
        channels: of the attention's output channels; None to leave them.

    Returns:
        Removals to the mean, to zero and, for a side of a pair, to the other side's values; of
        channels to the mean, at every other share.
    """
    ways = [HEADLINE, ZERO, *([UNALIGNED_VALUES] if isinstance(role, Side) else [])]
    found = []
    for way in ways:
        # Controls of every size stand beside the headline; elsewhere the largest says enough.
        controls = shares if way == HEADLINE else [max(shares)]
        sets = _sets(first, traced, shares, controls, seed)
        found += [_removal(role, way, name, of, traced.means) for name, of in sets]
    if channels is not None:
        few = sorted(shares)[::-2]
        sets = _sized(channels.ablation, few, [max(shares)], seed)
        found += [_removal(role, HEADLINE, name, of, channels.means) for name, of in sets]
    return found


def sizes(space: UnitSpace, shares: Sequence[float]) -> list[int]:
    """How many units each share is, at least one, each number once."""
    return sorted({max(units_in(share, space), 1) for share in shares})


def _sets(
    first: Ranking | UnitSet | None,
    traced: Traced,
    shares: Sequence[float],
    controls: Sequence[float],
    seed: int,
) -> Iterator[tuple[str, UnitSet]]:
    own, loud = traced.ablation, traced.magnitude
    if isinstance(first, Ranking):
        yield from _sized(first, shares, controls, seed)
    elif first is not None:
        yield GIVEN, first
        yield from _random(first, seed)
    yield from _sized(own, shares, controls if first is None else (), seed)
    yield from _sized(loud, controls, (), seed)


def _sized(
    ranking: Ranking, shares: Sequence[float], controls: Sequence[float], seed: int
) -> Iterator[tuple[str, UnitSet]]:
    """The first units of a ranking at each size, and random sets beside those of some sizes."""
    drawn = sizes(ranking.space, controls)
    for k in sizes(ranking.space, shares):
        units = UnitSet.of(ranking.order[:k], ranking.space, ranking=ranking.name)
        yield ranking.name, units
        if k in drawn:
            yield from _random(units, seed)


def _random(units: UnitSet, seed: int) -> Iterator[tuple[str, UnitSet]]:
    drawn = units.matched_random(seed)
    if drawn is not None:
        yield RANDOM, drawn


def _removal(role: Role, way: str, name: str, units: UnitSet, means: UnitValues) -> Removal:
    acts: dict[str, Intervention] = {
        HEADLINE: Ablate(units, means),
        ZERO: Ablate(units),
        UNALIGNED_VALUES: Patch(units),
    }
    site = units.space.keys[0].site
    share = len(units) / units.space.total
    return Removal(way, name, site, share, units, Setting(role, (acts[way],)))


@dataclass(frozen=True)
class Concentration:
    """How few units hold what all hold together.

    Args:
        n50: the fewest that hold half.
        gini: 0 where all hold alike, 1 where one holds all.
        effective: as how many alike units they count.
    """

    n50: int
    gini: float
    effective: float


def concentration(scores: Float[Tensor, "unit"]) -> Concentration:
    """Of the positive scores; a unit with a negative one holds nothing.

    Returns:
        Three figures over all units.

    Raises:
        UserError: if no score is positive.
    """
    held = np.sort(np.clip(scores.double().numpy(), 0, None))[::-1]
    total = held.sum()
    if total <= 0:
        raise UserError("No unit has a positive score, so nothing is held by any; check the model.")
    n, cumulated = len(held), held.cumsum()
    return Concentration(
        n50=int(np.searchsorted(cumulated, total / 2)) + 1,
        gini=float((2 * cumulated.sum() / total - n - 1) / n),
        effective=float(total**2 / np.square(held).sum()),
    )
