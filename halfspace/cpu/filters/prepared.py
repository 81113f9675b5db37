"""What a batch needs of one segment's cells, made once for all the threads that share it."""

import numpy as np

from halfspace.cpu.directions import Directions
from halfspace.cpu.filters.matrix import LEAST, Matrix
from halfspace.cpu.filters.views import DIGITS, SHARED, VIEW, Seen, fill_seen
from halfspace.cpu.runtime.jit import array_at, compiled
from halfspace.cpu.runtime.records import DIRECTION, SEGMENT
from halfspace.cpu.runtime.simd import GROUP
from halfspace.model.filters.cells import Cells
from halfspace.model.layout import MODERATE, TILE
from halfspace.model.segment import address
from halfspace.model.table import Table

__all__ = ["share"]

_MATRIX = ("order", "reach", "digits", "levels", "factors", "offsets", "lifts")


def share(table: Table, directions: Directions) -> tuple[int, object]:
    """View directions from the only segment of a table, which has cells; returns a SHARED's address, and its owner."""
    cells = table.segments[0].data
    assert isinstance(cells, Cells)
    record = np.zeros(1, SHARED)
    spaces, (total, dim) = len(table.records), directions.wide.shape
    batch = total // spaces
    multiplied = spaces if batch >= LEAST and float(cells.peaks.max()) <= MODERATE else 0
    axes = 0 if multiplied or cells.axes is None else cells.axes.weights.shape[1]  # a product does without them
    padded = -(-batch // GROUP) * GROUP
    levels = (np.full((multiplied, padded), value, np.float32) for value in (np.inf, 0.0, 0.0, 0.0))
    seen = Seen(
        np.zeros(total, VIEW),
        np.zeros((0 if multiplied else total, 4, -(-dim // DIGITS) * DIGITS), np.int8),
        np.zeros((total, 2, axes), np.int8),
        Matrix(
            np.empty((multiplied, batch), np.int64),
            np.empty((multiplied, batch)),
            np.zeros((multiplied, padded, -(-dim // TILE) * TILE), np.int8),
            *levels,
        ),
    )
    sizes = total, dim
    _look(table.address, address(directions.records), sizes, address(seen.views), seen[1:3], tuple(seen.matrix))
    record["views"], record["multiplied"] = address(seen.views), multiplied
    for name, part in zip(_MATRIX, seen.matrix, strict=True):
        record[name] = address(part)
    return address(record), (record, directions, seen)


@compiled
def _look(table, directions, sizes, views, digits, matrix):
    """Fill in the parts of `Seen`.

    table : address, spaces and segments; directions, views : addresses; digits, matrix : the arrays of it
    """
    total, dim = sizes
    order, reach, matrix_digits, levels, factors, offsets, lifts = matrix
    seen = Seen(
        array_at(views, VIEW, total),
        digits[0],
        digits[1],
        Matrix(order, reach, matrix_digits, levels, factors, offsets, lifts),
    )
    own = array_at(table[0], SEGMENT, (table[1], table[2]))
    fill_seen(own, 0, array_at(directions, DIRECTION, total), dim, seen)
