"""Searching chunk by chunk: 1,024 rows and one direction after another, and what is left of them is verified.

In a chunk the directions follow one another, so that a batch reads vectors from cache. A filter says which rows it
cannot rule out; see `halfspace.cpu.filters`.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import carray

from halfspace.cpu import job as jobs
from halfspace.cpu.emit import emit
from halfspace.cpu.job import COUNT, must_stop
from halfspace.cpu.runtime.jit import inlined, pointer, specialised
from halfspace.cpu.verify import decide, decide_hairline, precision
from halfspace.model.layout import CHUNK

__all__ = ["Rows", "chunkwise", "every_chunk", "rows_of", "verify"]


class Rows(NamedTuple):
    """The rows of one space of a segment."""

    vectors: np.ndarray  # stored (n, d)
    norms: np.ndarray  # float32 (n,)


@inlined
def rows_of(segment, like, dim):
    """View the rows of a segment; like : an array in the stored format."""
    return Rows(
        carray(pointer(segment.vectors, like), (segment.rows, dim)),
        carray(pointer(segment.norms, np.float32), segment.rows),
    )


@inlined
def every_chunk(job, segment, state, directions, chunk, span):
    """Say that no chunk is dropped as a whole."""
    return True


classify: Any = None
open_chunk: Any = None
"""What `chunkwise` puts other functions in the place of."""


def _search(job, segment, rows, state, directions, counts, span):
    """Search chunks [*span) of one space of a segment for its directions, one after another.

    state : what the filter has prepared; directions : DIRECTION (m,) of this space; counts : int64, of all directions

    Returns the chunk at which it stopped.
    """
    start, stop = span
    begin = job.place if job.resumed else 0
    most = 0 if job.wanted == COUNT else CHUNK
    parts = np.empty((2, job.dim))
    left = 0
    for chunk in range(start, stop):
        if not open_chunk(job, segment, state, directions, chunk, span):
            continue
        low = chunk * CHUNK
        high = min(low + CHUNK, segment.rows)
        for at in range(begin, directions.size):
            if must_stop(job, 1 + left, most, at, 0):
                return chunk
            direction = directions[at]
            left, counted = classify(job, segment, rows, state, direction, low, high)
            counts[direction.number] += counted
            if left:
                wide = carray(pointer(direction.wide, np.float64), job.dim)
                counts[direction.number] += verify(job, segment, rows, direction, wide, left, parts)
        begin = 0
    return stop


def chunkwise(classify: Any, open_chunk: Any = every_chunk) -> Any:
    """Make the search of a filter.

    classify : ``(job, segment, rows, state, direction, low, high)`` lists which rows [low, high) of a chunk are left;
        returns how many, and how many hits it counted instead, which it may where ``job.counting``
    open_chunk : ``(job, segment, state, directions, chunk, span)`` comes first in a chunk, and says whether any
        direction needs to look at it
    """
    return inlined(specialised(_search, classify=classify, open_chunk=open_chunk))


@inlined
def verify(job, segment, rows, direction, wide, left, parts):
    """Decide the rows that a filter has left, and emit the hits, for which there is room; returns how many.

    wide : the direction (d,) in float64; parts : float64 (2, d), to work in
    """
    scored, wanted, tau = job.scored, job.wanted, direction.tau
    row_ids = pointer(segment.ids, np.int64)
    narrow = carray(pointer(direction.narrow, np.float32), job.dim)
    trust = precision(direction, segment.grain)
    hits = 0
    for at in range(left):
        row = job.rows[at]
        score = np.float32(0.0)
        if scored or job.kinds[at] == jobs.LOOK:
            x, norm, by = rows.vectors[row], rows.norms[row], jobs.VERIFY
            hit, score, certain = decide(x, norm, wide, trust, tau, scored)
            if not certain:
                by = jobs.EXACT
                hit, score = decide_hairline(x, norm, segment.grain, narrow, direction, tau, scored, parts)
            job.work[by, jobs.TAKEN if hit else jobs.DROPPED] += 1
            if not hit:
                continue
        if wanted != COUNT:
            emit(job, direction.number, row_ids[row], score)
        hits += 1
    return hits
