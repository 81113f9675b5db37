"""A prefix of a matrix product: directions meet the codes along principal axes first, a quarter of the depth or less.

With z = P (x - m) and p = P q as in `halfspace.cpu.filters.axes`, z = s W (c - 7.5) up to a radius r, and b the length
of what lies beyond the axes, the upper bound of the cascade is solved for the integer product of codes and digits A:

    A c  >=  level / s - factor r / s - remainder b / s + lift e / s + offset

A block of 16 vectors of which one is left for a direction goes on to the product of whole codes. In each chunk the
first tiles tell which part of the axes saves the most products, if any does.

Vectors are measured in a power of two that is next to the largest norm, and a direction in one that is next to its own,
so that nothing but a level can leave float32. A row is left if its scale is so small that a quotient might.
"""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.filters.lifts import L2, coded_components
from halfspace.cpu.filters.matrix import code_in_one_digit
from halfspace.cpu.formats import leading_bit, widen16
from halfspace.cpu.rounding import axes_left, norm_bound, prefix_margin, radius_factor, reach
from halfspace.cpu.runtime.jit import array_at, blank, hold, inlined, pointer
from halfspace.cpu.runtime.lanes import along_axes
from halfspace.model.filters.cells import AXES_STEP
from halfspace.model.layout import BLOCK, LOW_MIDDLE, TILE
from halfspace.model.rounding import PREFIX_SHARE

__all__ = [
    "AT_ONCE",
    "PARTS",
    "TWICE",
    "WHOLE",
    "Prefix",
    "addresses_of",
    "fill_prefix",
    "judge",
    "pack_prefix",
    "part_of",
]

PARTS, WHOLE = 2, 2  # parts of the axes, the first half or all; and the number of whole codes alone
AT_ONCE = 8
"""Directions that are brought along axes at once."""
TESTS = 10
"""What it costs to test a tile for a direction, in steps of four dimensions."""
TWICE = 2
"""A block that is multiplied alone costs so many times a quarter of a tile."""
MOSTLY = 3.75
"""Blocks of the four of a tile that may be left by half of the axes, for all of them to be tried."""
FINEST = 2.0**-20
"""Digits need not be finer than this part of a direction: then factors are moderate."""
MOST_RATIO, MOST_LIFT, MOST_LEVEL = 2.0**64, 2.0**40, 2.0**120
"""Rows with larger quotients are left, directions with larger lifts leave all; levels are cut off."""


class Prefix(NamedTuple):
    """Directions of each space and each part of the axes, in the order of `Matrix`; none where there are no axes."""

    digits: np.ndarray  # int8 (2 spaces, m', 64 columns)
    numbers: np.ndarray  # float32 (2 spaces, 5, m'): levels, factors, offsets, remainders (negative), lifts


@inlined
def fill_prefix(cells, directions, views, order, columns, span, out):
    """Code the directions at places [*span) of one space along the axes.

    directions, views : of this space; order : (m,), the direction at each place; columns : float32 (d, h), the axes
    out : the parts of this space, `Prefix` of (2, m', 64 columns) and (2, 5, m')
    """
    dim, count = columns.shape
    weights = array_at(cells.axes_weights, np.float32, count)
    rows, parts = blank((AT_ONCE, dim), np.float32), blank((AT_ONCE, count), np.float32)
    wide, units = blank(dim, np.float64), blank(AT_ONCE, np.float64)
    for first in range(span[0], span[1], AT_ONCE):
        last = min(first + AT_ONCE, span[1])
        for at in range(AT_ONCE):
            k = order[min(first + at, last - 1)]
            coded_components(directions[k], cells.centre, views[k].moved, wide)
            units[at] = leading_bit(views[k].norm) if views[k].norm > 0.0 else 1.0
            inverse = 1.0 / units[at]
            for j in range(dim):
                rows[at, j] = np.float32(wide[j] * inverse)
        along_axes(rows.ctypes.data, columns.ctypes.data, dim, count, parts.ctypes.data)
        for place in range(first, last):
            view, unit = views[order[place]], units[place - first]
            _fill_one(cells, view, unit, parts[place - first], weights, place, out)
    hold(rows)
    hold(parts)


