"""Exact halfspace range search: every stored vector x with <q, x> >= tau, and no other.

That is maximum inner product search above a threshold (above-theta MIPS), whose answers are complete.
"""

from halfspace.building import build
from halfspace.explain import Explanation, Stage
from halfspace.hits import Hit, Hits
from halfspace.index import HalfspaceIndex
from halfspace.joins.pairs import Pair, PairBlocks, Pairs
from halfspace.scores import threshold_of
from halfspace.shards import Shards
from halfspace.warmup import warmup

__all__ = [
    "Explanation",
    "HalfspaceIndex",
    "Hit",
    "Hits",
    "Pair",
    "PairBlocks",
    "Pairs",
    "Shards",
    "Stage",
    "build",
    "threshold_of",
    "warmup",
]
__version__ = "0.2.0"
