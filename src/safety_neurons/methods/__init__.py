"""By what units are ranked: one file a method, and the sums that they share."""

from safety_neurons.methods.accumulation import accumulate
from safety_neurons.methods.attribution import AttributionSums, attribute
from safety_neurons.methods.base import AnyRanking, RankingInRounds, RankingMethod, scored
from safety_neurons.methods.change_score import CHANGE_SCORE, ContrastSums, contrast

__all__ = [
    "CHANGE_SCORE",
    "AnyRanking",
    "AttributionSums",
    "ContrastSums",
    "RankingInRounds",
    "RankingMethod",
    "accumulate",
    "attribute",
    "contrast",
    "scored",
]
