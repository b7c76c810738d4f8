"""How far two rankings, or the sets they begin with, agree, and how far chance would."""

from __future__ import annotations

import torch

from safety_neurons.neurons.rankings import Ranking
from safety_neurons.neurons.sets import NeuronSet


def iou(one: NeuronSet, other: NeuronSet) -> float | None:
    """Intersection over union, None for two empty sets.

    Raises:
        UserError: for sets of differently shaped models.
    """
    union = len(one | other)
    return len(one & other) / union if union else None


def iou_by_chance(first: int, second: int, neurons: int) -> float | None:
    """About the intersection over union of two random sets of these sizes.

    The expected intersection over the union that it leaves; the ratio's own expectation
    differs by terms of the order of 1 / neurons.
    """
    shared = first * second / neurons
    union = first + second - shared
    return shared / union if union else None


def rank_correlation(one: Ranking, other: Ranking) -> float:
    """Spearman's correlation of the neurons' places; equal scores are placed by number."""
    places = torch.stack([one.ranks, other.ranks]).double()
    return float(torch.corrcoef(places)[0, 1])
