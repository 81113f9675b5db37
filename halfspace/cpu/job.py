"""The job of a thread: when it stops, what it lists, how it counts; steps that all filters share."""

import numpy as np

from halfspace.cpu.runtime.clock import overdue
from halfspace.cpu.runtime.jit import inlined, pointer
from halfspace.cpu.runtime.lanes import count_bits
from halfspace.cpu.runtime.simd import prefetch
from halfspace.model.counters import Column, Stage, Want
from halfspace.model.layout import BLOCK, CHUNK, TILE

__all__ = [
    "ALL",
    "COUNT",
    "DROP",
    "FULL",
    "LOOK",
    "NONE",
    "PAUSED",
    "SCORES",
    "TAKE",
    "bits_between",
    "bytes_read",
    "clear",
    "complete",
    "fetch",
    "fetch_ahead",
    "keep",
    "list_blocks",
    "must_stop",
    "presence",
    "take",
]

NORMS, AXES, HIGH, LOW, CHUNKS, GROUPS, ROWS, SWEEP, GATES, BALLS, SCAN, VERIFY, EXACT = map(int, Stage)
TESTED, DROPPED, TAKEN, LEFT, DOTS, BYTES = map(int, Column)
COUNT, SCORES = int(Want.COUNT), int(Want.SCORES)
"""Of `halfspace.model.counters`, as kernels take them."""

NONE, SOME, ALL = 0, 1, 2
"""Whether rows of a chunk count, as far as ids and tombstones say."""
DROP, LOOK, TAKE = 0, 1, 2
"""Verdicts on a vector or a ball."""
PAUSED, FULL = 1, 2
"""Why a search stopped before its end: an interrupt may want its turn, or there is no room for more hits."""

WEIGHT = 64
"""Chunks, or rows to be verified, after which the clock is read."""

AHEAD = 1 << 13
"""Bytes ahead that a scan has fetched: with many sums in flight, a processor does not get there by itself."""


@inlined
def must_stop(job, more, hits, place, row):
    """Whether the search must return to Python before it goes on at a place in a chunk, which is noted then.

    more : what has been done since this was last asked, as in `WEIGHT`; hits : how many may come next
    """
    job.weight += more
    if job.found + hits > job.room:
        job.stopped = FULL
    elif job.weight >= WEIGHT and job.ahead:
        job.weight = 0
        if overdue(job):
            job.stopped = PAUSED
    if job.stopped:
        job.place, job.row = place, row
        return True
    job.ahead = 1
    return False


@inlined
def excluded(segment, row):
    if segment.excluded == 0:
        return False
    return (pointer(segment.excluded, np.uint8)[row >> 3] >> (row & 7)) & 1 == 1


@inlined
def presence(segment, chunk):
    """Tell of a chunk whether none, some or all of its rows count."""
    if segment.excluded == 0:
        return ALL
    low = chunk * CHUNK
    rows = min(CHUNK, segment.rows - low)
    mask = pointer(segment.excluded + low // 8, np.uint8)
    absent = 0
    for place in range((rows + 7) // 8):  # those of no row are 0
        absent += count_bits(np.int64(mask[place]))
    if absent == 0:
        return ALL
    return NONE if absent == rows else SOME


@inlined
def fetch(address, size):
    """Have memory fetched that will be read soon."""
    for line in range(address, address + size, 64):
        prefetch(line)


@inlined
def fetch_ahead(vectors, row):
    """Have the vector fetched that a scan of (n, d) will read `AHEAD` bytes after this row."""
    size = vectors.shape[1] * vectors.itemsize
    fetch(np.int64(vectors.ctypes.data) + row * size + AHEAD, size)


@inlined
def keep(job, segment, row, verdict, left):
    """List a row, and have its vector fetched if it will be read; returns how many are listed."""
    if excluded(segment, row):
        return left
    job.rows[left] = row
    job.kinds[left] = verdict
    if job.scored or verdict == LOOK:
        fetch(segment.vectors + row * job.row_bytes, job.row_bytes)
    return left + 1


@inlined
def take(job, segment, low, high, left):
    """List rows [low, high), all of them hits."""
    for row in range(low, high):
        left = keep(job, segment, row, TAKE, left)
    return left


@inlined
def bits_between(first, last):
    """Set bits `first` to `last` - 1 of an int64."""
    ones = np.int64(-1)
    return (ones << first) & (ones if last >= TILE else ~(ones << last))


@inlined
def list_blocks(job, low, high):
    """List all blocks of rows [low, high); returns how many there are."""
    count = (high - low + BLOCK - 1) // BLOCK
    for b in range(count):
        job.blocks[b] = low // BLOCK + b
    return count


@inlined
def clear(work):
    """Set all counters to 0."""
    for stage in range(work.shape[0]):
        for column in range(work.shape[1]):
            work[stage, column] = 0


@inlined
def bytes_read(work):
    """Sum the bytes that all stages have read."""
    total = 0
    for stage in range(work.shape[0]):
        total += work[stage, BYTES]
    return total


@inlined
def complete(work, row_bytes):
    """Fill in the counters of verification that follow from its verdicts."""
    exact = work[EXACT, DROPPED] + work[EXACT, TAKEN]
    work[EXACT, TESTED] = work[EXACT, DOTS] = work[VERIFY, LEFT] = exact
    work[VERIFY, TESTED] = work[VERIFY, DROPPED] + work[VERIFY, TAKEN] + exact
    work[VERIFY, DOTS] = work[VERIFY, TESTED]
    work[VERIFY, BYTES] = work[VERIFY, TESTED] * (row_bytes + 4)
    work[EXACT, BYTES] = exact * row_bytes
