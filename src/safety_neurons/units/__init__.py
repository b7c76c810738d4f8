"""What is ranked and patched: spaces of units, sets of them, rankings, tables."""

from safety_neurons.units.cards import SavedSet, SetCard, load_set, save_set
from safety_neurons.units.rankings import Ranking, units_in
from safety_neurons.units.sets import UnitSet
from safety_neurons.units.space import Block, BlockKey, SiteKind, UnitSpace
from safety_neurons.units.table import read_means, read_table, write_table
from safety_neurons.units.values import UnitValues

__all__ = [
    "Block",
    "BlockKey",
    "Ranking",
    "SavedSet",
    "SetCard",
    "SiteKind",
    "UnitSet",
    "UnitSpace",
    "UnitValues",
    "load_set",
    "read_means",
    "read_table",
    "save_set",
    "units_in",
    "write_table",
]
