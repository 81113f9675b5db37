"""Searching cells for a batch at once: a tile of codes meets the directions in a matrix product.

See `halfspace.cpu.filters.matrix` for the test.
"""

import numpy as np

from halfspace.cpu.by_chunk import chunkwise, verify
from halfspace.cpu.filters.cascade import classify_cells
from halfspace.cpu.filters.matrix import pack_tile, reachable_by
from halfspace.cpu.filters.prefix import TWICE, WHOLE, addresses_of, judge, pack_prefix, part_of
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.filters.views import borrow_seen
from halfspace.cpu.job import COUNT, LOOK, bits_between, fetch, keep, must_stop, presence
from halfspace.cpu.runtime.jit import blank, cleared, hold, inlined, pointer, record_at
from halfspace.cpu.runtime.lanes import lowest_bit_of
from halfspace.cpu.runtime.reaching import block_reaching, tile_reaching
from halfspace.cpu.runtime.simd import GROUP, matrix_begin, matrix_end
from halfspace.model.layout import BLOCK, CHUNK, TILE

__all__ = ["search_cells"]

PASS_BYTES = 1 << 20
"""Bytes of vectors that meet all directions of a batch, and are verified, before the next come: half of a cache."""

_one_by_one = chunkwise(classify_cells)


@inlined
def search_cells(job, segment, seen, directions, counts, span):
    """Search chunks [*span) of a space with cells; returns the chunk at which it stopped."""
    own = borrow_seen(seen)
    if own.matrix.order.shape[0]:
        return _multiply(job, segment, own, directions, counts, span)
    return _one_by_one(job, segment, own, directions, counts, span)


@inlined
def _fetch_rows(job, segment, low, rows):
    """Have the vectors of a tile fetched that bits stand for; low : its first row."""
    while rows:
        row = low + lowest_bit_of(rows)
        rows &= rows - 1
        fetch(segment.vectors + row * job.row_bytes, job.row_bytes)


@inlined
def _list_left(job, segment, masks, some, first):
    """List what a direction's masks (tiles,) leave, of the tiles that bits of `some` stand for; returns how many rows.

    first : the first row of all
    """
    left = 0
    while some:
        t = lowest_bit_of(some)
        some &= some - 1
        low = first + TILE * t
        rows = masks[t] & bits_between(0, min(TILE, segment.rows - low))
        while rows:
            row = low + lowest_bit_of(rows)
            rows &= rows - 1
            left = keep(job, segment, row, LOOK, left)
    return left


