"""The query, compiled once: filter, verify, emit, in the order of the mathematics and over all segments.

Rows go by in chunks of 1,024. In a chunk the directions follow one another, so that a batch reads vectors from cache;
for each, the filter of the segment says which rows are left, and these are verified. Where there are many directions,
cells meet them in a matrix product instead. What happens in a chunk depends on the data and the directions alone, never
on the thread count, and so do the counters.
"""

from typing import NamedTuple

import numpy as np
from numba import carray

from halfspace.cpu import by_chunk as stages
from halfspace.cpu.by_chunk import (
    SCRATCH,
    bits_between,
    by_balls,
    by_groups,
    by_rows,
    by_scan,
    keep,
    list_blocks,
    must_stop,
    take,
    test_chunks,
)
from halfspace.cpu.codes import DROP, LOOK, TAKE, thresholds
from halfspace.cpu.collect import ORDERED, order_by_id
from halfspace.cpu.directions import blank_directions, fill_directions
from halfspace.cpu.emit import emit
from halfspace.cpu.exact import reachable
from halfspace.cpu.filters.cascade import by_cells
from halfspace.cpu.filters.matrix import pack_tile, reachable_by
from halfspace.cpu.filters.views import blank_seen, look
from halfspace.cpu.prepared import READY, ready_directions, ready_seen
from halfspace.cpu.runtime.clock import start_clock
from halfspace.cpu.runtime.jit import borrowed, compiled, hold, inlined, pointer
from halfspace.cpu.runtime.lanes import lowest_bit_of, pairs_reaching
from halfspace.cpu.runtime.records import BALLS, CELLS, SEGMENT
from halfspace.cpu.runtime.simd import GROUP, matrix_begin, matrix_dot, matrix_end
from halfspace.cpu.verify import decide, decide_hairline, precision
from halfspace.model.counters import State, Want
from halfspace.model.layout import CHUNK, TILE

__all__ = ["search_chunks"]

COUNT, SCORES = int(Want.COUNT), int(Want.SCORES)
NOT_FINITE = int(State.NOT_FINITE)
"""Of `halfspace.model.counters`, as kernels take them."""

PASS_BYTES = 1 << 20
"""Bytes of vectors that meet all directions of a batch, and are verified, before the next come: half of a cache."""


class Question(NamedTuple):
    """What is asked of all segments."""

    narrow: np.ndarray  # see `halfspace.cpu.directions.Directions`
    wide: np.ndarray
    digits: np.ndarray
    plans: np.ndarray
    tau: np.ndarray
    adapt: bool
    wanted: int


