"""Which rows of a chunk are left: each filter, applied to 1,024 rows and one direction.

A filter lists the rows that it cannot rule out, with their verdicts (look or take), and counts what it did. Rows that
are excluded, because they are dead or not asked for, are never listed.
"""

import numpy as np

from halfspace.cpu.codes import DROP, LOOK, TAKE, test_tile, value_in_tile
from halfspace.cpu.emit import SINK_FIELDS
from halfspace.cpu.filters.balls import test_balls
from halfspace.cpu.filters.scan import test_rows
from halfspace.cpu.runtime.clock import CLOCK_FIELDS, overdue
from halfspace.cpu.runtime.jit import inlined, pointer
from halfspace.cpu.runtime.lanes import count_bits, lowest_bit_of
from halfspace.cpu.runtime.simd import prefetch
from halfspace.model.counters import WORK_SHAPE, Column, Stage
from halfspace.model.layout import BLOCK, CHUNK, TILE

__all__ = [
    "FULL",
    "PAUSED",
    "SCRATCH",
    "bits_between",
    "by_balls",
    "by_groups",
    "by_rows",
    "by_scan",
    "complete",
    "fetch",
    "keep",
    "list_blocks",
    "must_stop",
    "take",
    "test_chunks",
]

NORMS, AXES, HIGH, LOW, CHUNKS, GROUPS, ROWS, SWEEP, GATES, BALLS, SCAN, VERIFY, EXACT = map(int, Stage)
TESTED, DROPPED, TAKEN, LEFT, DOTS, BYTES = map(int, Column)
"""Of `halfspace.model.counters`, as kernels take them."""

BLOCKS = CHUNK // BLOCK
"""Blocks in a chunk: as many as balls in a tile."""

SCRATCH = np.dtype(
    [
        ("rows", np.int64, (CHUNK,)),  # the rows left, ascending within a block
        ("kinds", np.int32, (CHUNK,)),  # their verdicts
        ("blocks", np.int64, (BLOCKS,)),  # blocks of rows that are still to be tested
        ("below", np.float64, (BLOCKS,)),  # their thresholds
        ("above", np.float64, (BLOCKS,)),
        ("products", np.int32, (2 * TILE,)),
        ("values", np.float64, (CHUNK,)),  # of the chunk's rows, what the parts of their codes came to
        ("candidates", np.int64, (CHUNK,)),  # rows left by the high codes, twice, plus one where they are taken
        ("places", np.int64, (4,)),
        ("verdicts", np.int32, (CHUNK,)),
        ("sums", np.float64, (CHUNK,)),
        ("alive", np.int32, (CHUNK,)),
        ("work", np.int64, WORK_SHAPE),
        *SINK_FIELDS,
        *CLOCK_FIELDS,
        ("weight", np.int64),  # of what was done since the clock was read
        ("ahead", np.int64),  # whether this call has done anything yet, which every call does
        ("stopped", np.int64),  # why a search has stopped: 0, or PAUSED or FULL
        ("resumed", np.int64),  # whether it goes on from where it did:
        ("space", np.int64),
        ("chunk", np.int64),  # of a segment
        ("place", np.int64),  # of a direction
        ("row", np.int64),  # in a matrix product, the first of the tiles that were being verified
    ]
)
"""Room to work in, the counters and the hits of one thread: a record of Python's, passed as one address."""

PAUSED, FULL = 1, 2
"""Why a search stopped before its end: an interrupt may want its turn, or there is no room for more hits."""

WEIGHT = 64
"""Chunks, or rows to be verified, after which the clock is read."""


@inlined
def must_stop(scratch, more, hits, place, row):
    """Whether the search must return to Python before it goes on at a place in a chunk, which is noted then.

    more : what has been done since this was last asked, as in `WEIGHT`; hits : how many may come next
    """
    scratch.weight += more
    if scratch.found + hits > scratch.room:
        scratch.stopped = FULL
    elif scratch.weight >= WEIGHT and scratch.ahead:
        scratch.weight = 0
        if overdue(scratch):
            scratch.stopped = PAUSED
    if scratch.stopped:
        scratch.place, scratch.row = place, row
        return True
    scratch.ahead = 1
    return False


@inlined
def excluded(segment, row):
    if segment.excluded == 0:
        return False
    return (pointer(segment.excluded, np.uint8)[row >> 3] >> (row & 7)) & 1 == 1


@inlined
def _ball_bytes(digits):
    """Bytes of a ball: its code, scale and radius."""
    return 4 * digits.shape[0] + 8


@inlined
def fetch(address, size):
    """Have memory fetched that will be read soon."""
    for line in range(address, address + size, 64):
        prefetch(line)


@inlined
def _fetch_balls(codes, scales, radii, first, count, digits):
    """Have the balls of whole blocks fetched that will be tested soon; long codes fetch themselves once begun."""
    fetch(codes + first * 4 * digits.shape[0], min(count * 4 * digits.shape[0], 512))
    fetch(scales + 4 * first, 4 * count)
    fetch(radii + 4 * first, 4 * count)