@inlined
def _blocks_left(masks, some, lasting):
    """Count the blocks that masks (16,) leave a vector of, for the first `lasting` directions, as `some` has bits."""
    blocks = 0
    some &= bits_between(0, lasting)
    while some:
        left = masks[lowest_bit_of(some)]
        some &= some - 1
        for b in range(TILE // BLOCK):
            blocks += (left >> (BLOCK * b)) & 0xFFFF != 0
    return blocks


@inlined
def _refine(tile, own, numbers, masks, some):
    """Multiply the blocks that axes have left for 16 directions, with whole codes; returns which still have any left.

    tile : address of the packed codes, (steps, columns), and addresses of what their rows need
    own : address of the directions' digits; numbers : addresses of what they need
    masks : int64 (16,), of the vectors that are left; some : a bit for each direction that has any
    """
    codes, shape, rows = tile
    levels, factors, offsets, lifts = numbers
    still = np.int64(0)
    while some:
        place = lowest_bit_of(some)
        some &= some - 1
        left, kept, at = masks[place], np.int64(0), 4 * place
        while left:
            b = lowest_bit_of(left) // BLOCK
            here, to = codes + b * (1024 * shape[1]), 4 * BLOCK * b
            needs = rows[0] + to, rows[1] + to, rows[2] + to
            needed = levels + at, factors + at, offsets + at, lifts + at
            bits = block_reaching(here, own + place * (TILE * shape[1]), shape[0], needs, needed) << (BLOCK * b)
            kept |= bits & left
            left &= ~(np.int64(0xFFFF) << (BLOCK * b))
        masks[place] = kept
        still |= np.int64(kept != 0) << place
    return still


@inlined
def _multiply(job, segment, seen, directions, counts, span):
    """Search chunks [*span) for the directions of a space, all at once; returns the chunk at which it stopped."""
    (start, stop), space, matrix, prefix = span, job.space, seen.matrix, seen.prefix
    padded = matrix.digits.shape[1]
    cells = record_at(segment.data, CELLS)
    peaks = pointer(cells.peaks, np.float32)
    columns, along = matrix.digits.shape[2] // TILE, prefix.digits.shape[2] // TILE
    shape = 2 * job.words, columns
    codes = cleared(TILE * TILE * (columns + along) + 63, np.uint8)
    tile = (codes.ctypes.data + 63) // 64 * 64
    short = tile + TILE * TILE * columns
    inverses, ratios, rises = blank(TILE, np.float32), blank(TILE, np.float32), blank(TILE, np.float32)
    rows = inverses.ctypes.data, ratios.ctypes.data, rises.ctypes.data
    quotients, steps = blank((4, TILE), np.float32), cells.axes // 8
    row = quotients.ctypes.data
    quotients_at = row, row + 4 * TILE, row + 8 * TILE, row + 12 * TILE
    lifted = cells.lengths != 0
    levels, factors = matrix.levels.ctypes.data, matrix.factors.ctypes.data
    offsets, lifts = matrix.offsets.ctypes.data, matrix.lifts.ctypes.data
    tiles = min(max(PASS_BYTES // (TILE * job.row_bytes), 1), CHUNK // TILE)
    masks = blank((tiles, padded), np.int64)  # the vectors of each tile that are left
    some = blank(padded, np.int64)  # and bits of the tiles that have any, of each direction
    first, begin = (job.row, job.place) if job.resumed else (start * CHUNK, 0)
    at, chunk = stop, start
    matrix_begin()
    while chunk < stop and at == stop:
        alive = reachable_by(matrix.reach[space], peaks[chunk]) if presence(segment, chunk) else 0
        last = min((chunk + 1) * CHUNK, segment.rows) if alive else 0
        while first < last and at == stop:
            for place in range(padded):
                some[place] = 0
            for t in range((min(last, first + TILE * tiles) - first + TILE - 1) // TILE):
                low = first + TILE * t
                number = (low - chunk * CHUNK) // TILE  # of the tile in its chunk
                part = part_of(job, number) if along else WHOLE
                fetched, blocks = np.int64(0), np.int64(0)
                pack_tile(cells, low, job.words, columns, (tile, inverses, ratios, rises))
                if part != WHOLE:
                    pack_prefix(cells, directions[0].metric, part, low, along, (short, quotients))
                for group in range(begin // GROUP * GROUP, alive, GROUP):
                    at_group = space * padded + group
                    digits = matrix.digits.ctypes.data + at_group * (TILE * columns)
                    numbers = levels + 4 * at_group, factors + 4 * at_group, offsets + 4 * at_group
                    own_lifts = lifts + 4 * at_group
                    out = masks.ctypes.data + 8 * (t * padded + group)
                    own_masks, many, bits = masks[t, group : group + GROUP], True, np.int64(0)
                    if part != WHOLE:
                        numbers_at, digits_at = addresses_of(prefix, space, part, group)
                        bits = tile_reaching(
                            short, digits_at, (steps * (part + 1), along), quotients_at, numbers_at, out
                        )
                        left = _blocks_left(own_masks, bits, alive - group)
                        blocks += left
                        many = TWICE * left > TILE // BLOCK * GROUP
                    if not many:
                        bits = _refine((tile, shape, rows), digits, (*numbers, own_lifts), own_masks, bits)
                    elif lifted:
                        bits = tile_reaching(tile, digits, shape, rows, (*numbers, own_lifts), out)
                    else:
                        bits = tile_reaching(tile, digits, shape, rows[:2], numbers, out)
                    fresh = np.int64(0)
                    while bits:
                        place = group + lowest_bit_of(bits)
                        bits &= bits - 1
                        some[place] |= np.int64(1) << t
                        fresh |= masks[t, place]
                    _fetch_rows(job, segment, low, fresh & ~fetched)
                    fetched |= fresh
                if along and begin == 0 and (number == 0 or (number == 1 and job.another)):
                    judge(job, cells.axes, number, alive, blocks)
            job.weight += alive
            for place in range(begin, alive):
                left = _list_left(job, segment, masks[:, place], some[place], first)
                if left:
                    if must_stop(job, left, 0 if job.wanted == COUNT else left, place, first):
                        at = chunk
                        break
                    direction = directions[matrix.order[space, place]]
                    counts[direction.number] += verify(job, segment, direction, left)
            begin = 0
            first += TILE * tiles
            if at == stop and must_stop(job, 0, 0, 0, first):
                at = chunk
        if at == stop:
            chunk += 1
            first = chunk * CHUNK
    matrix_end()
    hold(codes)
    hold(inverses)
    hold(ratios)
    hold(rises)
    hold(quotients)
    return at
