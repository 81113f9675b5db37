"""What a batch needs of one segment, made once for all the threads that share it."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import carray

from halfspace.cpu.directions import PLAN, Directions
from halfspace.cpu.exact import reachable
from halfspace.cpu.filters.matrix import LEAST, Matrix
from halfspace.cpu.filters.views import DIGITS, VIEW, Seen, fill_seen
from halfspace.cpu.runtime.jit import compiled, inlined, pointer
from halfspace.cpu.runtime.records import SEGMENT
from halfspace.cpu.runtime.simd import GROUP
from halfspace.model.filters.cells import Cells
from halfspace.model.layout import MODERATE, TILE
from halfspace.model.segment import address
from halfspace.model.table import Table

__all__ = ["READY", "Ready", "ready_directions", "ready_for", "ready_seen"]

READY = np.dtype(
    [
        ("wide", np.int64),  # addresses of the arrays of `halfspace.cpu.directions.Directions`
        ("digits", np.int64),
        ("plans", np.int64),
        ("views", np.int64),  # of `halfspace.cpu.filters.views.Seen`, or 0 where the segment has no cells
        ("multiplied", np.int64),  # whether the directions meet the cells in a matrix product
        ("order", np.int64),  # of `halfspace.cpu.filters.matrix.Matrix`
        ("reach", np.int64),
        ("matrix_digits", np.int64),
        ("levels", np.int64),
        ("factors", np.int64),
        ("offsets", np.int64),
    ]
)


_MATRIX = ("order", "reach", "matrix_digits", "levels", "factors", "offsets")


class Ready(NamedTuple):
    """A READY record (1,), and the arrays that it refers to."""

    record: np.ndarray
    directions: Directions
    seen: Seen | None


def ready_for(table: Table, directions: Directions, tau: npt.NDArray[np.float64], cells: Cells | None) -> Ready:
    """Make a batch ready for the only segment of a table, which has these cells, or none."""
    record = np.zeros(1, READY)
    for name in ("wide", "digits", "plans"):
        record[name] = address(getattr(directions, name))
    if cells is None:
        return Ready(record, directions, None)
    spaces, (total, dim) = len(table.records), directions.wide.shape
    batch = total // spaces
    multiplied = spaces if batch >= LEAST and float(cells.peaks.max()) <= MODERATE else 0
    axes = 0 if multiplied or cells.axes is None else cells.axes.weights.shape[1]  # a product does without them
    padded = -(-batch // GROUP) * GROUP
    levels = (np.full((multiplied, padded), value, np.float32) for value in (np.inf, 0.0, 0.0))
    seen = Seen(
        np.zeros(total, VIEW),
        np.zeros((total, 4, -(-dim // DIGITS) * DIGITS), np.int8),
        np.zeros((total, 2, axes), np.int8),
        Matrix(
            np.empty((multiplied, batch), np.int64),
            np.empty((multiplied, batch)),
            np.zeros((multiplied, padded, -(-dim // TILE) * TILE), np.int8),
            *levels,
        ),
    )
    places = address(directions.plans), address(seen.views)
    _look_at(
        *table.place, directions.narrow, directions.wide, *places, tau, seen.digits, seen.axes_digits, *seen.matrix
    )
    record["views"], record["multiplied"] = address(seen.views), multiplied
    for name, part in zip(_MATRIX, seen.matrix, strict=True):
        record[name] = address(part)
    return Ready(record, directions, seen)


@compiled
def _look_at(
    place, spaces, segments, narrow, wide, plans, views, tau, digits, axes_digits, order, reach, matrix_digits, levels,
    factors, offsets,
):  # fmt: skip
    """Fill in the parts of `Seen`; plans, views : addresses."""
    table = carray(pointer(place, SEGMENT), (spaces, segments))
    reached = np.empty_like(tau)
    for k in range(tau.size):
        reached[k] = reachable(tau[k])
    total = tau.size
    matrix = Matrix(order, reach, matrix_digits, levels, factors, offsets)
    seen = Seen(carray(pointer(views, VIEW), total), digits, axes_digits, matrix)
    no_digits = np.empty((0, 0, 2, 4), np.int8)
    fill_seen(table, 0, Directions(narrow, wide, no_digits, carray(pointer(plans, PLAN), total)), reached, seen)


@inlined
def ready_directions(ready, narrow):
    """Read the directions (m, d) that are ready."""
    count, dim = narrow.shape
    return Directions(
        narrow,
        carray(pointer(ready.wide, np.float64), (count, dim)),
        carray(pointer(ready.digits, np.int8), (count, (dim + 3) // 4, 2, 4)),
        carray(pointer(ready.plans, PLAN), count),
    )


@inlined
def ready_seen(ready, spaces, count, dim):
    """Read the views that are ready; the digits that they refer to are left out."""
    multiplied = spaces if ready.multiplied else 0
    batch = count // spaces
    padded = (batch + GROUP - 1) // GROUP * GROUP
    columns = (dim + TILE - 1) // TILE
    return Seen(
        carray(pointer(ready.views, VIEW), count if ready.views else 0),
        np.empty((0, 4, 0), np.int8),
        np.empty((0, 2, 0), np.int8),
        Matrix(
            carray(pointer(ready.order, np.int64), (multiplied, batch)),
            carray(pointer(ready.reach, np.float64), (multiplied, batch)),
            carray(pointer(ready.matrix_digits, np.int8), (multiplied, padded, TILE * columns)),
            carray(pointer(ready.levels, np.float32), (multiplied, padded)),
            carray(pointer(ready.factors, np.float32), (multiplied, padded)),
            carray(pointer(ready.offsets, np.float32), (multiplied, padded)),
        ),
    )
