"""Searching cells for a batch at once: a tile of codes meets the directions in a matrix product.

See `halfspace.cpu.filters.matrix` for the test.
"""

import numpy as np

from halfspace.cpu.by_chunk import chunkwise, verify
from halfspace.cpu.filters.cascade import classify_cells
from halfspace.cpu.filters.matrix import pack_tile, reachable_by
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.filters.views import borrow_seen
from halfspace.cpu.job import COUNT, LOOK, bits_between, keep, must_stop, presence
from halfspace.cpu.runtime.jit import blank, cleared, hold, inlined, pointer, record_at
from halfspace.cpu.runtime.lanes import lifted_pairs_reaching, lowest_bit_of, pairs_reaching
from halfspace.cpu.runtime.simd import GROUP, matrix_begin, matrix_dot, matrix_end
from halfspace.model.layout import CHUNK, TILE

__all__ = ["search_cells"]

PASS_BYTES = 1 << 20
"""Bytes of vectors that meet all directions of a batch, and are verified, before the next come: half of a cache."""

_one_by_one = chunkwise(classify_cells)


@inlined
def search_cells(job, segment, seen, directions, counts, span):
    """Search chunks [*span) of a space with cells; returns the chunk at which it stopped."""
    own = borrow_seen(seen)
    if own.matrix.order.shape[0]:
        return _multiply(job, segment, own.matrix, directions, counts, span)
    return _one_by_one(job, segment, own, directions, counts, span)


@inlined
def _multiply(job, segment, matrix, directions, counts, span):
    """Search chunks [*span) for the directions of a space, all at once; returns the chunk at which it stopped."""
    (start, stop), space, dim = span, job.space, job.dim
    batch = matrix.order.shape[1]
    cells = record_at(segment.data, CELLS)
    peaks = pointer(cells.peaks, np.float32)
    wide = blank(dim, np.float64)
    columns = matrix.digits.shape[2] // TILE
    tile = cleared(TILE * TILE * columns, np.uint8)
    products = blank((GROUP, TILE), np.int32)
    inverses, ratios, rises = blank(TILE, np.float32), blank(TILE, np.float32), blank(TILE, np.float32)
    rows = inverses.ctypes.data, ratios.ctypes.data, rises.ctypes.data
    lifted = cells.lengths != 0
    tiles = min(max(PASS_BYTES // (TILE * job.row_bytes), 1), CHUNK // TILE)
    masks = cleared((batch, tiles), np.int64)  # of each direction, the vectors that are left
    first, begin = (job.row, job.place) if job.resumed else (start * CHUNK, 0)
    at, chunk = stop, start
    matrix_begin()
    while chunk < stop and at == stop:
        alive = reachable_by(matrix.reach[space], peaks[chunk]) if presence(segment, chunk) else 0
        last = min((chunk + 1) * CHUNK, segment.rows) if alive else 0
        while first < last and at == stop:
            for t in range(tiles):
                low = first + TILE * t
                if low >= last:
                    for place in range(alive):
                        masks[place, t] = 0
                    continue
                present = bits_between(0, min(TILE, segment.rows - low))
                pack_tile(cells, low, job.words, columns, (tile, inverses, ratios, rises))
                for group in range(begin // GROUP * GROUP, alive, GROUP):
                    digits = matrix.digits.ctypes.data + (space * matrix.digits.shape[1] + group) * (TILE * columns)
                    matrix_dot(tile.ctypes.data, digits, columns, products.ctypes.data)
                    for place in range(group, min(group + GROUP, alive)):
                        own = products.ctypes.data + 4 * TILE * (place - group)
                        level, factor = matrix.levels[space, place], matrix.factors[space, place]
                        offset = matrix.offsets[space, place]
                        if lifted:
                            numbers = level, factor, offset, matrix.lifts[space, place]
                            masks[place, t] = present & lifted_pairs_reaching(own, rows, numbers)
                        else:
                            masks[place, t] = present & pairs_reaching(own, rows[0], rows[1], level, factor, offset)
            job.weight += alive
            for place in range(begin, alive):
                left = 0
                for t in range(tiles):
                    remaining = masks[place, t]
                    while remaining:
                        i = lowest_bit_of(remaining)
                        remaining &= remaining - 1
                        left = keep(job, segment, first + TILE * t + i, LOOK, left)
                if left:
                    if must_stop(job, left, 0 if job.wanted == COUNT else left, place, first):
                        at = chunk
                        break
                    direction = directions[matrix.order[space, place]]
                    narrow = pointer(direction.narrow, np.float32)
                    for j in range(dim):
                        wide[j] = np.float64(narrow[j])
                    counts[direction.number] += verify(job, segment, direction, wide.ctypes.data, left)
            begin = 0
            first += TILE * tiles
            if at == stop and must_stop(job, 0, 0, 0, first):
                at = chunk
        if at == stop:
            chunk += 1
            first = chunk * CHUNK
    matrix_end()
    hold(wide)
    hold(inverses)
    hold(ratios)
    hold(rises)
    return at
