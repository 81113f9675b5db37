"""Many directions at once: cells times directions as an integer matrix product, thresholds applied to it as it comes.

For a batch, both halves of a tile's codes are joined into one byte, and multiplied with 16 directions at a time, which
are coded in one digit. A pair is left if

    A c  >=  level / s - factor r / s + offset

which is the upper bound of `halfspace.cpu.filters.cells`, solved for the integer product. It is evaluated in float32,
with the slack of `halfspace.model.rounding.pair_margin`, while products are in registers. Pairs that are left are
verified while vectors are in cache.

With the metrics "cosine" and "l2", lift e / s is added on the right, where e is the vector's length.

Directions are sorted by tau / |q|, the norm that a vector must have to be a hit, so that those which a chunk can reach
at all come first.
"""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.directions import largest_of
from halfspace.cpu.filters.lifts import coded_components
from halfspace.cpu.formats import widen16
from halfspace.cpu.rounding import least_norm, norm_bound, pair_margin, radius_factor, reach
from halfspace.cpu.runtime.jit import array_at, bits_of, blank, cleared, float64_of, inlined, multiply_add, pointer
from halfspace.cpu.runtime.lanes import join_block
from halfspace.cpu.runtime.simd import GROUP
from halfspace.model.layout import BLOCK, CHUNK, MODERATE, TILE

__all__ = [
    "LEAST",
    "Matrix",
    "blank_matrix",
    "can_multiply",
    "code_in_one_digit",
    "fill_matrix",
    "pack_tile",
    "reachable_by",
]

PAIR_SHARE = 2.0**-20
"""What is taken from levels and lifts, which may cancel: it pays for rounding them, and their products, to float32."""
MOST_LIFT = 2.0**126
"""Lifts beyond float32 are given up: everything is left."""
UNIT_BITS = (1 << 30) - 1
"""Bits at the end of a float64 that are 0 in a unit, so that 23 are left: fewer than 46, for exact multiples."""
LEAST = 16
"""Directions from which on a matrix product is faster than one after another."""


class Matrix(NamedTuple):
    """Directions, sorted space by space, as one segment's cells see them in a matrix product."""

    order: np.ndarray  # int64 (spaces, m): the direction at each place
    reach: np.ndarray  # float64 (spaces, m): the least norm of a hit, ascending
    digits: np.ndarray  # int8 (spaces, m', 64 columns): m' is m rounded up to whole groups
    levels: np.ndarray  # float32 (spaces, m')
    factors: np.ndarray  # float32 (spaces, m')
    offsets: np.ndarray  # float32 (spaces, m')
    lifts: np.ndarray  # float32 (spaces, m'), 0 with the metric "ip"


