"""The tests of groups: down a ball tree of two levels, from chunks to groups of 16 rows to rows.

On the way down a direction's threshold is moved from centre to centre, by s a (A c) and, for safety, by s k.
"""

from typing import NamedTuple

import numpy as np
from numba import carray

from halfspace.cpu.by_chunk import chunkwise
from halfspace.cpu.codes import classify_tile, thresholds, value_in_tile
from halfspace.cpu.directions import put_digits
from halfspace.cpu.filters.lifts import COSINE, IP, L2, LIFT_FIELDS, cone, sphere
from halfspace.cpu.filters.records import GROUPS
from halfspace.cpu.job import (
    BYTES,
    CHUNKS,
    DROP,
    DROPPED,
    LEFT,
    LOOK,
    ROWS,
    TAKE,
    TAKEN,
    TESTED,
    bits_between,
    fetch,
    keep,
    take,
)
from halfspace.cpu.job import GROUPS as GROUPS_STAGE
from halfspace.cpu.rounding import radius_factor, reach
from halfspace.cpu.runtime.jit import array_at, blank, borrowed, cleared, inlined, pointer, record_at
from halfspace.cpu.runtime.lanes import count_bits, lowest_bit_of
from halfspace.model.layout import BLOCK, CHUNK, TILE

__all__ = ["Chunks", "prepare_groups", "search_groups"]


WIDER = 1.0 + 2.0**-50
"""Pays for rounding factors of radii."""

BALL_VIEW = np.dtype(
    [
        *LIFT_FIELDS,
        ("number", np.int64),  # of the direction
        ("factor_below", np.float64),  # of a radius, in upper bounds
        ("factor_above", np.float64),  # and in lower ones
        ("widest", np.float64),  # the largest radius of a ball that may be taken
        ("digits", np.int64),  # of what is coded, as in DIRECTION: q, or q - m with the metric "l2"
        ("steps", np.int64),
        ("unit", np.float64),  # a
        ("slack", np.float64),  # k
        ("bias", np.float64),
        ("length_bytes", np.int64),  # of a ball's length: 0 with the metric "ip"
    ]
)
"""What the tests of balls need to know of a direction, seen from one segment."""


class Chunks(NamedTuple):
    """The chunks of a tile, as the directions of all spaces see them."""

    views: np.ndarray  # BALL_VIEW (m,)
    digits: np.ndarray  # int8 (m, steps, 2, 4), which views point to where directions are coded anew
    verdicts: np.ndarray  # int32 (m, 64)
    chunk_below: np.ndarray  # float64 (m, 64), thresholds seen from the centre of each chunk
    chunk_above: np.ndarray
    open: np.ndarray  # int64 (1,): a bit for each chunk that some direction of the space has not dropped
    looks: np.ndarray  # int64 (m,), from the first direction of the space on: a bit for each chunk it has not dropped


