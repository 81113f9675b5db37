"""Query heads as the codes of the KV head that they share see them: one pass over the codes for all of them.

Both halves of a tile's codes c are joined into bytes and multiplied with the digits of up to 8 heads at a time. A key
is left if

    A c  >=  level / s - factor r / s + offset

which is the upper bound of `halfspace.cpu.filters.cells`, solved for the integer product. It is evaluated in float32,
with the slack of `halfspace.model.rounding.pair_margin`.
"""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.directions import blank_directions, fill_directions
from halfspace.cpu.filters.lifts import IP
from halfspace.cpu.filters.records import CELLS, fill_cells
from halfspace.cpu.filters.views import DIGITS, VIEW, view_one
from halfspace.cpu.formats import widen
from halfspace.cpu.job import bits_between, fetch
from halfspace.cpu.rounding import pair_margin, radius_factor
from halfspace.cpu.runtime.forms import AMX, FORM
from halfspace.cpu.runtime.jit import borrowed, fetch_add, float32_of, inlined, pointer
from halfspace.cpu.runtime.lanes import digits_reaching, join_block, lowest_bit_of
from halfspace.cpu.runtime.simd import GROUP, matrix_dot, tile_dot
from halfspace.model.kv_cache import Cache
from halfspace.model.layout import BLOCK, CHUNK, MODERATE, TILE
from halfspace.model.segment import address

__all__ = [
    "PACK",
    "HeadGroup",
    "blank_tile",
    "borrow_heads",
    "cells_of",
    "list_left",
    "load_tile",
    "multiply",
    "prepare_heads",
    "take_run",
    "workers",
    "writeable",
]

PACK = GROUP // 2
"""Query heads that meet a tile at once: each has two digits."""
LEAST = 3 if FORM == AMX else PACK
"""Heads from which on a matrix product is faster than one after another."""

MIN_PAIRS = 1 << 15
"""Pairs of a key and a query head that are worth a thread."""

LEVEL = np.dtype([("level", np.float32), ("factor", np.float32), ("offset", np.float32)])
"""The test of codes for one query head."""


class HeadGroup(NamedTuple):
    """The query heads of a KV head, seen from its frame."""

    narrow: np.ndarray  # float32 (group, d); see `halfspace.cpu.directions.Directions`
    wide: np.ndarray  # float64 (group, d)
    plans: np.ndarray  # PLAN (group,)
    tau: np.ndarray  # float64 (group,)
    views: np.ndarray  # VIEW (group,)
    levels: np.ndarray  # LEVEL (group,)
    steps: np.ndarray  # int8 (group, steps, 2 digits, 4 dimensions)
    matrix: np.ndarray  # int8 (packs, 16, 64 columns): of each head both digits
    digits: np.ndarray  # int8 (group, 4, stride), which views point to