@inlined
def keep(segment, row, verdict, row_bytes, scored, scratch, left):
    """List a row, and have its vector fetched if it will be read; returns how many are listed."""
    if excluded(segment, row):
        return left
    scratch.rows[left] = row
    scratch.kinds[left] = verdict
    if scored or verdict == LOOK:
        fetch(segment.vectors + row * row_bytes, row_bytes)
    return left + 1


@inlined
def take(segment, low, high, row_bytes, scored, scratch, left):
    """List rows [low, high), all of them hits."""
    for row in range(low, high):
        left = keep(segment, row, TAKE, row_bytes, scored, scratch, left)
    return left


@inlined
def bits_between(first, last):
    """Set bits `first` to `last` - 1 of an int64."""
    ones = np.int64(-1)
    return (ones << first) & (ones if last >= TILE else ~(ones << last))


@inlined
def list_blocks(low, high, scratch):
    """List all blocks of rows [low, high); returns how many there are."""
    count = (high - low + BLOCK - 1) // BLOCK
    for b in range(count):
        scratch.blocks[b] = low // BLOCK + b
    return count


@inlined
def test_chunks(segment, chunk, stop, digits, plan, below, above, verdicts, lows, highs, dropped, scratch):
    """Test the chunks of a segment from `chunk` on, but not `stop`, to the end of a tile of 64.

    verdicts, lows, highs : (64,), get verdicts and the thresholds seen from the chunks' centres
    dropped : bool (64,), set to False where a chunk is not dropped
    """
    first = chunk % TILE
    tile = chunk - first
    last = min(TILE, stop - tile)
    for b in range(4):
        scratch.blocks[b] = tile // BLOCK + b
        scratch.below[b] = below
        scratch.above[b] = above
    left, hits = test_tile(segment.chunk_codes, segment.chunk_scales, segment.chunk_radii, 0, 4, digits, plan, scratch)
    scales = segment.chunk_scales + 4 * tile
    tested, taken, looks = min((tile + last) * CHUNK, segment.rows) - chunk * CHUNK, 0, 0
    verdicts[:] = DROP
    left &= bits_between(first, last)
    while left:
        i = lowest_bit_of(left)
        left &= left - 1
        rows = min(CHUNK, segment.rows - (tile + i) * CHUNK)
        dropped[i] = False
        if (hits >> i) & 1:
            verdicts[i] = TAKE
            taken += rows
        else:
            verdicts[i] = LOOK
            looks += rows
            _fetch_balls(
                segment.group_codes, segment.group_scales, segment.group_radii, (tile + i) * TILE, TILE, digits
            )
            value, slack = value_in_tile(scales, i, plan, scratch)
            lows[i] = below - value - slack
            highs[i] = above - value + slack
    work = scratch.work
    work[CHUNKS, TESTED] += tested
    work[CHUNKS, DROPPED] += tested - taken - looks
    work[CHUNKS, TAKEN] += taken
    work[CHUNKS, LEFT] += looks
    work[CHUNKS, BYTES] += (last - first) * _ball_bytes(digits)


