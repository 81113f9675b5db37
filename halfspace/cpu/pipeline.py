"""The query, compiled once: filter, verify, emit, in the order of the mathematics and over all segments.

Rows go by in chunks of 1,024. In a chunk the directions follow one another, so that a batch reads vectors from cache;
for each, the filter of the segment says which rows are left, and these are verified. What happens in a chunk depends on
the data and the direction alone, never on the thread count, and so do the counters.
"""

import numpy as np
from numba import carray

from halfspace.cpu import chunks as stages
from halfspace.cpu._jit import entry, pointer, stage
from halfspace.cpu._simd import TILE
from halfspace.cpu.cells import CHUNK, DROP, LOOK, TAKE, thresholds
from halfspace.cpu.chunks import SCRATCH, by_balls, by_cells, by_groups, by_scan, list_blocks, take, test_chunks
from halfspace.cpu.exact import each_reachable
from halfspace.cpu.records import BALLS
from halfspace.cpu.verify import decide, decide_hairline, precision

__all__ = ["COUNT", "IDS", "SCORES", "search_chunks"]

COUNT, IDS, SCORES = 0, 1, 2
"""What is wanted: counts alone, ids, or ids and scores."""


@entry
def search_chunks(table, like, narrow, wide, digits, plans, tau, first, last, adapt, wanted, portable):
    """Search chunks [first, last) for every direction.

    table : SEGMENT (spaces, segments); like : an empty array in the stored format
    narrow, wide, digits, plans : `halfspace.cpu.directions.Directions`, (spaces * m) of them
    tau : float64 (spaces * m,); wanted : COUNT, IDS or SCORES
    adapt : whether to leave cells where they do not pay

    Returns counts int64 (spaces * m,); the direction (int32), id (int64) and score (float32) of each hit, in order of
    chunks, directions and rows; and the counters int64 (STAGES, WORK).
    """
    spaces, segments = table.shape
    total, dim = narrow.shape
    narrow, wide, digits, plans = _borrowed(narrow), _borrowed(wide), _borrowed(digits), _borrowed(plans)
    tau = each_reachable(tau)
    batch = total // spaces
    scored = wanted == SCORES
    counts = np.zeros(total, np.int64)
    room = np.zeros(1, SCRATCH)
    scratch = room[0]
    parts = np.empty((2, dim))
    below, above = np.empty(total), np.empty(total)
    chunk_verdicts = np.empty((total, TILE), np.int32)
    chunk_below, chunk_above = np.empty((total, TILE)), np.empty((total, TILE))
    dropped = np.zeros(TILE, np.bool_)  # by every direction
    capacity = 0 if wanted == COUNT else 256
    owners = np.empty(capacity, np.int32)
    ids = np.empty(capacity, np.int64)
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
            balls = carray(pointer(segment.balls, BALLS), 1)
            grouped = segment.chunk_codes != 0
            if segment.codes != 0:
                centre = carray(pointer(segment.centre, np.float32), dim)
                for k in range(space * batch, (space + 1) * batch):
                    below[k], above[k] = thresholds(wide[k], plans[k], tau[k], centre)
            dropped[:] = False
            for chunk in range(start, stop):
                if grouped and (chunk == start or chunk % TILE == 0):
                    dropped[:] = True
                    for k in range(space * batch, (space + 1) * batch):
                        test_chunks(
                            segment, chunk, stop, digits[k], plans[k], below[k], above[k],
                            chunk_verdicts[k], chunk_below[k], chunk_above[k], dropped, scratch, portable,
                        )  # fmt: skip
                if dropped[chunk % TILE]:
                    continue
                low = chunk * CHUNK
                high = min(low + CHUNK, rows)
                at = chunk % TILE
                for k in range(space * batch, (space + 1) * batch):
                    verdict, lower, upper = LOOK, below[k], above[k]
                    if grouped:
                        verdict, lower, upper = chunk_verdicts[k, at], chunk_below[k, at], chunk_above[k, at]
                        if verdict == DROP:
                            continue
                    left, counted = _filter(
                        segment, balls[0], vectors, norms, low, high, verdict, lower, upper, narrow[k], digits[k],
                        plans[k], tau[k], adapt, wanted, scratch, portable,
                    )  # fmt: skip
                    counts[k] += counted
                    if left == 0:
                        continue
                    while wanted != COUNT and found + left > ids.size:
                        owners = _grow(owners)
                        ids = _grow(ids)
                        if scored:
                            scores = _grow(scores)
                    hits = _verify(
                        segment, vectors, norms, narrow[k], wide[k], plans[k], tau[k], k, left, wanted, scratch, parts,
                        owners.ctypes.data + 4 * found, ids.ctypes.data + 8 * found, scores.ctypes.data + 4 * found,
                    )  # fmt: skip
                    counts[k] += hits
                    if wanted != COUNT:
                        found += hits

    stages.complete(room[0].work, dim * like.itemsize)
    return counts, owners[:found], ids[:found], scores[: found if scored else 0], room[0].work.copy()