@inlined
def prepare_groups(table, which, directions, dim, shared):
    """View all directions from segment `which`, if it has groups."""
    spaces = table.shape[0]
    count = directions.size if table[0, which].data != 0 else 0
    anew = count if count and directions[0].metric == L2 else 0
    chunks = Chunks(
        blank(count, BALL_VIEW),
        cleared((anew, (dim + 3) // 4, 2, 4), np.int8),
        blank((count, TILE), np.int32),
        blank((count, TILE), np.float64),
        blank((count, TILE), np.float64),
        cleared(1, np.int64),
        cleared(count, np.int64),
    )
    for k in range(count):
        groups = record_at(table[k // (count // spaces), which].data, GROUPS)
        view, direction = chunks.views[k], directions[k]
        _view(groups, direction, dim, view)
        if anew:
            _view_distance(groups, direction, dim, chunks.digits[k], view)
    return chunks


@inlined
def _view(groups, direction, dim, out):
    """View a direction that is coded already: all but distances."""
    wide = carray(pointer(direction.wide, np.float64), dim)
    centre = array_at(groups.centre, np.float32, dim)
    factor = radius_factor(direction.norm)
    out.number, out.digits, out.steps = direction.number, direction.digits, direction.steps
    out.unit, out.slack, out.bias = direction.digit_scale, direction.reach, np.float64(direction.bias)
    out.factor_below, out.factor_above, out.widest, out.length_bytes = factor, factor, np.inf, 0
    if direction.metric == IP:
        out.below, out.above = thresholds(wide, direction, centre)
        out.lift_below, out.lift_above = 0.0, 0.0
        return
    out.length_bytes = 4
    if direction.metric == COSINE:
        cone(wide, direction, centre, groups.slack, out)
        if out.lift_below < 0.0:  # the longest vector of a ball is at most twice its radius longer than the shortest
            out.factor_below -= 2.0 * out.lift_below * WIDER
        out.factor_above += 2.0 * max(out.lift_above, 0.0) * WIDER


@inlined
def _view_distance(groups, direction, dim, digits, out):
    """View a point of which the distance is asked: code it as seen from the centre."""
    wide = carray(pointer(direction.wide, np.float64), dim)
    centre = array_at(groups.centre, np.float32, dim)
    point = blank(dim, np.float64)
    norm = sphere(wide, direction, centre, groups.slack, point, out)
    out.lift_above = min(out.lift_above, 1.0)  # lengths of balls, which may be negative, lack no more than the slack
    radius = -direction.tau
    factor = radius_factor(radius) if radius > 0.0 else 0.0
    out.factor_below, out.factor_above, out.widest = factor, factor, radius
    scale, rest, total = put_digits(point, digits)
    out.digits, out.unit = digits.ctypes.data, scale
    out.slack, out.bias = reach(scale, rest, norm, 128.0 * np.sqrt(dim), dim), 128.0 * total


@inlined
def _ball_bytes(view):
    """Bytes of a ball: its code, scale and radius, and its length if it has any."""
    return 4 * view.steps + 8 + view.length_bytes


@inlined
def _fetch_balls(level, first, count, view):
    """Have the balls of whole blocks fetched that will be tested soon; long codes fetch themselves once begun."""
    fetch(level[0] + first * 4 * view.steps, min(count * 4 * view.steps, 512))
    fetch(level[1] + 4 * first, 4 * count)
    fetch(level[2] + 4 * first, 4 * count)


@inlined
def _next_chunk(job, segment, chunks, directions, chunk, span):
    """Find the next chunk that some direction has to look at, and test a tile of chunks where a new one begins.

    Most chunks are dropped, so they cost a bit each.
    """
    start, stop = span
    while chunk < stop:
        if chunk == start or chunk % TILE == 0:
            _open_tile(job, segment, chunks, directions, chunk, span)
        left = chunks.open[0] >> (chunk % TILE)
        if left:
            return chunk + lowest_bit_of(left)
        chunk += TILE - chunk % TILE
    return stop


@inlined
def _open_tile(job, segment, chunks, directions, chunk, span):
    """Test the chunks of a tile from `chunk` on for all directions."""
    start, stop = span
    counts = not (chunk == start and job.resumed)  # else they were tested before the search stopped
    some = np.int64(0)
    for k in range(directions.size):
        view = chunks.views[directions[k].number]
        chunks.looks[k] = _classify_chunks(job, segment, chunks, view, chunk, stop, counts)
        some |= chunks.looks[k]
    chunks.open[0] = some


@inlined
def _looks(chunks, chunk, at):
    """Whether a direction looks at a chunk of the tile that is open."""
    return (chunks.looks[at] >> (chunk % TILE)) & 1 != 0


@inlined
def _classify_chunks(job, segment, chunks, view, chunk, stop, counts):
    """Test the chunks of a segment from `chunk` on, but not `stop`, to the end of a tile of 64.

    counts : whether they are to be counted

    Returns a bit for each that is not dropped.
    """
    groups = record_at(segment.data, GROUPS)
    k = view.number
    first = chunk % TILE
    tile = chunk - first
    last = min(TILE, stop - tile)
    below, above = view.below, view.above
    for b in range(4):
        job.blocks[b] = tile // BLOCK + b
        job.below[b] = below
        job.above[b] = above
    level = groups.chunks
    left, hits = classify_tile(job, level, 0, 4, view)
    scales = level[1] + 4 * tile
    tested, taken, looks = min((tile + last) * CHUNK, segment.rows) - chunk * CHUNK, 0, 0
    chunks.verdicts[k] = DROP
    left &= bits_between(first, last)
    looking = left
    while left:
        i = lowest_bit_of(left)
        left &= left - 1
        rows = min(CHUNK, segment.rows - (tile + i) * CHUNK)
        if (hits >> i) & 1:
            chunks.verdicts[k, i] = TAKE
            taken += rows
        else:
            chunks.verdicts[k, i] = LOOK
            looks += rows
            _fetch_balls(groups.groups, (tile + i) * TILE, TILE, view)
            value, slack = value_in_tile(job, scales, i, view)
            chunks.chunk_below[k, i] = below - value - slack
            chunks.chunk_above[k, i] = above - value + slack
    if counts:
        work = job.work
        work[CHUNKS, TESTED] += tested
        work[CHUNKS, DROPPED] += tested - taken - looks
        work[CHUNKS, TAKEN] += taken
        work[CHUNKS, LEFT] += looks
        work[CHUNKS, BYTES] += (last - first) * _ball_bytes(view)
    return looking


@inlined
def _classify(job, segment, chunks, direction, low, high):
    """List which rows of a chunk that is a ball are left; returns how many, and how many hits were counted instead."""
    k, at = direction.number, low // CHUNK % TILE
    if chunks.verdicts[k, at] == TAKE:
        if job.counting:
            return 0, high - low
        return take(job, segment, low, high, 0), 0
    groups, view = record_at(segment.data, GROUPS), chunks.views[k]
    for b in range(4):
        job.blocks[b] = low // CHUNK * 4 + b
        job.below[b] = chunks.chunk_below[k, at]
        job.above[b] = chunks.chunk_above[k, at]
    listed, left, counted = _classify_groups(job, segment, groups, view, low, high)
    left, more = _classify_rows(job, segment, groups, view, listed, left)
    return left, counted + more


@inlined
def _classify_groups(job, segment, groups, view, low, high):
    """Test the groups of a chunk, whose blocks and thresholds are listed.

    Lists the blocks that are still to be tested; returns how many, how many rows are listed as hits, and how many hits
    were counted instead.
    """
    level = groups.groups
    below, above = job.below[0], job.above[0]
    remaining, hits = classify_tile(job, level, 0, 4, view)
    balls = (high - low + BLOCK - 1) // BLOCK
    short = BLOCK * balls - (high - low)  # rows that the last group lacks
    hits &= bits_between(0, balls)
    looks = remaining & bits_between(0, balls) & ~hits
    taken = BLOCK * count_bits(hits) - short * ((hits >> (balls - 1)) & 1)
    tested = BLOCK * count_bits(looks) - short * ((looks >> (balls - 1)) & 1)
    left, listed = 0, 0
    while hits and not job.counting:
        first = low + BLOCK * lowest_bit_of(hits)
        hits &= hits - 1
        left = take(job, segment, first, min(first + BLOCK, high), left)
    scales = level[1] + 4 * (low // BLOCK)
    while looks:
        i = lowest_bit_of(looks)
        looks &= looks - 1
        value, slack = value_in_tile(job, scales, i, view)
        _fetch_balls(groups.rows, low + BLOCK * i, BLOCK, view)
        job.blocks[listed] = low // BLOCK + i
        job.below[listed] = below - value - slack
        job.above[listed] = above - value + slack
        listed += 1
    work = job.work
    work[GROUPS_STAGE, TESTED] += high - low
    work[GROUPS_STAGE, DROPPED] += high - low - taken - tested
    work[GROUPS_STAGE, TAKEN] += taken
    work[GROUPS_STAGE, LEFT] += tested
    work[GROUPS_STAGE, BYTES] += balls * _ball_bytes(view)
    return listed, left, taken if job.counting else 0


@inlined
def _classify_rows(job, segment, groups, view, listed, left):
    """Test the balls of the rows in the listed blocks, a tile at a time.

    Returns how many rows are left, and how many hits were counted instead.
    """
    whole = segment.rows // BLOCK  # blocks; the next one, if any, is short
    tested, taken, looks = 0, 0, 0
    for at in range(0, listed, 4):
        count = min(4, listed - at)
        rows = BLOCK * count
        if job.blocks[at + count - 1] == whole:
            rows -= BLOCK - segment.rows % BLOCK
        remaining, hits = classify_tile(job, groups.rows, at, count, view)
        remaining &= bits_between(0, rows)
        hits &= bits_between(0, rows)
        tested += rows
        taken += count_bits(hits)
        looks += count_bits(remaining) - count_bits(hits)
        if job.counting:
            remaining &= ~hits
        while remaining:
            i = lowest_bit_of(remaining)
            remaining &= remaining - 1
            row = BLOCK * job.blocks[at + i // BLOCK] + i % BLOCK
            left = keep(job, segment, row, TAKE if (hits >> i) & 1 else LOOK, left)
    work = job.work
    work[ROWS, TESTED] += tested
    work[ROWS, DROPPED] += tested - taken - looks
    work[ROWS, TAKEN] += taken
    work[ROWS, LEFT] += looks
    work[ROWS, BYTES] += tested * _ball_bytes(view)
    return left, taken if job.counting else 0


_by_chunk = chunkwise(_classify, _next_chunk, _looks)


@inlined
def search_groups(job, segment, chunks, directions, counts, span):
    """Search chunks [*span) of a space with groups; returns the chunk at which it stopped."""
    own = Chunks(
        borrowed(chunks.views),
        borrowed(chunks.digits),
        borrowed(chunks.verdicts),
        borrowed(chunks.chunk_below),
        borrowed(chunks.chunk_above),
        borrowed(chunks.open),
        borrowed(chunks.looks),
    )
    return _by_chunk(job, segment, own, directions, counts, span)
