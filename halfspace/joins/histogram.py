"""Counting the pairs that reach each of some thresholds."""

import numpy as np
import numpy.typing as npt

from halfspace import query as asking
from halfspace.joins.blocks import Ask, Rows, answered, once, told
from halfspace.model.arrays import host
from halfspace.model.counters import Want
from halfspace.runtime.progress import Meter

__all__ = ["count_pairs"]


def count_pairs(of: Rows, asks: list[Ask], dim: int, meter: Meter) -> npt.NDArray[np.int64]:
    """Count the pairs of the rows that reach each of some thresholds (t,), block by block.

    What lies beyond a block is counted; of its pairs with itself, each comes twice, and is told by its ids.
    """
    counts = np.zeros(len(asks), np.int64)
    for block in told(of, dim, meter):
        own, beyond = block.own(of), block.since(of, block.stop)
        for place, ask in enumerate(asks):
            counts[place] += int(host(asking.counts(of.backend, ask(beyond, block.directions, Want.COUNT))).sum())
            for edges in answered(of, ask(own, block.directions, Want.IDS), block.ids):
                counts[place] += once(*edges, block.ids)[0].size
    return counts
