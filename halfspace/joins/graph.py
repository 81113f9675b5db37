"""The graph of all pairs: its connected components, and which vectors stand for others; in memory for its vertices."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from halfspace import query as asking
from halfspace.joins.blocks import Ask, Edges, Rows, block_size
from halfspace.model.arrays import host
from halfspace.model.counters import Want
from halfspace.model.formats import as_float32
from halfspace.runtime.progress import Meter

__all__ = ["components", "greedy"]

HELD = 1 << 20
"""Edges, or as many as there are vertices, that are held before they are contracted."""


def components(ids: npt.NDArray[np.int64], edges: Iterator[Edges]) -> npt.NDArray[np.int64]:
    """Label each id (n,), ascending, with the smallest id of its connected component."""
    labels = np.arange(ids.size)  # of each vertex, the smallest of its component
    held: list[npt.NDArray[np.int64]] = []
    count, most = 0, max(HELD, ids.size)
    for one, other, _ in edges:
        pairs = np.searchsorted(ids, np.stack([host(one), host(other)]))
        held.append(pairs)
        count += pairs.shape[1]
        if count >= most:
            labels, held, count = _contracted(labels, held), [], 0
    return ids[_contracted(labels, held)]


def _contracted(labels: npt.NDArray[np.int64], held: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Merge the components that edges join; components keep the label of their smallest vertex."""
    if not held:
        return labels
    from scipy.sparse import coo_array  # takes long to import
    from scipy.sparse.csgraph import connected_components

    one, other = labels[np.concatenate(held, axis=1)]
    graph = coo_array((np.ones(one.size, np.int8), (one, other)), shape=(labels.size,) * 2)
    _, owners = connected_components(graph, directed=False)
    smallest = np.full(labels.size, labels.size)
    np.minimum.at(smallest, owners, np.arange(labels.size))
    merged: npt.NDArray[np.int64] = smallest[owners[labels]]
    return merged


def greedy(
    of: Rows, ids: npt.NDArray[np.int64], ask: Ask, dim: int, order: npt.NDArray[np.int64], meter: Meter
) -> npt.NDArray[np.bool_]:
    """Keep, of the vectors in an order, each that reaches the threshold with none that is kept before it.

    ids : (n,), of the rows, ascending; order : (n,), places among them

    Returns whether each is kept (n,). Answers come direction by direction: what one rules out is not looked at again.
    """
    backend = of.backend
    undecided, kept = np.ones(ids.size, np.bool_), np.zeros(ids.size, np.bool_)
    places = [np.searchsorted(ids, host(segment.ids)).clip(max=ids.size - 1) for segment in of.snapshot.segments]
    size = block_size(of, dim)
    advance = meter.over(ids.size)
    while order.size:
        some, order = order[:size], order[size:]
        own = ids[some]
        rows = [rows & backend.xp.asarray(undecided[at]) for rows, at in zip(of.rows, places, strict=True)]
        directions = backend.xp.ascontiguousarray(as_float32(of.snapshot.vectors(backend.xp.asarray(own))))
        at = 0
        for found in asking.answers(backend, ask(of.table(rows), directions, Want.IDS)):
            offsets, hits, _ = map(host, backend.collect(found, of.threads))
            reached = np.searchsorted(ids, hits)
            for vertex, low, high in zip(some[at:].tolist(), offsets[:-1].tolist(), offsets[1:].tolist(), strict=False):
                if undecided[vertex]:
                    kept[vertex] = True
                    undecided[vertex] = False
                    undecided[reached[low:high]] = False
            at += offsets.size - 1
        before = some.size + order.size
        order = order[undecided[order]]
        advance(before - order.size)
    meter.finish()
    return kept