KEYS = np.dtype(
    [
        ("places", np.int64, (TILE // BLOCK,)),  # addresses of the blocks: uint8 (16 columns, 16 keys, 4 dimensions)
        ("inverses", np.float32, (TILE,)),  # 1 / s
        ("ratios", np.float32, (TILE,)),  # r / s
        ("products", np.int32, (PACK * 2 * TILE,)),  # of each head, the high digits and the low ones
    ]
)
"""A tile of 64 keys, ready to be multiplied, and what came of it."""


def cells_of(cache: Cache) -> int:
    """Return the address of CELLS (spaces,) of a cache, whose arrays stay where they are."""
    known: tuple[np.ndarray, int] | None = cache.kept.get("cells")
    if known is not None:
        return known[1]
    records = np.zeros(cache.keys.shape[0], CELLS)
    for space in range(records.size):
        fill_cells(cache.cells, space, records[space])
    cache.kept["cells"] = records, address(records)
    return address(records)


def workers(cache: Cache, query_heads: int, threads: int) -> int:
    """Say how many of the threads are worth their start where all keys are asked by so many heads of each sequence."""
    longest: int = max(cache.lengths.tolist())
    return min(threads, 1 + longest * cache.batch * query_heads // MIN_PAIRS)


def writeable(array: np.ndarray) -> np.ndarray:
    """Return an array that may be written, or a copy: for others, kernels would have to be compiled again."""
    return array if array.flags.writeable else array.copy()


@inlined
def take_run(begun, runs, sizes):
    """Take the next run of rows that no thread has begun: its space, sequence, first query head and number.

    begun : int64 (1,), how many are begun; runs : of each space; sizes : sequences, KV heads, query heads of each
    The number is negative where all are begun.
    """
    batch, heads, size = sizes
    at = fetch_add(begun.ctypes.data, 1)
    if at >= batch * heads * runs:
        return 0, 0, 0, -1
    space = at // runs
    return space, space // heads, space % heads * size, at % runs


@inlined
def prepare_heads(cells, queries, tau):
    """View queries (group, d), float32 or bits, with thresholds (group,) of their own, from the frame of a KV head."""
    group, dim = queries.shape
    narrow = np.empty((group, dim), np.float32)
    for k in range(group):
        for j in range(dim):
            narrow[k, j] = widen(queries[k, j])
    directions = blank_directions(narrow)
    own = np.empty(group)
    fill_directions(directions, tau, IP)
    views, levels = np.zeros(group, VIEW), np.empty(group, LEVEL)
    digits = np.zeros((group, 4, (dim + DIGITS - 1) // DIGITS * DIGITS), np.int8)
    steps = np.zeros((group, 2 * ((dim + 7) // 8), 2, 4), np.int8)
    matrix = np.zeros(((group + PACK - 1) // PACK, GROUP, (dim + TILE - 1) // TILE * TILE), np.int8)
    scaled = np.empty(dim)
    for k in range(group):
        plan, view, level = directions.records[k], views[k], levels[k]
        own[k] = plan.tau
        view_one(cells, plan, scaled, digits[k], view)
        magnitude = np.int64(0)
        for j in range(dim):
            high, low = digits[k, 0, j], digits[k, 1, j]
            magnitude += abs(256 * np.int64(high) + np.int64(low))
            steps[k, j // 4, 0, j % 4], steps[k, j // 4, 1, j % 4] = high, low
            matrix[k // PACK, k % PACK * 2, j], matrix[k // PACK, k % PACK * 2 + 1, j] = high, low
        factor = radius_factor(plan.norm) / view.unit
        margin = pair_margin(np.float64(magnitude), factor, dim)
        level.level, level.factor = np.float32(view.below / view.unit), np.float32(factor)
        level.offset = np.float32(128.0 * view.digit_sum - view.low_slack / view.unit - margin)
    return HeadGroup(narrow, directions.wide, directions.records, own, views, levels, steps, matrix, digits)


@inlined
def borrow_heads(group):
    """View what `prepare_heads` returned, which must be held."""
    return HeadGroup(
        borrowed(group.narrow),
        borrowed(group.wide),
        borrowed(group.plans),
        borrowed(group.tau),
        borrowed(group.views),
        borrowed(group.levels),
        borrowed(group.steps),
        borrowed(group.matrix),
        borrowed(group.digits),
    )


@inlined
def blank_tile(dim):
    """Make room for a tile of keys of `dim` dimensions; returns KEYS (1,) and the codes that it points to."""
    block = (dim + TILE - 1) // TILE * (TILE * BLOCK)
    codes = np.zeros(TILE // BLOCK * block + 64, np.uint8)
    tile = np.empty(1, KEYS)
    for b in range(TILE // BLOCK):
        tile[0].places[b] = (codes.ctypes.data + 63) // 64 * 64 + b * block
    return tile, codes


@inlined
def load_tile(cells, first, words, tile):
    """Join the codes of rows [first, first + 64), and divide by their scales."""
    for b in range(TILE // BLOCK):
        row = first + BLOCK * b
        join_block(cells.high + 4 * words * row, cells.low + 4 * words * row, words, tile.places[b])
    scales, radii = pointer(cells.scales + 2 * first, np.uint16), pointer(cells.low_radii + 2 * first, np.uint16)
    one, none = np.float32(1.0), np.float32(0.0)
    for i in range(TILE):
        scale, radius = float32_of(np.int32(scales[i]) << 16), float32_of(np.int32(radii[i]) << 16)
        inverse = one / scale
        tile.inverses[i] = inverse if scale > none else none  # a key at the centre is always left
        tile.ratios[i] = radius * inverse if scale > none else np.float32(np.inf)


@inlined
def multiply(group, pack, tile):
    """Multiply the codes of a tile with both digits of the heads of a pack."""
    products, dim = tile.products.ctypes.data, group.wide.shape[1]
    first = pack * PACK
    count = min(PACK, group.tau.size - first)
    if count >= LEAST:
        matrix_dot(tile.places[0], group.matrix[pack].ctypes.data, (dim + TILE - 1) // TILE, products)
        return
    for k in range(count):
        digits = group.steps[first + k]
        tile_dot(tile.places.ctypes.data, digits.ctypes.data, digits.shape[0], products + k * (8 * TILE))


@inlined
def list_left(cells, level, tile, k, span, forced, keys, listed):
    """List the rows [first, high) of a tile that the codes leave to head k of a pack, or that are forced.

    span : first, high; forced : rows below forced[0] and from forced[1] on are listed whatever their codes
    keys : address of the keys, and the bytes of one, which are fetched
    listed : rows, int64 (CHUNK,), and how many are listed already

    Returns how many rows are listed.
    """
    first, high = span
    address_of_keys, row_bytes = keys
    rows, left = listed
    present = bits_between(0, min(TILE, high - first))
    mask = present
    if pointer(cells.peaks, np.float32)[first // CHUNK] <= MODERATE:
        products, inverses, ratios = tile.products.ctypes.data, tile.inverses.ctypes.data, tile.ratios.ctypes.data
        products += k * (8 * TILE)
        mask &= digits_reaching(products, inverses, ratios, level.level, level.factor, level.offset)
        if first < forced[0]:
            mask |= present & bits_between(0, min(TILE, forced[0] - first))
        if first + TILE > forced[1]:
            mask |= present & bits_between(max(0, forced[1] - first), TILE)
    while mask:
        row = first + lowest_bit_of(mask)
        mask &= mask - 1
        rows[left] = row
        left += 1
        fetch(address_of_keys + row * row_bytes, row_bytes)
    return left
