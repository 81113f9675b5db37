"""Attention over exactly the keys that reach a threshold: filter, decide, softmax, values.

Rows go by in chunks of 1,024, a fixed number of chunks to a run. Of each run and query head the largest logit, the sum
of the weights relative to it and the sum of the weighted values are found; then the runs of each head are merged in
their order. So the bits of the output depend on what is kept, never on the number of threads.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.cpu.attention.heads import (
    PACK,
    blank_tile,
    borrow_heads,
    cells_of,
    list_left,
    load_tile,
    multiply,
    prepare_heads,
    take_run,
    workers,
    writeable,
)
from halfspace.cpu.attention.rows import decide_rows, score_rows, weigh_rows
from halfspace.cpu.attention.softmax import merge
from halfspace.cpu.exact import LIMBS
from halfspace.cpu.filters.cascade import out_of_reach
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.clock import CLOCK, TURN, overdue, start_clock
from halfspace.cpu.runtime.jit import array_at, borrowed, compiled, hold, inlined
from halfspace.cpu.runtime.simd import matrix_begin, matrix_end
from halfspace.model.formats import FORMATS
from halfspace.model.kv_cache import GRAINS, Attention, Cache
from halfspace.model.layout import CHUNK, TILE

__all__ = ["ROWS", "attend", "grain_of_bits"]

RUN = 4
"""Chunks in a run."""
ROWS = RUN * CHUNK
"""Rows in a run."""
_GRAINS = {bits: GRAINS[name] for name, (_, bits) in FORMATS.items()}


def grain_of_bits(bits: np.dtype[Any]) -> float:
    """Return a power of two of which every stored number is a multiple, or 0."""
    return _GRAINS[bits]


def attend(
    cache: Cache,
    queries: np.ndarray,
    tau: npt.NDArray[np.float64],
    scale: float,
    recent: int,
    sinks: int,
    threads: int,
    cap: float = 0.0,
) -> Attention:
    """Attend over the keys k with <q, k> >= tau, the first `sinks` and the last `recent` of each sequence.

    queries : float32 or bits (batch, query_heads, d), finite; tau : (batch, query_heads)

    The keys that are kept are those in real arithmetic; logits are scale * <q, k> in float64, scale > 0, which a `cap`
    above 0 bends to cap tanh(scale <q, k> / cap).
    """
    queries, tau = writeable(queries), writeable(tau)
    if cache.fetch is not None:
        cache.fetch(None)
    batch, query_heads, dim = queries.shape
    longest = max(cache.lengths.tolist())
    parts = (batch * query_heads, max(1, -(-longest // ROWS)))
    of_runs = np.empty(parts), np.empty(parts), np.empty(parts, np.int64), np.empty((*parts, dim))
    address, begun = cells_of(cache), np.zeros(1, np.int64)
    store, asked = (cache.keys, cache.values, cache.norms), (queries, tau)
    how = float(scale), float(cap), recent, sinks, grain_of_bits(cache.keys.dtype)

    def work(_: int) -> None:
        while begun[0] < len(cache.keys) * parts[1]:
            _threads.go_on()
            _attend_runs(address, store, cache.lengths, asked, how, begun, of_runs)

    most = workers(cache, query_heads, threads)
    _threads.run(work, range(most), most)
    merged = np.empty((parts[0], dim), np.float32), np.empty(parts[0], np.float32), np.empty(parts[0], np.int64)
    merge(*of_runs, *merged)
    shape = batch, query_heads
    return Attention(merged[0].reshape(*shape, dim), *(part.reshape(shape) for part in merged[1:]))


@compiled
def _attend_runs(address, store, lengths, asked, how, begun, of_runs):
    """Attend over runs of spaces, one after another: those that no thread has begun, while the clock allows.

    address : of CELLS (spaces,); store : keys, values, norms; asked : queries and thresholds
    how : scale, cap, recent, sinks, grain; begun : int64 (1,), how many runs are begun
    of_runs : tops, sums, kept (heads, runs) and weighted (heads, runs, d), get what `merge` takes
    """
    keys, values, norms = store
    queries, tau = asked
    scale, cap, recent, sinks, grain = how
    tops, sums, kept, weighted = of_runs
    batch, query_heads, dim = queries.shape
    spaces, runs = keys.shape[0], tops.shape[1]
    heads = spaces // batch
    size = query_heads // heads
    row_bytes = dim * keys.itemsize
    all_cells = array_at(address, CELLS, spaces)
    keys, values, norms = borrowed(keys), borrowed(values), borrowed(norms)
    tile, codes = blank_tile(dim)
    own_rows, left = np.empty((size, CHUNK), np.int64), np.zeros(size, np.int64)
    rows = borrowed(own_rows)
    logits, parts, part = np.empty(CHUNK), np.empty((2, max(dim, LIMBS))), np.empty(dim, np.float32)
    own, viewed = prepare_heads(all_cells[0], queries[0, :size], tau[0, :size]), 0
    group = borrow_heads(own)
    clock = np.empty(1, CLOCK)
    start_clock(clock[0], TURN)
    matrix_begin()
    while not overdue(clock[0]):
        space, sequence, first, run = take_run(begun, runs, (batch, heads, size))
        if run < 0:
            break
        cells, length = all_cells[space], lengths[sequence]
        if space != viewed:
            heads_of_space = slice(first, first + size)
            own = prepare_heads(cells, queries[sequence, heads_of_space], tau[sequence, heads_of_space])
            group, viewed = borrow_heads(own), space
        forced = (min(sinks, length), max(0, length - recent))
        owner = sequence * query_heads + first
        kept[owner : owner + size, run] = 0
        start = run * ROWS
        for low in range(start, min(start + ROWS, length), CHUNK):
            high = min(low + CHUNK, length)
            _filter(cells, group, (low, high), forced, (keys[space].ctypes.data, row_bytes), tile[0], rows, left)
            for k in range(size):
                rows_of_space = keys[space], values[space], norms[space]
                score_rows(keys[space], group.wide[k], rows[k], left[k], logits)
                listed = rows[k], logits, left[k]
                count = decide_rows(rows_of_space, (scale, cap, grain), group, k, forced, listed, parts)
                if count:
                    before = kept[owner + k, run], tops[owner + k, run], sums[owner + k, run]
                    kept[owner + k, run] += count
                    tops[owner + k, run], sums[owner + k, run] = weigh_rows(
                        values[space], (rows[k], logits, count), part, before, weighted[owner + k, run]
                    )
    matrix_end()
    hold(clock)
    hold(codes)
    hold(own_rows)
    hold(own)


@inlined
def _filter(cells, group, span, forced, keys, tile, rows, left):
    """List for each query head the rows [low, high) of a chunk that its codes leave; left (group,) counts them."""
    low, high = span
    words = (group.wide.shape[1] + 7) // 8
    left[:] = 0
    reached = low < forced[0] or high > forced[1]
    for k in range(left.size):
        reached = reached or not out_of_reach(cells, low // CHUNK, group.plans[k].norm, group.tau[k])
    if not reached:
        return
    for first in range(low, high, TILE):
        load_tile(cells, first, words, tile)
        for pack in range(group.matrix.shape[0]):
            multiply(group, pack, tile)
            for k in range(pack * PACK, min((pack + 1) * PACK, left.size)):
                listed = rows[k], left[k]
                left[k] = list_left(cells, group.levels[k], tile, k % PACK, (first, high), forced, keys, listed)
