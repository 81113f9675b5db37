"""What a batch needs of one segment's cells, made once for all the threads that share it."""

import numpy as np

from halfspace.cpu.directions import Directions
from halfspace.cpu.filters.matrix import LEAST, Matrix
from halfspace.cpu.filters.prefix import AT_ONCE, PARTS, Prefix, fill_prefix
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.filters.views import DIGITS, SHARED, VIEW, Seen, fill_seen
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import array_at, blank, compiled, record_at
from halfspace.cpu.runtime.records import DIRECTION, SEGMENT
from halfspace.cpu.runtime.simd import GROUP
from halfspace.model.filters.cells import Cells
from halfspace.model.layout import MODERATE, TILE
from halfspace.model.segment import address
from halfspace.model.table import Table

__all__ = ["share"]

PRODUCTS = 1 << 24
"""Products along axes that are done as one task."""

_MATRIX = ("order", "reach", "digits", "levels", "factors", "offsets", "lifts")


def share(table: Table, directions: Directions, threads: int) -> tuple[int, object]:
    """View directions from the only segment of a table, which has cells; returns a SHARED's address, and its owner."""
    cells = table.segments[0].data
    assert isinstance(cells, Cells)
    record = np.zeros(1, SHARED)
    spaces, (total, dim) = len(table.records), directions.wide.shape
    batch = total // spaces
    multiplied = spaces if batch >= LEAST and float(cells.peaks.max()) <= MODERATE else 0
    axes = 0 if multiplied or cells.axes is None else cells.axes.weights.shape[1]  # a product does without them
    padded = -(-batch // GROUP) * GROUP
    along = 0 if cells.axes is None or not multiplied else cells.axes.weights.shape[1]
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
        Prefix(
            np.zeros((PARTS * spaces if along else 0, padded, -(-along // TILE) * TILE), np.int8),
            np.zeros((PARTS * spaces if along else 0, 5, padded), np.float32),
        ),
    )
    sizes = total, dim
    _look(table.address, address(directions.records), sizes, address(seen.views), seen[1:3], tuple(seen.matrix))
    if along:
        assert cells.axes is not None
        seen.prefix.numbers[:, 0] = np.inf
        for space in range(spaces):
            columns = np.ascontiguousarray(cells.axes.axes[space].T)
            records = table.address, address(directions.records), address(seen.views)

            def code(span: tuple[int, int], space: int = space, columns: np.ndarray = columns) -> None:
                _look_along(records, sizes, space, seen.matrix.order[space], columns, span, tuple(seen.prefix))  # noqa: B023

            _threads.run(code, _threads.spans(batch, -(-batch * along * dim // PRODUCTS), AT_ONCE), threads)
    record["axes"], record["prefix_digits"] = along, address(seen.prefix.digits)
    record["prefix_numbers"] = address(seen.prefix.numbers)
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
        Prefix(blank((0, 0, 0), np.int8), blank((0, 0, 0), np.float32)),
    )
    own = array_at(table[0], SEGMENT, (table[1], table[2]))
    fill_seen(own, 0, array_at(directions, DIRECTION, total), dim, seen)


@compiled
def _look_along(addresses, sizes, space, order, columns, span, prefix):
    """Code the directions at places [*span) of one space along its axes.

    addresses : of the table, its spaces and segments; of directions; of views; prefix : the arrays of `Prefix`
    """
    table, directions, views = addresses
    total = sizes[0]
    batch, digits, numbers = total // table[1], prefix[0], prefix[1]
    own = array_at(table[0], SEGMENT, (table[1], table[2]))
    low, high = space * batch, (space + 1) * batch
    fill_prefix(
        record_at(own[space, 0].data, CELLS),
        array_at(directions, DIRECTION, total)[low:high],
        array_at(views, VIEW, total)[low:high],
        order,
        columns,
        span,
        Prefix(digits[PARTS * space : PARTS * (space + 1)], numbers[PARTS * space : PARTS * (space + 1)]),
    )
