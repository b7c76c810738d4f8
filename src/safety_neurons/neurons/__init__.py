"""Scores of neurons, their rankings, and sets of them."""

from safety_neurons.neurons.rankings import (
    Ranking,
    RankingName,
    neurons_in,
    read_table,
    write_table,
)
from safety_neurons.neurons.sets import NeuronSet

__all__ = ["NeuronSet", "Ranking", "RankingName", "neurons_in", "read_table", "write_table"]
