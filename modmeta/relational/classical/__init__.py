"""Classical methods of series on nodes, as comparisons and as second opinions."""

from modmeta.relational.classical.methods import METHODS as METHODS
from modmeta.relational.classical.methods import rank_pairs as rank_pairs
from modmeta.relational.classical.recordings import is_series as is_series

__all__ = ["METHODS", "is_series", "rank_pairs"]
