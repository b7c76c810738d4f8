"""How far two rankings, or the sets they begin with, agree, and how far chance would."""

from __future__ import annotations

import torch

from safety_neurons.units.rankings import Ranking
from safety_neurons.units.sets import UnitSet


def iou(one: UnitSet, other: UnitSet) -> float | None:
    """Intersection over union of two sets.

    Returns:
        A number from 0 to 1, None for two empty sets.

    Raises:
        UserError: for sets of differently shaped models.
    """
    union = len(one | other)
    return len(one & other) / union if union else None


def iou_by_chance(first: int, second: int, units: int) -> float | None:
    """About the intersection over union of two random sets of these sizes.

    The expected intersection over the union that it leaves; the ratio's own expectation
    differs by terms of the order of 1 / units.

    Returns:
        A number from 0 to 1, None for two empty sets.
    """
    shared = first * second / units
    union = first + second - shared
    return shared / union if union else None


def rank_correlation(one: Ranking, other: Ranking) -> float:
    """Spearman's correlation of the units' places; equal scores are placed by number."""
    places = torch.stack([one.ranks, other.ranks]).double()
    return float(torch.corrcoef(places)[0, 1])