@stage
def _filter(
    segment, balls, vectors, norms, low, high, verdict, below, above, direction, digits, plan, tau, adapt, wanted,
    scratch, portable,
):  # fmt: skip
    """List which rows [low, high) of a chunk are left; returns how many, and how many hits were counted instead.

    verdict, below, above : the verdict on the chunk, if it is a ball itself, and the thresholds seen from its centre
    """
    row_bytes = vectors.shape[1] * vectors.itemsize
    counting = wanted == COUNT and segment.excluded == 0
    scored = wanted == SCORES
    if segment.balls != 0:
        return by_balls(segment, balls, low, high, row_bytes, scored, scratch), 0
    if verdict == TAKE:
        if counting:
            return 0, high - low
        return take(segment, low, high, row_bytes, scored, scratch, 0), 0
    left, counted, tested, more = 0, 0, 0, 0
    if segment.chunk_codes != 0:
        listed, left, counted = by_groups(
            segment, low, high, below, above, row_bytes, digits, plan, counting, scored, scratch, portable
        )
    else:
        listed = list_blocks(low, high, below, above, scratch)
    if segment.codes != 0:
        tested, left, more = by_cells(
            segment, listed, row_bytes, digits, plan, adapt, counting, scored, scratch, left, portable
        )
    if tested < listed:
        left = by_scan(segment, vectors, norms, tested, listed, row_bytes, direction, plan, tau, scored, scratch, left)
    return left, counted + more


@stage
def _verify(segment, vectors, norms, narrow, wide, plan, tau, owner, left, wanted, scratch, parts, owners, ids, scores):
    """Decide the rows that a filter has left, and write the hits; returns how many there are.

    owners, ids, scores : addresses of int32, int64 and float32, with room for all rows left
    """
    scored = wanted == SCORES
    out_owners, out_ids, out_scores = pointer(owners, np.int32), pointer(ids, np.int64), pointer(scores, np.float32)
    row_ids = pointer(segment.ids, np.int64)
    trust = precision(plan, segment.grain)
    hits = 0
    for at in range(left):
        row = scratch.rows[at]
        score = np.float32(0.0)
        if scored or scratch.kinds[at] == LOOK:
            x, norm, by = vectors[row], norms[row], stages.VERIFY
            hit, score, certain = decide(x, norm, wide, trust, tau, scored)
            if not certain:
                by = stages.EXACT
                hit, score = decide_hairline(x, norm, segment.grain, narrow, wide, plan, tau, scored, parts)
            scratch.work[by, stages.TAKEN if hit else stages.DROPPED] += 1
            if not hit:
                continue
        if wanted != COUNT:
            out_owners[hits] = owner
            out_ids[hits] = row_ids[row]
            if scored:
                out_scores[hits] = score
        hits += 1
    return hits


@stage
def _borrowed(array):
    """View an array that outlives the view, so that a slice of it costs no counting of references."""
    return carray(pointer(array.ctypes.data, array), array.shape)


@stage
def _grow(array):
    larger = np.empty(2 * array.size, array.dtype)
    larger[: array.size] = array
    return larger
