"""Views: a direction and its threshold as the cells of one segment see them, coded in that segment's frame."""

from typing import NamedTuple

import numpy as np
from numba import carray

from halfspace.cpu.codes import thresholds
from halfspace.cpu.directions import code_in_digits
from halfspace.cpu.filters.matrix import LEAST, Matrix, blank_matrix, can_multiply, fill_matrix
from halfspace.cpu.rounding import norm_bound, radius_factor, reach
from halfspace.cpu.runtime.jit import inlined, multiply_add, pointer
from halfspace.cpu.runtime.records import CELLS

__all__ = ["VIEW", "Seen", "blank_seen", "fill_seen", "look", "view_one"]

DIGITS = 128
"""Digits are padded with zeros to a multiple of so many dimensions."""

VIEW = np.dtype(
    [
        ("below", np.float64),  # thresholds seen from the segment's centre: drop what cannot reach this
        ("above", np.float64),  # and take what cannot fail this
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
    digits: np.ndarray  # int8 (total, 4, stride): in order of dimensions, and as `row_dot` takes them
    axes_digits: np.ndarray  # int8 (total, 2, stride)
    matrix: Matrix  # of no directions where they are not multiplied


@inlined
def blank_seen(total, batch, dim, axes, multiplied):
    """Make room for views along so many axes, and for a matrix in so many spaces."""
    return Seen(
        np.zeros(total, VIEW),
        np.zeros((total, 4, (dim + DIGITS - 1) // DIGITS * DIGITS), np.int8),
        np.zeros((total, 2, axes), np.int8),
        blank_matrix(multiplied, batch, dim),
    )


@inlined
def look(table, which, directions, tau):
    """View all directions (total,) from segment `which` of a table (spaces, segments); it has cells."""
    spaces = table.shape[0]
    total, dim = directions.wide.shape
    batch = total // spaces
    first = carray(pointer(table[0, which].cells, CELLS), 1)[0]
    multiplied = batch >= LEAST
    for space in range(spaces):
        cells = carray(pointer(table[space, which].cells, CELLS), 1)[0]
        multiplied = multiplied and can_multiply(cells, table[space, which].rows)
    axes = 0 if multiplied else first.axes  # a matrix product does without them
    seen = blank_seen(total, batch, dim, axes, spaces if multiplied else 0)
    fill_seen(table, which, directions, tau, seen)
    return seen


@inlined
def fill_seen(table, which, directions, tau, seen):
    """Fill in the views of all directions (total,) from segment `which` of a table (spaces, segments)."""
    spaces = table.shape[0]
    wide, plans = directions.wide, directions.plans
    total, dim = wide.shape
    batch = total // spaces
    multiplied, axes = seen.matrix.order.shape[0] > 0, seen.axes_digits.shape[2]
    scaled = np.empty(dim)
    for space in range(spaces):
        cells = carray(pointer(table[space, which].cells, CELLS), 1)[0]
        low, high = space * batch, (space + 1) * batch
        for k in range(low, high):
            view_one(cells, wide[k], plans[k], tau[k], scaled, seen.digits[k], seen.views[k])
            if axes:
                _view_axes(cells, wide[k], plans[k], scaled, seen.axes_digits[k], seen.views[k])
        if multiplied:
            fill_matrix(cells, plans[low:high], seen.views[low:high], tau[low:high], wide[low:high], space, seen.matrix)


@inlined
def view_one(cells, wide, plan, tau, scaled, digits, out):
    """Fill in the view of one direction, but for the axes.

    cells : a CELLS record; wide, plan : the direction (d,), as in `halfspace.cpu.directions.Directions`
    scaled : float64 (d,), scratch; digits : int8 (4, stride), zero; out : a VIEW
    """
    dim = wide.size
    centre = carray(pointer(cells.centre, np.float32), dim)
    weights = carray(pointer(cells.weights, np.float32), dim)
    out.below, out.above = thresholds(wide, plan, tau, centre)
    out.factor = radius_factor(plan.norm)
    for j in range(dim):
        scaled[j] = wide[j] * np.float64(weights[j])
    unit, rest, total = code_in_digits(scaled, dim, digits[:2])
    out.unit, out.digit_sum = unit, total
    out.high_slack = reach(unit, rest, plan.norm, cells.high_span, dim)
    out.low_slack = reach(unit, rest, plan.norm, cells.low_span, dim)
    out.digits, out.stride = digits.ctypes.data, digits.shape[1]
    out.row_digits = out.digits + 2 * out.stride
    own, row = pointer(out.digits, np.int32), pointer(out.row_digits, np.int32)
    for word in range(0, 2 * out.stride // 4, 32):
        for i in range(16):
            row[word + i] = own[word + 2 * i]
            row[word + 16 + i] = own[word + 2 * i + 1]


@inlined
def _view_axes(cells, wide, plan, along, digits, out):
    dim, count = wide.size, cells.axes
    matrix = carray(pointer(cells.axes_matrix, np.float32), (count, dim))
    weights = carray(pointer(cells.axes_weights, np.float32), count)
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
            left = plan.norm * plan.norm * (1.0 + 2.0**-34) - total * (1.0 - cells.axes_spread)
            out.axes_remainders[part] = radius_factor(np.sqrt(max(left, 0.0)))
    for k in range(count):
        along[k] *= np.float64(weights[k])
    unit, rest, _ = code_in_digits(along, count, digits)
    out.axes_unit = unit
    out.axes_slack = reach(unit, rest, plan.norm, 7.5 * np.sqrt(count), count)
    half = count // 2
    for part in range(2):
        own = np.int64(0)
        for k in range(part * half, (part + 1) * half):
            own += 256 * np.int64(digits[0, k]) + np.int64(digits[1, k])
        out.axes_sums[part] = own
    out.axes_digits, out.axes_stride = digits.ctypes.data, digits.shape[1]
