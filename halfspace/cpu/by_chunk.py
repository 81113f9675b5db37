"""Searching chunk by chunk: 1,024 rows and one direction after another, and what is left of them is verified.

In a chunk the directions follow one another, so that a batch reads vectors from cache. A filter says which rows it
cannot rule out; see `halfspace.cpu.filters`.
"""

from typing import Any

from halfspace.cpu.job import ALL, COUNT, NONE, must_stop, presence
from halfspace.cpu.runtime.jit import address_of, call, inlined, specialised
from halfspace.model.layout import CHUNK

__all__ = ["chunkwise", "every_chunk", "scan_blocks", "verify"]


@inlined
def every_chunk(job, segment, state, directions, chunk, span):
    """Say that no chunk is dropped as a whole: the next one is this."""
    return chunk


@inlined
def every_direction(state, chunk, at):
    """Say that no direction drops a chunk as a whole."""
    return True


classify: Any = None
next_chunk: Any = None
looks: Any = None
"""What `chunkwise` puts other functions in the place of."""


def _search(job, segment, state, directions, counts, span):
    """Search chunks [*span) of one space of a segment for its directions, one after another.

    state : what the filter has prepared; directions : DIRECTION (m,) of this space; counts : int64, of all directions

    Returns the chunk at which it stopped.
    """
    start, stop = span
    begin = job.place if job.resumed else 0
    most = 0 if job.wanted == COUNT else CHUNK
    left = 0
    chunk = next_chunk(job, segment, state, directions, start, span)
    while chunk < stop:
        there = presence(segment, chunk)
        job.counting = job.wanted == COUNT and there == ALL
        low = chunk * CHUNK
        high = min(low + CHUNK, segment.rows)
        for at in range(begin, directions.size if there != NONE else 0):
            if not looks(state, chunk, at):
                continue
            if must_stop(job, 1 + left, most, at, 0):
                return chunk
            direction = directions[at]
            left, counted = classify(job, segment, state, direction, low, high)
            counts[direction.number] += counted
            if left:
                counts[direction.number] += verify(job, segment, direction, left)
        begin = 0
        chunk = next_chunk(job, segment, state, directions, chunk + 1, span)
    return stop


def chunkwise(classify: Any, next_chunk: Any = every_chunk, looks: Any = every_direction) -> Any:
    """Make the search of a filter.

    classify : ``(job, segment, state, direction, low, high)`` lists which rows [low, high) of a chunk are left;
        returns how many, and how many hits it counted instead, which it may where ``job.counting``
    next_chunk : ``(job, segment, state, directions, chunk, span)`` finds the first chunk, from this one on, that any
        direction needs to look at; the end of the span where there is none
    looks : ``(state, chunk, at)`` says then whether the direction at a place of its space does
    """
    return inlined(specialised(_search, classify=classify, next_chunk=next_chunk, looks=looks))


@inlined
def verify(job, segment, direction, left):
    """Decide the rows that a filter has left, and emit the hits, for which there is room; returns how many."""
    return call(job.verify, (address_of(job), address_of(segment), address_of(direction), left))


@inlined
def scan_blocks(job, segment, direction, listed, left):
    """Scan the first `listed` blocks of the job; returns how many rows are left."""
    return call(job.scan, (address_of(job), address_of(segment), address_of(direction), listed, left))