@inlined
def by_groups(segment, low, high, below, above, row_bytes, digits, plan, counting, scored, scratch):
    """Test the groups of a chunk, whose thresholds from the chunk's centre are `below` and `above`.

    Lists the blocks that are still to be tested; returns how many, how many rows are listed as hits, and, where
    `counting`, how many hits were counted instead.
    """
    for b in range(4):
        scratch.blocks[b] = low // CHUNK * 4 + b
        scratch.below[b] = below
        scratch.above[b] = above
    remaining, hits = test_tile(
        segment.group_codes, segment.group_scales, segment.group_radii, 0, 4, digits, plan, scratch
    )
    balls = (high - low + BLOCK - 1) // BLOCK
    short = BLOCK * balls - (high - low)  # rows that the last group lacks
    hits &= bits_between(0, balls)
    looks = remaining & bits_between(0, balls) & ~hits
    taken = BLOCK * count_bits(hits) - short * ((hits >> (balls - 1)) & 1)
    tested = BLOCK * count_bits(looks) - short * ((looks >> (balls - 1)) & 1)
    left, listed = 0, 0
    while hits and not counting:
        first = low + BLOCK * lowest_bit_of(hits)
        hits &= hits - 1
        left = take(segment, first, min(first + BLOCK, high), row_bytes, scored, scratch, left)
    scales = segment.group_scales + 4 * (low // BLOCK)
    while looks:
        i = lowest_bit_of(looks)
        looks &= looks - 1
        value, slack = value_in_tile(scales, i, plan, scratch)
        _fetch_balls(segment.codes, segment.scales, segment.radii, low + BLOCK * i, BLOCK, digits)
        scratch.blocks[listed] = low // BLOCK + i
        scratch.below[listed] = below - value - slack
        scratch.above[listed] = above - value + slack
        listed += 1
    work = scratch.work
    work[GROUPS, TESTED] += high - low
    work[GROUPS, DROPPED] += high - low - taken - tested
    work[GROUPS, TAKEN] += taken
    work[GROUPS, LEFT] += tested
    work[GROUPS, BYTES] += balls * _ball_bytes(digits)
    return listed, left, taken if counting else 0


@inlined
def by_rows(segment, listed, row_bytes, digits, plan, counting, scored, scratch, left):
    """Test the balls of the rows in the listed blocks, a tile at a time.

    Returns how many rows are left and, where `counting`, how many hits were counted instead.
    """
    whole = segment.rows // BLOCK  # blocks; the next one, if any, is short
    tested, taken, looks = 0, 0, 0
    for at in range(0, listed, 4):
        count = min(4, listed - at)
        rows = BLOCK * count
        if scratch.blocks[at + count - 1] == whole:
            rows -= BLOCK - segment.rows % BLOCK
        remaining, hits = test_tile(segment.codes, segment.scales, segment.radii, at, count, digits, plan, scratch)
        remaining &= bits_between(0, rows)
        hits &= bits_between(0, rows)
        tested += rows
        taken += count_bits(hits)
        looks += count_bits(remaining) - count_bits(hits)
        if counting:
            remaining &= ~hits
        while remaining:
            i = lowest_bit_of(remaining)
            remaining &= remaining - 1
            row = BLOCK * scratch.blocks[at + i // BLOCK] + i % BLOCK
            verdict = TAKE if (hits >> i) & 1 else LOOK
            left = keep(segment, row, verdict, row_bytes, scored, scratch, left)
    work = scratch.work
    work[ROWS, TESTED] += tested
    work[ROWS, DROPPED] += tested - taken - looks
    work[ROWS, TAKEN] += taken
    work[ROWS, LEFT] += looks
    work[ROWS, BYTES] += tested * _ball_bytes(digits)
    return left, taken if counting else 0


@inlined
def by_scan(segment, vectors, norms, listed, row_bytes, direction, plan, tau, scored, scratch, left):
    """Scan the listed blocks of stored vectors (n, d); returns how many rows are left."""
    tested, taken, looks = 0, 0, 0
    for b in range(listed):
        low = BLOCK * scratch.blocks[b]
        high = min(low + BLOCK, segment.rows)
        test_rows(vectors, norms, low, high, direction, plan, tau, scratch.verdicts)
        tested += high - low
        for i in range(high - low):
            verdict = scratch.verdicts[i]
            if verdict != DROP:
                taken += verdict == TAKE
                looks += verdict == LOOK
                left = keep(segment, low + i, verdict, row_bytes, scored, scratch, left)
    work = scratch.work
    work[SCAN, TESTED] += tested
    work[SCAN, DROPPED] += tested - taken - looks
    work[SCAN, TAKEN] += taken
    work[SCAN, LEFT] += looks
    work[SCAN, DOTS] += tested
    work[SCAN, BYTES] += tested * (row_bytes + 4)
    return left


@inlined
def by_balls(segment, balls, low, high, row_bytes, scored, scratch):
    """Test the rows of a chunk by the balls that hold them; returns how many are left."""
    came, gated, dropped, looked = test_balls(
        balls, segment.rows, low, high, scratch.sums, scratch.alive, scratch.verdicts
    )
    left, taken = 0, 0
    if came > gated + dropped:
        for i in range(high - low):
            if scratch.verdicts[i] != DROP:
                taken += scratch.verdicts[i] == TAKE
                left = keep(segment, low + i, scratch.verdicts[i], row_bytes, scored, scratch, left)
    work = scratch.work
    work[GATES, TESTED] += came
    work[GATES, DROPPED] += gated
    work[GATES, LEFT] += came - gated
    work[BALLS, TESTED] += came - gated
    work[BALLS, DROPPED] += dropped
    work[BALLS, TAKEN] += taken
    work[BALLS, LEFT] += came - gated - dropped - taken
    work[BALLS, BYTES] += 8 * looked + (high - low + 7) // 8 * (balls.candidates != 0)
    return left


@inlined
def complete(work, row_bytes):
    """Fill in the counters of verification that follow from its verdicts."""
    exact = work[EXACT, DROPPED] + work[EXACT, TAKEN]
    work[EXACT, TESTED] = work[EXACT, DOTS] = work[VERIFY, LEFT] = exact
    work[VERIFY, TESTED] = work[VERIFY, DROPPED] + work[VERIFY, TAKEN] + exact
    work[VERIFY, DOTS] = work[VERIFY, TESTED]
    work[VERIFY, BYTES] = work[VERIFY, TESTED] * (row_bytes + 4)
    work[EXACT, BYTES] = exact * row_bytes
