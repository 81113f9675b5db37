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
from halfspace.cpu.exact import reachable
from halfspace.cpu.records import BALLS
from halfspace.cpu.verify import decide, decide_hairline

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
    tau = np.array([reachable(value) for value in tau])
    batch = total // spaces
    row_bytes = dim * like.itemsize
    steps = digits.shape[1]
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
            counting = wanted == COUNT and segment.excluded == 0
            if segment.codes != 0:
                centre = carray(pointer(segment.centre, np.float32), dim)
                for k in range(space * batch, (space + 1) * batch):
                    below[k], above[k] = thresholds(wide[k], plans[k], tau[k], centre)
            dropped[:] = False
            for chunk in range(start, stop):
                if segment.chunk_codes != 0 and (chunk == start or chunk % TILE == 0):
                    dropped[:] = True
                    for k in range(space * batch, (space + 1) * batch):
                        test_chunks(
                            segment, chunk, stop, steps, digits[k].ctypes.data, plans[k], below[k], above[k],
                            chunk_verdicts[k], chunk_below[k], chunk_above[k], dropped, scratch, portable,
                        )  # fmt: skip
                if dropped[chunk % TILE]:
                    continue
                low = chunk * CHUNK
                high = min(low + CHUNK, rows)
                for k in range(space * batch, (space + 1) * batch):
                    verdict = LOOK if segment.chunk_codes == 0 else chunk_verdicts[k, chunk % TILE]
                    if verdict == DROP:
                        continue
                    plan = plans[k]
                    code = digits[k].ctypes.data
                    left = 0
                    if segment.balls != 0:
                        left = by_balls(segment, balls[0], low, high, row_bytes, scored, scratch)
                    else:
                        listed, tested = 0, 0
                        if segment.chunk_codes == 0:
                            listed = list_blocks(low, high, below[k], above[k], scratch)
                        else:
                            if verdict == TAKE and counting:
                                counts[k] += high - low
                            elif verdict == TAKE:
                                left = take(segment, low, high, row_bytes, scored, scratch, left)
                            else:
                                at = chunk % TILE
                                listed, left, counted = by_groups(
                                    segment, low, high, chunk_below[k, at], chunk_above[k, at], row_bytes, steps, code,
                                    plan, counting, scored, scratch, portable,
                                )  # fmt: skip
                                counts[k] += counted
                        if segment.codes != 0:
                            tested, left, counted = by_cells(
                                segment, listed, row_bytes, steps, code, plan, adapt, counting, scored, scratch, left,
                                portable,
                            )  # fmt: skip
                            counts[k] += counted
                        if tested < listed:
                            left = by_scan(
                                segment, vectors, norms, tested, listed, row_bytes, narrow[k], plan, tau[k], scored,
                                scratch, left,
                            )  # fmt: skip

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

    stages.complete(room[0].work, row_bytes)
    return counts, owners[:found], ids[:found], scores[: found if scored else 0], room[0].work.copy()


@stage
def _verify(segment, vectors, norms, narrow, wide, plan, tau, owner, left, wanted, scratch, parts, owners, ids, scores):
    """Decide the rows that a filter has left, and write the hits; returns how many there are.

    owners, ids, scores : addresses of int32, int64 and float32, with room for all rows left
    """
    scored = wanted == SCORES
    out_owners, out_ids, out_scores = pointer(owners, np.int32), pointer(ids, np.int64), pointer(scores, np.float32)
    row_ids = pointer(segment.ids, np.int64)
    hits = 0
    for at in range(left):
        row = scratch.rows[at]
        score = np.float32(0.0)
        if scored or scratch.kinds[at] == LOOK:
            x, norm, by = vectors[row], norms[row], stages.VERIFY
            hit, score, certain = decide(x, norm, segment.grain, wide, plan, tau, scored)
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
