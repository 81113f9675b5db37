"""The cascade of cells, called as the pipeline does."""

import numpy as np
from numba import carray, njit

from halfspace import cpu
from halfspace.cpu.by_chunk import SCRATCH
from halfspace.cpu.codes import DROP
from halfspace.cpu.exact import each_reachable
from halfspace.cpu.filters.cascade import by_cells
from halfspace.cpu.filters.views import look
from halfspace.cpu.runtime.jit import pointer
from halfspace.cpu.runtime.records import CELLS, tabulate
from halfspace.model.formats import as_bits
from halfspace.model.segment import Segment


@njit
def _cascade(table, views, plans, tau, words, row_bytes, counting, scratch):
    segment = table[0, 0]
    cells = carray(pointer(segment.cells, CELLS), 1)[0]
    return by_cells(
        segment, cells, views[0], plans[0], tau, words, 0, segment.rows, row_bytes, False, counting, False, scratch[0]
    )


@njit
def _look(table, directions, tau):
    return look(table, 0, directions, tau)


def segment_of(vectors, threads=1, like=None):
    """Vectors (n, d) with cells, in their own order."""
    stored = as_bits(np.ascontiguousarray(vectors))[None]
    norms, grain = cpu.measure(stored, 1)
    return Segment(
        stored, np.arange(len(vectors)), norms, grain, "cells", cells=cpu.encode(stored, norms, threads, like)
    )


def table_of(segment):
    """Records (1, 1) of a segment with one space, which must outlive them."""
    return tabulate(segment)[0].reshape(1, 1)


def look_at(segment, ready, tau):
    """Prepared directions with thresholds (m,), seen from the cells of a segment."""
    return _look(table_of(segment), ready, each_reachable(np.asarray(tau, np.float64)))


def adversaries(cells, vectors, directions):
    """Directions that meet where codes err most: towards a rest, by its signs, along a single dimension and tiny."""
    with np.errstate(all="ignore"):
        rest = vectors[0].astype(np.float64) - cells.centre[0].astype(np.float64)
        sizes = np.abs(rest).max() or 1.0
    made = [np.nan_to_num(rest / sizes), np.sign(rest), np.eye(len(rest))[-1] * 2.0**-60]
    return np.concatenate([directions, np.array(made, np.float32)])


def verdicts_of(segment, ready, seen, tau, counting=False, row_bytes=None):
    """Verdicts (n,) of the cascade, how many hits it counted, and its counters; short rows do without low codes."""
    n, d = segment.vectors.shape[1:]
    scratch = np.zeros(1, SCRATCH)
    level, row_bytes = float(each_reachable(np.array([tau]))[0]), row_bytes or d * segment.vectors.itemsize
    args = seen.views, ready.plans, level, -(-d // 8), row_bytes, counting, scratch
    left, counted, after = _cascade(table_of(segment), *args)
    assert after == n
    verdicts = np.full(n, DROP)
    rows, kinds = scratch["rows"][0, :left], scratch["kinds"][0, :left]
    assert np.unique(rows).size == left
    verdicts[rows] = kinds
    return verdicts, counted, dict(zip(cpu.STAGES, scratch["work"][0], strict=True))