@inlined
def blank_matrix(spaces, count, dim):
    """Make room for `count` directions of `dim` dimensions in each space."""
    padded = (count + GROUP - 1) // GROUP * GROUP
    levels = blank((spaces, padded), np.float32)
    for space in range(spaces):
        for place in range(padded):
            levels[space, place] = np.float32(np.inf)
    return Matrix(
        blank((spaces, count), np.int64),
        blank((spaces, count), np.float64),
        cleared((spaces, padded, (dim + TILE - 1) // TILE * TILE), np.int8),
        levels,
        cleared((spaces, padded), np.float32),
        cleared((spaces, padded), np.float32),
        cleared((spaces, padded), np.float32),
    )


@inlined
def can_multiply(cells, rows):
    """Whether all norms of a segment are moderate."""
    peaks = pointer(cells.peaks, np.float32)
    moderate = True
    for chunk in range((rows + CHUNK - 1) // CHUNK):
        moderate &= peaks[chunk] <= MODERATE
    return moderate


@inlined
def fill_matrix(cells, directions, views, dim, space, out):
    """Sort the directions (m,) of one space, with their views, and code them in one digit."""
    count = directions.size
    weights = array_at(cells.weights, np.float32, dim)
    least, own = blank(count, np.float64), blank(dim, np.float64)
    for k in range(count):
        least[k] = least_norm(directions[k].tau, directions[k].norm) if cells.lengths == 0 else -np.inf
    order = _ascending(least)
    for place in range(count):
        k = order[place]
        view = views[k]
        coded_components(directions[k], cells.centre, view.moved, own)
        for j in range(dim):
            own[j] *= np.float64(weights[j])
        unit, rest, total, magnitude = code_in_one_digit(own, dim, 0.0, out.digits[space, place])
        slack = reach(unit, rest, view.norm, cells.low_span, dim) / unit
        factor = radius_factor(view.norm) / unit
        margin = pair_margin(np.float64(magnitude), factor, dim)
        out.order[space, place], out.reach[space, place] = k, least[k]
        level, lift = view.below / unit, view.lift_below / unit
        if cells.lengths != 0 and not np.isinf(level):
            level, lift = level - abs(level) * PAIR_SHARE, lift - abs(lift) * PAIR_SHARE
            if abs(lift) > MOST_LIFT:  # a point that is next to the centre
                level = -np.inf
        out.levels[space, place], out.lifts[space, place] = np.float32(level), np.float32(lift)
        out.factors[space, place] = np.float32(factor)
        out.offsets[space, place] = np.float32(128.0 * np.float64(total) - slack - margin)


@inlined
def code_in_one_digit(values, count, least, digits):
    """Code float64 (count,) as a * A + rest; digits : int8 (at least count,), gets A, within 127.

    The unit a is as small as it may be for numbers up to `least`, and for these, but for its last bits: with 23 of them
    its multiples are exact. Rests are rounded once at most, which `norm_bound` pays for. Returns the unit, a bound on
    |rest|, and the sums of A and |A|.
    """
    largest = max(largest_of(values, count), least)
    unit = 1.0
    if largest > 0.0:
        unit = float64_of(((bits_of(largest / 127.0) + UNIT_BITS) | UNIT_BITS) - UNIT_BITS)
    inverse = 1.0 / unit
    total, magnitude, squares = np.int64(0), np.int64(0), 0.0
    for j in range(count):
        digit = np.int64(np.rint(values[j] * inverse))
        rest = values[j] - digit * unit
        squares = multiply_add(squares, rest, rest)
        digits[j] = digit
        total += digit
        magnitude += abs(digit)
    return unit, norm_bound(squares, count), total, magnitude


@inlined
def _ascending(values):
    """Order numbers by merging runs, equals as they come; returns where each is."""
    count = values.size
    order, spare = blank(count, np.int64), blank(count, np.int64)
    for k in range(count):
        order[k] = k
    run = 1
    while run < count:
        for first in range(0, count, 2 * run):
            one, middle = first, min(first + run, count)
            other, last = middle, min(first + 2 * run, count)
            for to in range(first, last):
                if one < middle and (other == last or values[order[one]] <= values[order[other]]):
                    spare[to] = order[one]
                    one += 1
                else:
                    spare[to] = order[other]
                    other += 1
        order, spare = spare, order
        run *= 2
    return order


@inlined
def reachable_by(reach, peak):
    """How many of the sorted directions a vector of norm `peak` might reach."""
    low, high, most = 0, reach.size, np.float64(peak)
    while low < high:
        middle = (low + high) // 2
        if reach[middle] <= most:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def pack_tile(cells, first, words, columns, out):
    """Join the codes of rows [first, first + 64) into bytes, and divide by their scales.

    out : address of the codes, uint8 (4 blocks, 16 columns, 16 vectors, 4), on a boundary of 64 bytes, of which steps
        beyond 2 * words stay zero; and three of float32 (64,), which get 1 / s, r / s and e / s
    """
    tile, inverses, ratios, rises = out
    scales, radii = pointer(cells.scales, np.uint16), pointer(cells.low_radii, np.uint16)
    for b in range(TILE // BLOCK):
        codes = 4 * words * (first + BLOCK * b)
        join_block(cells.high + codes, cells.low + codes, words, tile + b * (1024 * columns))
    lengths = pointer(cells.lengths, np.float32)
    for i in range(TILE):
        scale, radius = widen16(scales[first + i]), widen16(radii[first + i])
        if scale > 0.0:
            inverses[i] = np.float32(1.0 / scale)
            ratios[i] = np.float32(radius / scale)
        else:  # a vector at the centre: always left
            inverses[i] = np.float32(0.0)
            ratios[i] = np.float32(np.inf)
        rises[i] = np.float32(0.0)
        if cells.lengths != 0:
            rises[i] = lengths[first + i] * inverses[i]
            if np.isinf(rises[i]):  # so near to the centre that nothing is known
                inverses[i], ratios[i], rises[i] = np.float32(0.0), np.float32(np.inf), np.float32(0.0)
