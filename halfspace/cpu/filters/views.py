"""Views: a direction and its threshold as the cells of one segment see them, coded in that segment's frame."""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.codes import thresholds
from halfspace.cpu.directions import code_in_digits
from halfspace.cpu.filters.lifts import L2, LIFT_FIELDS, coded_components, cone, sphere
from halfspace.cpu.filters.matrix import LEAST, Matrix, blank_matrix, can_multiply, fill_matrix
from halfspace.cpu.filters.prefix import PARTS, Prefix
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.rounding import norm_bound, radius_factor, reach
from halfspace.cpu.runtime.jit import array_at, blank, borrowed, cleared, inlined, multiply_add, pointer, record_at
from halfspace.cpu.runtime.simd import GROUP
from halfspace.model.layout import LOW_MIDDLE, TILE

__all__ = ["SHARED", "VIEW", "Seen", "blank_seen", "borrow_seen", "fill_seen", "look", "view_one"]

DIGITS = 128
"""Digits are padded with zeros to a multiple of so many dimensions."""

VIEW = np.dtype(
    [
        *LIFT_FIELDS,
        ("norm", np.float64),  # upper bound of that of the direction that is coded: q, or q - m with the metric "l2"
        ("moved", np.int64),  # whether it is q - m
        ("factor", np.float64),  # of a radius
        ("unit", np.float64),  # a
        ("digit_sum", np.float64),  # sum of A_j
        ("high_slack", np.float64),  # k of the high codes, per unit of scale
        ("low_slack", np.float64),  # k of the whole codes
        ("digits", np.int64),  # address of int8 (2, stride)
        ("row_digits", np.int64),  # address of int8 (2, stride), the same as `row_dot` takes them
        ("stride", np.int64),
        ("axes_unit", np.float64),
        ("axes_sums", np.float64, (2,)),  # of each part: sum of its A_j
        ("axes_slack", np.float64),
        ("axes_factors", np.float64, (2,)),  # after each part: |p|
        ("axes_remainders", np.float64, (2,)),  # after each part: |g|
        ("axes_digits", np.int64),  # address of int8 (2, axes_stride)
        ("axes_stride", np.int64),
    ]
)
"""What the tests of cells need to know of a direction."""


class Seen(NamedTuple):
    """All directions, seen from one segment in each space."""

    views: np.ndarray  # VIEW (total,)
    digits: np.ndarray  # int8 (total, 4, stride): in order of dimensions, and as `row_dot` takes them;
    # of no directions where they are multiplied
    axes_digits: np.ndarray  # int8 (total, 2, stride)
    matrix: Matrix  # of no directions where they are not multiplied
    prefix: Prefix  # of none where there are no axes, or where nothing is shared