@compiled
def search_chunks(
    place, spaces, segments, like, narrow, tau, prepared, first, last, pause, enough, adapt, wanted, budget, goes_on,
    scratch, counts, owners, ids, scores,
):  # fmt: skip
    """Search chunks [first, last) for every direction, for as long as there is room for hits and the clock allows.

    place : address of SEGMENT (spaces, segments); like : an empty array in the stored format
    narrow : float32 (spaces * m, d), the directions; tau : float64 (spaces * m,)
    prepared : address of one `halfspace.cpu.prepared.READY` for the only segment; or 0, and all is prepared here
    pause, enough : stop at chunk `pause` if so many bytes have been read by then
    adapt : whether to leave cells where they do not pay; wanted : COUNT, IDS or SCORES
    budget : seconds after which the call returns
    goes_on : whether this call goes on from where one before it has stopped
    scratch : uint8, room for one `halfspace.cpu.by_chunk.SCRATCH` at a multiple of 64 bytes, as that call left it
    counts : int64 (spaces * m,), the hits are added to it
    owners, ids, scores : (room,), the columns of `halfspace.cpu.emit.SINK`, the first hits in them already

    Returns the next `first`, if the search has stopped before `last`; how many hits are in the columns, in
    order of ids where there is a single direction and they are `ORDERED` at most; and the state, which is 0, PAUSED,
    FULL, or NOT_FINITE where a direction is not finite. Counters of verification are completed where it is 0.
    """
    table = carray(pointer(place, SEGMENT), (spaces, segments))
    own = carray(pointer((scratch.ctypes.data + 63) // 64 * 64, SCRATCH), 1)[0]
    own.owners, own.ids, own.scores, own.room = owners.ctypes.data, ids.ctypes.data, scores.ctypes.data, ids.size
    if not goes_on:
        own.work[:] = 0
        own.found, own.weight, own.resumed = 0, 0, 0
    own.stopped, own.ahead = 0, 0
    total, dim = narrow.shape
    tau = tau.copy()
    for k in range(total):
        tau[k] = reachable(tau[k])
    ready = carray(pointer(prepared, READY), 1 if prepared else 0)
    directions = ready_directions(ready[0], narrow) if prepared else blank_directions(narrow)
    if not prepared:
        grouped = False
        for which in range(segments):
            grouped |= table[0, which].chunk_codes != 0
        fill_directions(directions, grouped)
    for k in range(total):
        if not directions.plans[k].norm < np.inf:
            return first, 0, NOT_FINITE
    question = Question(
        borrowed(narrow), borrowed(directions.wide), borrowed(directions.digits), borrowed(directions.plans),
        borrowed(tau), adapt, wanted,
    )  # fmt: skip
    before, reached, prepares = 0, last, True
    for which in range(segments):
        rows = table[0, which].rows
        chunks = (rows + CHUNK - 1) // CHUNK
        start = max(first - before, 0)
        stop = min(last - before, chunks)
        middle = min(max(pause - before, start), stop)
        before += chunks
        if start >= stop or reached != last:
            continue
        has_cells = table[0, which].cells != 0
        if prepared:
            seen = ready_seen(ready[0], spaces, total, dim)
        else:
            seen = look(table, which, directions, tau) if has_cells else blank_seen(0, 0, dim, 0, 0)
        if prepares:  # only then: every call gets ahead, however long that took
            start_clock(own, budget)
            prepares = False
        for part in range(2):
            low, high = (start, middle) if part == 0 else (middle, stop)
            if before - chunks + low == pause and own.resumed == 0 and own.work[:, stages.BYTES].sum() >= enough:
                reached = pause
            if low >= high or reached != last:
                continue
            for space in range(own.space if own.resumed else 0, spaces):
                segment, begin = table[space, which], own.chunk if own.resumed else low
                if seen.matrix.order.shape[0]:
                    at = _multiply(segment, space, like, question, seen.matrix, counts, begin, high, own)
                else:
                    at = _one_by_one(
                        segment, space, total // spaces, like, question, seen.views, counts, begin, high, own
                    )
                if own.stopped:
                    own.resumed, own.space, own.chunk = 1, space, at
                    reached = before - chunks + low
                    break
                own.resumed = 0
        hold(seen)
    hold(directions)
    hold(tau)
    if own.stopped == 0:
        stages.complete(own.work, dim * like.itemsize)
        if total == 1 and own.found <= ORDERED:
            order_by_id(ids[: own.found], scores[: own.found])
    found, stopped = own.found, own.stopped
    hold(scratch)
    return reached, found, stopped


@inlined
def _one_by_one(segment, space, batch, like, question, views, counts, start, stop, scratch):
    """Search chunks [start, stop) of a segment for the directions of a space, one after another.

    Returns the chunk at which it stopped.
    """
    plans, tau, wanted = question.plans, question.tau, question.wanted
    total, dim = question.narrow.shape
    rows = segment.rows
    vectors = carray(pointer(segment.vectors, like), (rows, dim))
    norms = carray(pointer(segment.norms, np.float32), rows)
    balls = carray(pointer(segment.balls, BALLS), 1)
    cells = carray(pointer(segment.cells, CELLS), 1)
    parts = np.empty((2, dim))
    grouped = segment.chunk_codes != 0
    room = total if grouped else 0
    below, above = np.empty(room), np.empty(room)
    chunk_verdicts = np.empty((room, TILE), np.int32)
    chunk_below, chunk_above = np.empty((room, TILE)), np.empty((room, TILE))
    dropped = np.zeros(TILE, np.bool_)  # by every direction
    if grouped:
        centre = carray(pointer(segment.centre, np.float32), dim)
        for k in range(space * batch, (space + 1) * batch):
            below[k], above[k] = thresholds(question.wide[k], plans[k], tau[k], centre)
    begin = scratch.place if scratch.resumed else space * batch
    most = 0 if wanted == COUNT else CHUNK
    left = 0
    for chunk in range(start, stop):
        at = chunk % TILE
        if grouped and (chunk == start or at == 0):
            counted = scratch.work[stages.CHUNKS].copy()
            dropped[:] = True
            for k in range(space * batch, (space + 1) * batch):
                test_chunks(
                    segment, chunk, stop, question.digits[k], plans[k], below[k], above[k], chunk_verdicts[k],
                    chunk_below[k], chunk_above[k], dropped, scratch,
                )  # fmt: skip
            if chunk == start and scratch.resumed:  # they were tested before the search stopped
                scratch.work[stages.CHUNKS] = counted
        if dropped[at]:
            continue
        low = chunk * CHUNK
        high = min(low + CHUNK, rows)
        for k in range(begin, (space + 1) * batch):
            if must_stop(scratch, 1 + left, most, k, 0):
                return chunk
            if segment.cells != 0:
                left, counted_hits = _by_cells(
                    segment, cells[0], vectors, norms, low, high, views[k], question.narrow[k], plans[k], tau[k],
                    question.adapt, wanted, scratch,
                )  # fmt: skip
            elif grouped:
                if chunk_verdicts[k, at] == DROP:
                    left = 0
                    continue
                left, counted_hits = _by_groups(
                    segment, low, high, chunk_verdicts[k, at], chunk_below[k, at], chunk_above[k, at],
                    dim * like.itemsize, question.digits[k], plans[k], wanted, scratch,
                )  # fmt: skip
            elif segment.balls != 0:
                counted_hits = 0
                left = by_balls(segment, balls[0], low, high, dim * like.itemsize, wanted == SCORES, scratch)
            else:
                counted_hits = 0
                left = by_scan(
                    segment, vectors, norms, list_blocks(low, high, scratch), dim * like.itemsize, question.narrow[k],
                    plans[k], tau[k], wanted == SCORES, scratch, 0,
                )  # fmt: skip
            counts[k] += counted_hits
            if left:
                counts[k] += _verify(
                    segment, vectors, norms, question.narrow[k], question.wide[k], plans[k], tau[k], k, left, wanted,
                    scratch, parts,
                )  # fmt: skip
        begin = space * batch
    return stop


@inlined
def _multiply(segment, space, like, question, matrix, counts, start, stop, scratch):
    """Search chunks [start, stop) of a segment with cells for the directions of a space, all at once.

    Returns the chunk at which it stopped.
    """
    wanted, plans = question.wanted, question.plans
    dim = question.narrow.shape[1]
    row_bytes = dim * like.itemsize
    rows, batch = segment.rows, matrix.order.shape[1]
    cells = carray(pointer(segment.cells, CELLS), 1)[0]
    peaks = pointer(cells.peaks, np.float32)
    vectors = carray(pointer(segment.vectors, like), (rows, dim))
    norms = carray(pointer(segment.norms, np.float32), rows)
    parts, wide = np.empty((2, dim)), np.empty(dim)
    words, columns = (dim + 7) // 8, matrix.digits.shape[2] // TILE
    tile = np.zeros(TILE * TILE * columns, np.uint8)
    products = np.empty((GROUP, TILE), np.int32)
    inverses, ratios = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    tiles = min(max(PASS_BYTES // (TILE * row_bytes), 1), CHUNK // TILE)
    masks = np.zeros((batch, tiles), np.int64)  # of each direction, the vectors that are left
    first, begin = (scratch.row, scratch.place) if scratch.resumed else (start * CHUNK, 0)
    at, chunk = stop, start
    matrix_begin()
    while chunk < stop and at == stop:
        alive = reachable_by(matrix.reach[space], peaks[chunk])
        last = min((chunk + 1) * CHUNK, rows) if alive else 0
        while first < last and at == stop:
            for t in range(tiles):
                low = first + TILE * t
                if low >= last:
                    masks[:alive, t] = 0
                    continue
                present = bits_between(0, min(TILE, rows - low))
                pack_tile(cells, low, words, columns, tile, inverses, ratios)
                for group in range(begin // GROUP * GROUP, alive, GROUP):
                    digits = matrix.digits.ctypes.data + (space * matrix.digits.shape[1] + group) * (TILE * columns)
                    matrix_dot(tile.ctypes.data, digits, columns, products.ctypes.data)
                    for place in range(group, min(group + GROUP, alive)):
                        masks[place, t] = present & pairs_reaching(
                            products.ctypes.data + 4 * TILE * (place - group), inverses.ctypes.data,
                            ratios.ctypes.data, matrix.levels[space, place], matrix.factors[space, place],
                            matrix.offsets[space, place],
                        )  # fmt: skip
            scratch.weight += alive
            for place in range(begin, alive):
                left = 0
                for t in range(tiles):
                    remaining = masks[place, t]
                    while remaining:
                        i = lowest_bit_of(remaining)
                        remaining &= remaining - 1
                        left = keep(segment, first + TILE * t + i, LOOK, row_bytes, True, scratch, left)
                if left:
                    if must_stop(scratch, left, 0 if wanted == COUNT else left, place, first):
                        at = chunk
                        break
                    k = space * batch + matrix.order[space, place]
                    for j in range(dim):
                        wide[j] = np.float64(question.narrow[k, j])
                    counts[k] += _verify(
                        segment, vectors, norms, question.narrow[k], wide, plans[k], question.tau[k], k, left, wanted,
                        scratch, parts,
                    )  # fmt: skip
            begin = 0
            first += TILE * tiles
            if at == stop and must_stop(scratch, 0, 0, 0, first):
                at = chunk
        if at == stop:
            chunk += 1
            first = chunk * CHUNK
    matrix_end()
    return at


@inlined
def _by_cells(
    segment, cells, vectors, norms, low, high, view, direction, plan, tau, adapt, wanted, scratch
):  # fmt: skip
    """List which rows [low, high) of a chunk with cells are left; returns how many, and how many hits were counted."""
    dim = vectors.shape[1]
    row_bytes = dim * vectors.itemsize
    scored = wanted == SCORES
    left, counted, after = by_cells(
        segment, cells, view, plan, tau, (dim + 7) // 8, low, high, row_bytes, adapt,
        wanted == COUNT and segment.excluded == 0, scored, scratch,
    )  # fmt: skip
    if after < high:
        listed = list_blocks(after, high, scratch)
        left = by_scan(segment, vectors, norms, listed, row_bytes, direction, plan, tau, scored, scratch, left)
    return left, counted


@inlined
def _by_groups(segment, low, high, verdict, below, above, row_bytes, digits, plan, wanted, scratch):
    """List which rows of a chunk that is a ball are left; returns how many, and how many hits were counted instead.

    verdict, below, above : the verdict on the chunk, and the thresholds seen from its centre
    """
    counting, scored = wanted == COUNT and segment.excluded == 0, wanted == SCORES
    if verdict == TAKE:
        if counting:
            return 0, high - low
        return take(segment, low, high, row_bytes, scored, scratch, 0), 0
    listed, left, counted = by_groups(
        segment, low, high, below, above, row_bytes, digits, plan, counting, scored, scratch
    )
    left, more = by_rows(segment, listed, row_bytes, digits, plan, counting, scored, scratch, left)
    return left, counted + more


@inlined
def _verify(segment, vectors, norms, narrow, wide, plan, tau, owner, left, wanted, scratch, parts):
    """Decide the rows that a filter has left, and emit the hits, for which there is room; returns how many."""
    scored = wanted == SCORES
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
                hit, score = decide_hairline(x, norm, segment.grain, narrow, plan, tau, scored, parts)
            scratch.work[by, stages.TAKEN if hit else stages.DROPPED] += 1
            if not hit:
                continue
        if wanted != COUNT:
            emit(scratch, owner, row_ids[row], score)
        hits += 1
    return hits