@inlined
def _fill_one(cells, view, size, along, weights, place, out):
    """Code the direction at a place, whose parts along the axes are `along` (h,), measured in `size`."""
    count, share = along.size, cells.axes_spread
    norm, spans, squares = view.norm / size, 0.0, 0.0
    own = blank(count, np.float64)
    for part in range(PARTS):
        taken = count if part else count // 2
        for k in range(0 if part == 0 else count // 2, taken):
            value, weight = np.float64(along[k]), np.float64(weights[k])
            squares += value * value
            spans += weight * weight
            own[k] = value * weight
        length = norm_bound(squares, taken)
        least = 127.0 * FINEST * norm
        unit, rest, total, magnitude = code_in_one_digit(own, taken, least, out.digits[part, place])
        off = share * norm  # what the parts along the axes err by, times |z| <= 7.5 s |W| + r
        slack = reach(unit, rest, norm, LOW_MIDDLE * np.sqrt(taken), taken) + off * LOW_MIDDLE * norm_bound(
            spans, taken
        )
        remainder = radius_factor(axes_left(norm, length, share))
        step = unit * size * cells.axes_magnitude
        rise = cells.axes_magnitude if view.moved else 1.0  # with the metric "l2" a length is half a square
        level, lift = view.below / step, view.lift_below * rise / (unit * size)
        if not abs(lift) <= MOST_LIFT:
            level, lift = -np.inf, 0.0
        elif not abs(level) <= MOST_LEVEL:
            level = np.inf if level > 0.0 else -np.inf
        else:
            level, lift = level - abs(level) * PREFIX_SHARE, lift - abs(lift) * PREFIX_SHARE
        more = (1.0 + PREFIX_SHARE) / unit
        slack /= unit
        numbers = out.numbers[part, :, place]
        numbers[0], numbers[1] = np.float32(level), np.float32(radius_factor(length + off) * more)
        numbers[2] = np.float32(LOW_MIDDLE * np.float64(total) - slack - prefix_margin(np.float64(magnitude), slack))
        numbers[3], numbers[4] = np.float32(-remainder * more), np.float32(lift)


@inlined
def addresses_of(prefix, space, part, place):
    """Return the addresses of the numbers of 16 directions from a place on, and that of their digits."""
    spread, padded = PARTS * space + part, prefix.numbers.shape[2]
    row = prefix.numbers.ctypes.data + 4 * (5 * padded * spread + place)
    digits = prefix.digits.ctypes.data + (spread * padded + place) * prefix.digits.shape[2]
    return (row, row + 4 * padded, row + 8 * padded, row + 12 * padded, row + 16 * padded), digits


@inlined
def pack_prefix(cells, metric, part, first, columns, out):
    """Spread the codes along a part of the axes of rows [first, first + 64), and divide by their scales.

    out : address of the codes, uint8 (4 blocks, 16 columns, 16 vectors, 4); float32 (4, 64), which gets 1 / s, r / s,
        b / s and e / s, or 0
    """
    tile, numbers = out
    words = cells.axes // AXES_STEP
    for half in range(part + 1):
        for b in range(TILE // BLOCK):
            codes = pointer(cells.axes_codes[half] + 4 * words * (first + BLOCK * b), np.uint8)
            to = pointer(tile + (1024 * columns) * b + (128 * words) * half, np.uint8)
            for word in range(words):
                for i in range(TILE):
                    code = codes[TILE * word + i]
                    to[2 * TILE * word + i] = code & 15
                    to[2 * TILE * word + TILE + i] = code >> 4
    scales = pointer(cells.axes_scales, np.uint16)
    radii, rests = pointer(cells.axes_radii[part], np.uint16), pointer(cells.axes_rests[part], np.uint16)
    lengths, size = pointer(cells.lengths, np.float32), cells.axes_magnitude
    rise = 1.0 / size if metric == L2 else 1.0
    for i in range(TILE):
        scale = widen16(scales[first + i])
        inverse = 1.0 / scale if scale > 0.0 else np.inf
        ratio, rest = widen16(radii[first + i]) * inverse, widen16(rests[first + i]) * inverse
        length = 0.0 if cells.lengths == 0 else np.float64(lengths[first + i]) * rise * inverse
        numbers[0, i], numbers[1, i] = np.float32(size * inverse), np.float32(ratio)
        numbers[2, i], numbers[3, i] = np.float32(rest), np.float32(length)
        if not max(size * inverse, max(ratio, max(rest, length))) <= MOST_RATIO:
            numbers[0, i], numbers[1, i], numbers[2, i], numbers[3, i] = 0.0, np.inf, 0.0, 0.0


@inlined
def part_of(job, tile):
    """Return the part of the axes that a tile of the chunk is multiplied along first, or `WHOLE`."""
    if tile == 0:
        return 0
    return 1 if tile == 1 and job.another else job.part


@inlined
def judge(job, axes, tile, alive, blocks):
    """Note how many blocks the first tiles of a chunk, the number `tile`, had left for so many directions.

    The first one tries half of the axes; the second one tries all, where that might cost less. What costs least, in
    steps of blocks, is used for the rest.
    """
    whole, half = 2 * job.words, axes // 8
    most, each = 4 * alive * (whole + TESTS), 4 * alive * half
    cost = (1 + tile) * each + 4 * alive * TESTS + TWICE * blocks * whole
    if tile == 0:
        job.part, job.cost = (0 if cost < most else WHOLE), cost
        job.another = cost > 2 * each + 4 * alive * TESTS and blocks < MOSTLY * alive
    elif cost < min(job.cost, most):
        job.part = 1