@inlined
def blank_seen(total, batch, dim, axes, multiplied):
    """Make room for views along so many axes, and for a matrix in so many spaces."""
    return Seen(
        cleared(total, VIEW),
        cleared((0 if multiplied else total, 4, (dim + DIGITS - 1) // DIGITS * DIGITS), np.int8),
        cleared((total, 2, axes), np.int8),
        blank_matrix(multiplied, batch, dim),
        Prefix(blank((0, 0, 0), np.int8), blank((0, 0, 0), np.float32)),
    )


@inlined
def look(table, which, directions, dim, shared):
    """View all directions from segment `which` of a table (spaces, segments), unless it has no cells.

    shared : address of what `halfspace.cpu.filters.prepared` has made of it, or 0
    """
    if shared != 0:
        return _shared_seen(shared, table.shape[0], directions.size, dim)
    spaces, total = table.shape[0], directions.size
    if table[0, which].data == 0:
        return blank_seen(0, 0, dim, 0, 0)
    batch = total // spaces
    first = record_at(table[0, which].data, CELLS)
    multiplied = batch >= LEAST
    for space in range(spaces):
        cells = record_at(table[space, which].data, CELLS)
        multiplied = multiplied and can_multiply(cells, table[space, which].rows)
    axes = 0 if multiplied else first.axes  # a matrix product does without them
    seen = blank_seen(total, batch, dim, axes, spaces if multiplied else 0)
    fill_seen(table, which, directions, dim, seen)
    return seen


@inlined
def fill_seen(table, which, directions, dim, seen):
    """Fill in the views of all directions (total,) from segment `which` of a table (spaces, segments)."""
    spaces = table.shape[0]
    batch = directions.size // spaces
    multiplied, axes = seen.matrix.order.shape[0] > 0, seen.axes_digits.shape[2]
    scaled = blank(dim, np.float64)
    for space in range(spaces):
        cells = record_at(table[space, which].data, CELLS)
        low, high = space * batch, (space + 1) * batch
        for k in range(low, high):
            if cells.lengths == 0:
                _aim(cells, directions[k], scaled, seen.views[k])
            else:
                _aim_lifted(cells, directions[k], scaled, seen.views[k])
            if not multiplied:
                _code(cells, scaled, seen.digits[k], seen.views[k])
            if axes:
                _view_axes(cells, directions[k], scaled, seen.axes_digits[k], seen.views[k])
        if multiplied:
            fill_matrix(cells, directions[low:high], seen.views[low:high], dim, space, seen.matrix)


SHARED = np.dtype(
    [
        ("views", np.int64),  # addresses of the arrays of `Seen`
        ("multiplied", np.int64),  # whether the directions meet the cells in a matrix product
        ("order", np.int64),  # of `halfspace.cpu.filters.matrix.Matrix`
        ("reach", np.int64),
        ("digits", np.int64),
        ("levels", np.int64),
        ("factors", np.int64),
        ("offsets", np.int64),
        ("lifts", np.int64),
        ("axes", np.int64),  # how many axes come first in the product, or 0
        ("prefix_digits", np.int64),  # of `halfspace.cpu.filters.prefix.Prefix`
        ("prefix_numbers", np.int64),
    ]
)
"""What was seen of all directions, for all threads."""


@inlined
def borrow_seen(seen):
    """View what is seen, so that handing it on costs no counting of references."""
    matrix = seen.matrix
    return Seen(
        borrowed(seen.views),
        borrowed(seen.digits),
        borrowed(seen.axes_digits),
        Matrix(
            borrowed(matrix.order),
            borrowed(matrix.reach),
            borrowed(matrix.digits),
            borrowed(matrix.levels),
            borrowed(matrix.factors),
            borrowed(matrix.offsets),
            borrowed(matrix.lifts),
        ),
        Prefix(borrowed(seen.prefix.digits), borrowed(seen.prefix.numbers)),
    )


@inlined
def _shared_seen(address, spaces, count, dim):
    """Read the views at the address of a SHARED record; the digits that they refer to are left out."""
    shared = record_at(address, SHARED)
    multiplied = spaces if shared.multiplied else 0
    batch = count // spaces
    padded = (batch + GROUP - 1) // GROUP * GROUP
    columns = (dim + TILE - 1) // TILE
    parts = PARTS * multiplied if shared.axes else 0
    return Seen(
        array_at(shared.views, VIEW, count),
        blank((0, 4, 0), np.int8),
        blank((0, 2, 0), np.int8),
        Matrix(
            array_at(shared.order, np.int64, (multiplied, batch)),
            array_at(shared.reach, np.float64, (multiplied, batch)),
            array_at(shared.digits, np.int8, (multiplied, padded, TILE * columns)),
            array_at(shared.levels, np.float32, (multiplied, padded)),
            array_at(shared.factors, np.float32, (multiplied, padded)),
            array_at(shared.offsets, np.float32, (multiplied, padded)),
            array_at(shared.lifts, np.float32, (multiplied, padded)),
        ),
        Prefix(
            array_at(shared.prefix_digits, np.int8, (parts, padded, (shared.axes + TILE - 1) // TILE * TILE)),
            array_at(shared.prefix_numbers, np.float32, (parts, 5, padded)),
        ),
    )


@inlined
def view_one(cells, direction, scaled, digits, out):
    """Fill in the view of one direction with the metric "ip", but for the axes.

    cells : a CELLS record; direction : a DIRECTION
    scaled : float64 (d,), to work in; digits : int8 (4, stride), zero; out : a VIEW
    """
    _aim(cells, direction, scaled, out)
    _code(cells, scaled, digits, out)


@inlined
def _aim(cells, direction, scaled, out):
    """See the threshold of a direction from the centre, with the metric "ip"; scaled : (d,), gets what is coded."""
    wide = array_at(direction.wide, np.float64, scaled.size)
    out.below, out.above = thresholds(wide, direction, array_at(cells.centre, np.float32, scaled.size))
    out.lift_below, out.lift_above, out.moved, out.norm = 0.0, 0.0, 0, direction.norm
    for j in range(scaled.size):
        scaled[j] = wide[j]


@inlined
def _aim_lifted(cells, direction, scaled, out):
    """Do as `_aim` does, with the other metrics."""
    wide = array_at(direction.wide, np.float64, scaled.size)
    centre = array_at(cells.centre, np.float32, scaled.size)
    out.moved = direction.metric == L2
    if out.moved:
        out.norm = sphere(wide, direction, centre, cells.slack, scaled, out)
        return
    cone(wide, direction, centre, cells.slack, out)
    out.norm = direction.norm
    for j in range(scaled.size):
        scaled[j] = wide[j]


@inlined
def _code(cells, scaled, digits, out):
    """Code a direction (d,), which gets the weights' factors, and fill in what follows from its codes."""
    dim = scaled.size
    weights = array_at(cells.weights, np.float32, dim)
    norm, out.factor = out.norm, radius_factor(out.norm)
    for j in range(dim):
        scaled[j] *= np.float64(weights[j])
    unit, rest, total = code_in_digits(scaled, dim, digits[:2])
    out.unit, out.digit_sum = unit, total
    out.high_slack = reach(unit, rest, norm, cells.high_span, dim)
    out.low_slack = reach(unit, rest, norm, cells.low_span, dim)
    out.digits, out.stride = digits.ctypes.data, digits.shape[1]
    out.row_digits = out.digits + 2 * out.stride
    own, row = pointer(out.digits, np.int32), pointer(out.row_digits, np.int32)
    for word in range(0, 2 * out.stride // 4, 32):
        for i in range(16):
            row[word + i] = own[word + 2 * i]
            row[word + 16 + i] = own[word + 2 * i + 1]


@inlined
def _view_axes(cells, direction, along, digits, out):
    dim, count = along.size, cells.axes
    wide = blank(dim, np.float64)
    coded_components(direction, cells.centre, out.moved, wide)
    matrix = array_at(cells.axes_matrix, np.float32, (count, dim))
    weights = array_at(cells.axes_weights, np.float32, count)
    total = 0.0
    for k in range(count):
        axis = matrix[k]
        product = 0.0
        for j in range(dim):
            product = multiply_add(product, wide[j], np.float64(axis[j]))
        along[k] = product
        total += product * product
        if k == count // 2 - 1 or k == count - 1:
            part = k // (count // 2)
            out.axes_factors[part] = radius_factor(norm_bound(total, count))
            left = out.norm * out.norm * (1.0 + 2.0**-34) - total * (1.0 - cells.axes_spread)
            out.axes_remainders[part] = radius_factor(np.sqrt(max(left, 0.0)))
    for k in range(count):
        along[k] *= np.float64(weights[k])
    unit, rest, _ = code_in_digits(along, count, digits)
    out.axes_unit = unit
    out.axes_slack = reach(unit, rest, out.norm, LOW_MIDDLE * np.sqrt(count), count)
    half = count // 2
    for part in range(2):
        own = np.int64(0)
        for k in range(part * half, (part + 1) * half):
            own += 256 * np.int64(digits[0, k]) + np.int64(digits[1, k])
        out.axes_sums[part] = own
    out.axes_digits, out.axes_stride = digits.ctypes.data, digits.shape[1]
