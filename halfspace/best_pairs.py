"""The best of all pairs, by a threshold that a sample suggests; and how many pairs there may be."""

from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.index import HalfspaceIndex
from halfspace.joins.pairs import Pairs
from halfspace.model.arrays import host, namespace
from halfspace.scores import threshold_of

__all__ = ["best_pairs", "estimated_pairs"]

SAMPLE = 1 << 10
"""Vectors, evenly spread among the ids, whose pairs with all others stand for all pairs."""
DEEPER = 4
"""How many times as many pairs are aimed at where a threshold has left too few."""
HELD = 2
"""Pairs that are held, as a multiple of those that are wanted, before the worst are dropped."""


def best_pairs(index: HalfspaceIndex, most: int) -> Pairs:
    """Find the pairs with the best scores, so many at most, best first; equals by their ids. On the host."""
    index = index.copy()  # one state, whoever changes it meanwhile
    n = len(index)
    total = n * (n - 1) // 2
    most = min(most, total)
    tau, aim = np.nan, most
    while aim < total:
        tau = _suggested(index, aim / total)
        if abs(tau) == np.inf or int(index.histogram([tau])[0]) >= most:
            break
        aim *= DEEPER
    else:
        tau = np.inf if index.metric == "l2" else -np.inf
    nearest = 1.0 if index.metric == "l2" else -1.0
    best = [np.empty(0, dtype) for dtype in (np.int64, np.int64, np.float32)]
    for block in index.pairs(tau, blocks=True):
        best = [np.concatenate(both) for both in zip(best, block.columns().values(), strict=True)]
        if best[0].size > max(HELD * most, 1):
            best = _cut(best, nearest, most)
    return Pairs(*_cut(best, nearest, most), shape=(index._snapshot.next_id,) * 2)


def _suggested(index: HalfspaceIndex, share: float) -> float:
    """Return a threshold that about this share of all pairs reaches, rather more than fewer.

    All pairs whose scores round to one float32 reach it or none: an answer does not depend on the sample.
    """
    ids, directions = _sample(index)
    expected = share * ids.size * len(index)
    rank = ceil(expected + 3.0 * sqrt(expected)) + ids.size  # each vector is paired with itself, too
    loosest = np.inf if index.metric == "l2" else -np.inf
    best = index.query(directions, loosest, limit=ceil(rank / ids.size) + 1)  # a search would order equals, in integers
    scores = np.sort(host(best.scores).astype(np.float64))
    if rank >= scores.size:
        return loosest
    return float(threshold_of(scores[rank] if index.metric == "l2" else scores[-1 - rank], index.metric))


def _cut(columns: list[np.ndarray], nearest: float, most: int) -> list[np.ndarray]:
    """Keep the best so many pairs, best first, then by ids."""
    order = np.lexsort((columns[1], columns[0], nearest * columns[2].astype(np.float64)))[:most]
    return [column[order] for column in columns]


def estimated_pairs(index: HalfspaceIndex, tau: float) -> float:
    """Estimate how many pairs reach a threshold, by what a sample of vectors reaches."""
    ids, directions = _sample(index)
    if not ids.size:
        return 0.0
    reached = float(host(index.count(directions, tau)).sum())
    if index.metric == "ip":
        wide = host(directions).astype(np.float64)
        reached -= float(((wide * wide).sum(axis=1) >= tau).sum())
    else:
        reached -= ids.size
    return max(reached, 0.0) * len(index) / ids.size / 2


def _sample(index: HalfspaceIndex) -> tuple[npt.NDArray[np.int64], Any]:
    """Return ids of a sample, on the host, and its vectors."""
    ids = index.ids
    which = np.linspace(0, max(len(index) - 1, 0), min(SAMPLE, len(index))).astype(np.int64)
    chosen = ids[namespace(ids).asarray(which)]
    return host(chosen), index.vectors(chosen)
