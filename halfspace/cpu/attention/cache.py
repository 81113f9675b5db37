"""Keys and values of attention on the CPU: a cache is made, rows are appended and coded, and coded anew."""

from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.cpu.attention.heads import cells_of
from halfspace.cpu.filters.cells import choose_frame, encode_rows
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.formats import SLICE, exact64, measure_rows, round_up32, widen
from halfspace.cpu.rounding import norm_bound
from halfspace.cpu.runtime import jit as _jit
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import array_at, compiled, inlined, multiply_add, pointer
from halfspace.model.kv_cache import OVERFULL, RESERVOIR, Cache
from halfspace.model.layout import BLOCK, CHUNK, TILE

__all__ = ["extend", "new_cache", "reframe"]


def new_cache(batch: int, heads: int, dim: int, bits: np.dtype[Any], capacity: int, offload: bool) -> Cache:
    """Make room for `capacity` rows, a multiple of 64, of each head of each sequence.

    bits : dtype of the stored numbers; offload : False, since all is in the host's memory
    """
    return Cache.blank(_jit.zeros, (batch, heads, capacity, dim), bits)


def extend(
    cache: Cache, keys: np.ndarray, values: np.ndarray, counts: npt.NDArray[np.int64] | None, threads: int = 1
) -> None:
    """Append rows to each sequence, and code them in the frame that is in force.

    keys, values : bits (batch, heads, rows, d) of finite numbers
    counts : (batch,), how many of the rows each sequence gets, the first ones; None: all

    A sequence that has no room for them is left as it is, and its status gets OVERFULL.
    """
    rows = keys.shape[2]
    keys, values = (np.ascontiguousarray(x) if x.strides[3] != x.itemsize else x for x in (keys, values))
    if counts is None:
        counts = np.full(cache.batch, rows)
    address, store = cells_of(cache), (cache.keys, cache.values, cache.norms, cache.value_peaks)
    given = (keys.ctypes.data, *keys.strides[:3]), (values.ctypes.data, *values.strides[:3])
    ends = cache.lengths, counts
    pieces = rows // CHUNK + 2  # chunks that rows may fall into
    parts = -(-keys.size // SLICE)
    if parts == 1:
        _append(address, store, ends, given, pieces, (0, pieces * cache.heads * cache.batch))
    else:
        spans = _threads.spans(pieces * cache.heads * cache.batch, parts)
        _threads.run(lambda span: _append(address, store, ends, given, pieces, span), spans, threads)
    _lengthen(cache.keys.shape[1], counts, cache.lengths, cache.sample, cache.status)


@compiled
def _append(address, store, ends, given, pieces, span):
    """Do pieces [first, last) of the work: one is what falls into one chunk of a space.

    address : of CELLS (spaces,); store : keys, values, norms and peaks of values; ends : lengths and counts (batch,)
    given : of keys and of values (batch, heads, rows, d), the address and the strides of batch, heads and rows
    """
    keys, values, norms, value_peaks = store
    lengths, counts = ends
    new_keys, key_batch, key_head, key_row = given[0]
    new_values, value_batch, value_head, value_row = given[1]
    first, last = span
    capacity, dim = keys.shape[1:]
    heads = keys.shape[0] // lengths.size
    longest = np.zeros(2)
    all_cells = array_at(address, CELLS, keys.shape[0])
    for piece in range(first, last):
        space = piece // pieces
        sequence, head = space // heads, space % heads
        length, count = lengths[sequence], counts[sequence]
        chunk = length // CHUNK + piece % pieces
        low_row, high_row = max(length, chunk * CHUNK), min(length + count, (chunk + 1) * CHUNK)
        if length + count > capacity or low_row >= high_row:
            continue
        from_keys = new_keys + sequence * key_batch + head * key_head - length * key_row
        from_values = new_values + sequence * value_batch + head * value_head - length * value_row
        for row in range(low_row, high_row):
            key, value = pointer(from_keys + row * key_row, keys), pointer(from_values + row * value_row, values)
            for j in range(dim):
                keys[space, row, j] = key[j]
                values[space, row, j] = value[j]
        measure_rows(keys[space], norms[space], low_row, high_row)
        frame, places, peaks = _arrays_of(all_cells[space], capacity, dim)
        encode_rows(keys[space], frame, places, longest, (low_row, high_row))
        peak = peaks[chunk] if low_row > chunk * CHUNK else np.float32(0.0)
        for row in range(low_row, high_row):
            peak = max(peak, norms[space, row])
        peaks[chunk] = peak
        peak = value_peaks[space, chunk] if low_row > chunk * CHUNK else np.float32(0.0)
        for row in range(low_row, high_row):
            peak = max(peak, _norm(values[space, row]))
        value_peaks[space, chunk] = peak


@inlined
def _norm(vector):
    """Bound the norm of a vector from above."""
    total = 0.0
    for j in range(vector.size):
        value = exact64(widen(vector[j]))
        total = multiply_add(total, value, value)
    return round_up32(norm_bound(total, vector.size))


@inlined
def _arrays_of(cells, capacity, dim):
    """View the arrays of a CELLS record: frame and places, as `encode_rows` takes them, and peaks."""
    words = (dim + 7) // 8
    frame = array_at(cells.centre, np.float32, dim), array_at(cells.weights, np.float32, dim)
    places = (
        array_at(cells.high, np.uint8, (capacity // BLOCK, words, BLOCK, 4)),
        array_at(cells.low, np.uint8, 4 * capacity * words),
        array_at(cells.scales, np.uint16, capacity),
        array_at(cells.high_radii, np.uint16, (2, capacity)),  # those of the whole codes follow
    )
    return frame, places, array_at(cells.peaks, np.float32, (capacity + CHUNK - 1) // CHUNK)


@compiled
def _lengthen(capacity, counts, lengths, sample, status):
    """Count the rows that were appended, and sample their positions, see `halfspace.model.kv_cache.reservoir`."""
    for sequence in range(lengths.size):
        length, count = lengths[sequence], counts[sequence]
        if length + count > capacity:
            status[sequence] |= np.uint64(OVERFULL)
            continue
        for at in range(length, length + count):
            slot = at if at < RESERVOIR else _drawn(np.uint64(at))
            if slot < RESERVOIR:
                sample[sequence, slot] = at
        lengths[sequence] = length + count


@inlined
def _drawn(at):
    """Draw a slot from 0 to `at`."""
    one = np.uint64(1)
    mixed = (at + one) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((mixed ^ (mixed >> np.uint64(31))) % (at + one))


def reframe(cache: Cache, threads: int = 1) -> None:
    """Choose centre and weights anew from the rows of each sequence, and code them again.

    The result does not depend on the number of threads. The cache is stale until all is done.
    """
    cache.stale = True
    cells = cache.cells
    for sequence, length in enumerate(cache.lengths.tolist()):
        if length == 0:
            continue
        own = slice(sequence * cache.heads, (sequence + 1) * cache.heads)
        cells.centre[own], cells.weights[own], _ = choose_frame(
            cache.keys[own, :length], cache.norms[own, :length], threads
        )
    spans = [
        (space, *span)
        for space in range(cache.keys.shape[0])
        for length in [int(cache.lengths[space // cache.heads])]
        for span in _threads.spans(length, -(-length * cache.dim // SLICE), TILE)
    ]

    def encode(span: tuple[int, int, int]) -> None:
        space, first, last = span
        frame = cells.centre[space], cells.weights[space]
        places = cells.high[space], cells.low[space], cells.scales[space], cells.radii[space]
        encode_rows(cache.keys[space], frame, places, np.zeros(2), (first, last))

    _threads.run(encode, spans, threads)
    cache.stale = False
