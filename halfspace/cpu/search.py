"""The query, compiled once: filter, verify, collect, in the order of the mathematics and over all segments.

The rows of all segments are cut into chunks; a thread takes a run of chunks. Within a chunk the directions follow one
another, so that a batch reads vectors from cache. What happens in a chunk depends on the data and the direction alone,
never on the thread count, and so do the counters.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import carray

from halfspace.cpu import _threads
from halfspace.cpu._jit import entry, pointer, stage
from halfspace.cpu._simd import PORTABLE, TILE, prefetch
from halfspace.cpu.cells import DROP, LOOK, TAKE, test_tile, thresholds
from halfspace.cpu.directions import Directions
from halfspace.cpu.exact import reachable
from halfspace.cpu.scan import test_rows
from halfspace.cpu.verify import decide, decide_hairline
from halfspace.snapshot import Table

__all__ = ["ADAPT", "CELLS", "CHUNK", "COUNT", "IDS", "SCAN", "SCORES", "SEGMENT", "STAGES", "WORK", "Found", "search"]

CHUNK = 1024
"""Rows that are handled together."""
SAMPLE = 128
"""Rows of a chunk after which the adaptive filter judges whether cells pay."""

GATHER = 16
"""Verdicts that are passed over together where all of them are DROP."""

SCAN, CELLS, ADAPT = 0, 1, 2
"""Filters: every vector; cells where a segment has them; cells where they pay."""

COUNT, IDS, SCORES = 0, 1, 2
"""What is wanted: counts alone, ids, or ids and scores."""

SEGMENT = np.dtype(
    [
        ("rows", np.int64),
        ("ids", np.int64),  # address of int64 (rows,)
        ("vectors", np.int64),  # address of stored (rows, d)
        ("norms", np.int64),  # address of float32 (rows,)
        ("grain", np.float64),
        ("excluded", np.int64),  # address of uint8 (ceil(rows / 8),), a bit a row, or 0
        ("codes", np.int64),  # address of uint8 (blocks, steps, 16, 4), or 0
        ("scales", np.int64),  # address of float32 (16 blocks,)
        ("radii", np.int64),  # address of float32 (16 blocks,)
        ("centre", np.int64),  # address of float32 (d,)
    ]
)
"""One space of one segment, as the kernels see it."""

STAGES = ("cells", "scan", "verify", "exact")
WORK = ("tested", "dropped", "taken", "left", "dot_products", "bytes_read")
"""Rows and columns of the counters."""

MIN_BYTES = 1 << 23
"""Bytes of codes (or vectors) per thread below which another thread costs more than it saves."""

ALL = np.iinfo(np.int64).max
"""More chunks than any index has."""

_CELLS, _SCAN, _VERIFY, _EXACT = range(4)
_TESTED, _DROPPED, _TAKEN, _LEFT, _DOTS, _BYTES = range(6)


class Found(NamedTuple):
    """What a search found, in no order but that of its parts, and what it did."""

    counts: npt.NDArray[np.int64]  # (m,)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # of each hit: direction int32, id int64, score float32
    work: npt.NDArray[np.int64]  # (STAGES, WORK)


def search(
    table: Table,
    like: np.ndarray,
    directions: Directions,
    tau: npt.NDArray[np.float64],
    filtering: int,
    wanted: int,
    threads: int,
) -> Found:
    """Find the vectors of all segments in the halfspaces of `directions`; arguments as for `_search_chunks`."""
    rows = table.records["rows"][0]
    threads = min(threads, int(rows.sum()) * directions.narrow.size // MIN_BYTES)
    if threads <= 1:
        counts, *hits, work = _search_chunks(table.records, like, *directions, tau, 0, ALL, filtering, wanted, PORTABLE)
        return Found(counts, [(hits[0], hits[1], hits[2])], work)
    spans = _threads.spans(int((-(-rows // CHUNK)).sum()), threads)
    outcomes = _threads.run(
        lambda span: _search_chunks(table.records, like, *directions, tau, *span, filtering, wanted, PORTABLE),
        spans,
        threads,
    )
    counts = np.sum([outcome[0] for outcome in outcomes], axis=0)
    work = np.sum([outcome[4] for outcome in outcomes], axis=0)
    return Found(counts, [outcome[1:4] for outcome in outcomes], work)


@stage
def _excluded(segment, row):
    if segment.excluded == 0:
        return False
    bits = pointer(segment.excluded, np.uint8)
    return (bits[row >> 3] >> (row & 7)) & 1 == 1


@stage
def _note(work, stage, verdicts, left):
    """Count the verdicts of a filter stage."""
    taken = 0
    if left:
        for verdict in verdicts:
            taken += verdict == TAKE
    work[stage, _TESTED] += verdicts.size
    work[stage, _DROPPED] += verdicts.size - left
    work[stage, _TAKEN] += taken
    work[stage, _LEFT] += left - taken


@stage
def _looks(verdicts):
    looks = 0
    for verdict in verdicts:
        looks += verdict == LOOK
    return looks


@stage
def _test_cells(
    segment, first, last, dim, row_bytes, adapt, scores, digits, plan, below, above, products, verdicts, portable
):
    """Test the cells of a chunk, tile by tile; returns how many rows were tested and how many are left.

    Where `adapt`, stop after a sample if codes and the vectors still to read come to as many bytes as all its vectors.
    """
    steps = (dim + 3) // 4
    left = 0
    for row in range(first, last, TILE):
        if adapt and row - first == SAMPLE:
            reads = left if scores else _looks(verdicts[:SAMPLE])
            if (4 * steps + 8) * SAMPLE + reads * row_bytes >= SAMPLE * row_bytes:
                return SAMPLE, left
        tile = verdicts[row - first : row - first + TILE]
        left += test_tile(segment, row, steps, digits, plan, below, above, products, tile, portable)
    return last - first, left


@stage
def _gather(segment, first, row_bytes, verdicts, scores, rows_left):
    """List the rows of a chunk that are left and not excluded, and have the vectors that will be read fetched."""
    count = 0
    for block in range(0, verdicts.size, GATHER):
        end = min(block + GATHER, verdicts.size)
        if end - block == GATHER and _all_dropped(verdicts, block):
            continue
        for i in range(block, end):
            if verdicts[i] != DROP and not _excluded(segment, first + i):
                rows_left[count] = i
                count += 1
                if scores or verdicts[i] == LOOK:
                    address = segment.vectors + (first + i) * row_bytes
                    for line in range(address, address + row_bytes, 64):
                        prefetch(line)
    return count


@stage
def _all_dropped(verdicts, first):
    seen = 0
    for i in range(GATHER):
        seen |= verdicts[first + i]
    return seen == DROP


@entry
def _search_chunks(table, like, narrow, wide, digits, plans, tau, first, last, filtering, wanted, portable):
    """Search chunks [first, last) for every direction.

    table : SEGMENT (spaces, segments); like : an empty array in the stored format
    narrow, wide, digits, plans : `halfspace.cpu.directions.Directions`, (spaces * m) of them
    tau : float64 (spaces * m,); filtering : SCAN, CELLS or ADAPT; wanted : COUNT, IDS or SCORES

    Returns counts int64 (spaces * m,); the direction (int32), id (int64) and score (float32) of each hit, in order of
    chunks, directions and rows; and the counters int64 (STAGES, WORK).
    """
    spaces, segments = table.shape
    total, dim = narrow.shape
    tau = np.array([reachable(value) for value in tau])
    batch = total // spaces
    row_bytes = dim * like.itemsize
    counts = np.zeros(total, np.int64)
    work = np.zeros((len(STAGES), len(WORK)), np.int64)
    products = np.empty((2, TILE), np.int32)
    verdicts = np.empty(CHUNK, np.int32)
    rows_left = np.empty(CHUNK, np.int32)
    scratch = np.empty((2, dim))
    below = np.empty(total)
    above = np.empty(total)
    capacity = 0 if wanted == COUNT else 256
    owners = np.empty(capacity, np.int32)
    ids = np.empty(capacity, np.int64)
    scored = wanted == SCORES
    scores = np.empty(capacity if scored else 0, np.float32)
    found = 0

    before = 0
    for which in range(segments):
        rows = table[0, which].rows
        chunks = (rows + CHUNK - 1) // CHUNK
        start = max(first - before, 0)
        stop = min(last - before, chunks)
        before += chunks
        for space in range(spaces if start < stop else 0):
            segment = table[space, which]
            vectors = carray(pointer(segment.vectors, like), (rows, dim))
            norms = carray(pointer(segment.norms, np.float32), rows)
            row_ids = pointer(segment.ids, np.int64)
            has_cells = filtering != SCAN and segment.codes != 0
            if has_cells:
                centre = carray(pointer(segment.centre, np.float32), dim)
                for k in range(space * batch, (space + 1) * batch):
                    below[k], above[k] = thresholds(wide[k], plans[k], tau[k], centre)
            for chunk in range(start, stop):
                low = chunk * CHUNK
                high = min(low + CHUNK, rows)
                for k in range(space * batch, (space + 1) * batch):
                    direction, plan, threshold = wide[k], plans[k], tau[k]
                    tested = 0
                    left = 0
                    if has_cells:
                        tested, left = _test_cells(
                            segment,
                            low,
                            high,
                            dim,
                            row_bytes,
                            filtering == ADAPT,
                            scored,
                            digits[k],
                            plan,
                            below[k],
                            above[k],
                            products,
                            verdicts,
                            portable,
                        )
                        _note(work, _CELLS, verdicts[:tested], left)
                    rest = low + tested
                    if rest < high:
                        part = verdicts[tested : high - low]
                        more = test_rows(vectors[rest:high], norms[rest:high], narrow[k], plan, threshold, part)
                        _note(work, _SCAN, part, more)
                        left += more
                    if left == 0:
                        continue
                    listed = _gather(segment, low, row_bytes, verdicts[: high - low], scored, rows_left)
                    for at in range(listed):
                        row = low + rows_left[at]
                        score = np.float32(0.0)
                        if scored or verdicts[row - low] == LOOK:
                            x, norm, by = vectors[row], norms[row], _VERIFY
                            hit, score, certain = decide(x, norm, segment.grain, direction, plan, threshold, scored)
                            if not certain:
                                by = _EXACT
                                hit, score = decide_hairline(
                                    x, norm, segment.grain, narrow[k], direction, plan, threshold, scored, scratch
                                )
                            work[by, _TAKEN if hit else _DROPPED] += 1
                            if not hit:
                                continue
                        counts[k] += 1
                        if wanted == COUNT:
                            continue
                        if found == ids.size:
                            owners = _grow(owners)
                            ids = _grow(ids)
                            if scored:
                                scores = _grow(scores)
                        owners[found] = k
                        ids[found] = row_ids[row]
                        if scored:
                            scores[found] = score
                        found += 1

    _complete(work, dim, row_bytes)
    return counts, owners[:found], ids[:found], scores[: found if scored else 0], work


@stage
def _complete(work, dim, row_bytes):
    """Fill in the counters that follow from the others."""
    exact = work[_EXACT, _DROPPED] + work[_EXACT, _TAKEN]
    work[_EXACT, _TESTED] = work[_EXACT, _DOTS] = work[_VERIFY, _LEFT] = exact
    work[_VERIFY, _TESTED] = work[_VERIFY, _DROPPED] + work[_VERIFY, _TAKEN] + exact
    work[_VERIFY, _DOTS] = work[_VERIFY, _TESTED]
    work[_SCAN, _DOTS] = work[_SCAN, _TESTED]
    work[_CELLS, _BYTES] = work[_CELLS, _TESTED] * (4 * ((dim + 3) // 4) + 8)
    work[_SCAN, _BYTES] = work[_SCAN, _TESTED] * (row_bytes + 4)
    work[_VERIFY, _BYTES] = work[_VERIFY, _TESTED] * (row_bytes + 4)
    work[_EXACT, _BYTES] = exact * row_bytes


@stage
def _grow(array):
    larger = np.empty(2 * array.size, array.dtype)
    larger[: array.size] = array
    return larger
