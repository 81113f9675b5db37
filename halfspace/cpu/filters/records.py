"""The records of the filters' data, one space of one segment each."""

from typing import Any

import numpy as np

from halfspace.model.filters.balls import Balls
from halfspace.model.filters.cells import Cells
from halfspace.model.filters.groups import LEVELS, Groups
from halfspace.model.layout import MODERATE
from halfspace.model.segment import address

__all__ = ["BALLS", "CELLS", "GROUPS", "cells_record", "fill_cells", "groups_record", "nothing_bounded"]

CELLS = np.dtype(
    [
        ("centre", np.int64),  # address of float32 (d,)
        ("weights", np.int64),  # address of float32 (d,)
        ("high", np.int64),  # address of uint8 (blocks, words, 16, 4)
        ("low", np.int64),  # address of uint8 (16 blocks, words, 4)
        ("scales", np.int64),  # address of bfloat16 (16 blocks,)
        ("high_radii", np.int64),  # address of bfloat16 (16 blocks,)
        ("low_radii", np.int64),  # address of bfloat16 (16 blocks,)
        ("peaks", np.int64),  # address of float32 (chunks,)
        ("high_span", np.float64),
        ("low_span", np.float64),
        ("lengths", np.int64),  # address of float32 (16 blocks,), or 0 with the metric "ip"
        ("slack", np.float64),  # how much lengths may lack beyond their share: 0, or infinity
        ("axes", np.int64),  # their number, h, or 0
        ("axes_matrix", np.int64),  # address of float32 (h, d)
        ("axes_weights", np.int64),  # address of float32 (h,)
        ("axes_spread", np.float64),
        ("axes_magnitude", np.float64),  # a power of two: the largest norm is below it, and at least half of it
        ("axes_codes", np.int64, (2,)),  # of each part: address of uint8 (blocks, words, 16, 4)
        ("axes_scales", np.int64),  # address of bfloat16 (16 blocks,)
        ("axes_radii", np.int64, (2,)),  # of each part: address of bfloat16 (16 blocks,)
        ("axes_rests", np.int64, (2,)),
    ]
)
"""Of `halfspace.model.filters.cells.Cells`."""

GROUPS = np.dtype(
    [
        ("centre", np.int64),  # address of float32 (d,)
        # of each row, addresses: uint8 (blocks, steps, 16, 4), float32 (16 blocks,), the same, the same or 0
        ("rows", np.int64, (4,)),
        ("groups", np.int64, (4,)),  # the same of each 16 rows
        ("chunks", np.int64, (4,)),  # the same of each 1,024 rows
        ("slack", np.float64),  # how much lengths may lack
    ]
)
"""Of `halfspace.model.filters.groups.Groups`."""

BALLS = np.dtype(
    [
        ("subspaces", np.int64),
        ("groups", np.int64),  # in each subspace
        ("bounds", np.int64),  # address of float32 (subspaces, groups, 2): lower and upper bounds
        ("holders", np.int64),  # address of int32 (subspaces, rows): the group that holds each row
        ("order", np.int64),  # address of int64 (subspaces,): the best subspace first
        ("rest", np.int64),  # address of float64 (subspaces + 1,): the largest bounds of the k-th and all after
        ("candidates", np.int64),  # address of uint8 (ceil(rows / 8),), a bit a row, or 0 where all rows are
        ("below", np.float64),  # a row whose upper bounds sum to less is dropped
        ("above", np.float64),  # a row whose lower bounds sum to as much is taken
    ]
)
"""Of `halfspace.model.filters.balls.Balls`, bounded for one direction."""


def cells_record(cells: Cells, space: int) -> np.ndarray:
    """Return CELLS (1,) of one space."""
    record = np.zeros(1, CELLS)
    fill_cells(cells, space, record[0])
    return record


def fill_cells(cells: Cells, space: int, row: Any) -> None:
    """Fill in a CELLS record of one space."""
    for name in ("centre", "weights", "high", "low", "scales", "peaks"):
        row[name] = address(getattr(cells, name)[space])
    row["high_radii"], row["low_radii"] = (address(radii) for radii in cells.radii[space])
    row["high_span"], row["low_span"] = cells.spans[space]
    if cells.lengths is not None:
        row["lengths"] = address(cells.lengths[space])
        row["slack"] = 0.0 if float(cells.peaks[space].max()) <= MODERATE else np.inf
    axes = cells.axes
    if axes is None:
        return
    row["axes"], row["axes_spread"] = axes.weights.shape[1], axes.spread[space]
    row["axes_magnitude"] = 2.0 ** int(np.frexp(cells.peaks[space].max())[1])
    row["axes_matrix"], row["axes_weights"] = address(axes.axes[space]), address(axes.weights[space])
    row["axes_scales"] = address(axes.scales[space])
    for name in ("codes", "radii", "rests"):
        row[f"axes_{name}"] = [address(part) for part in getattr(axes, name)[space]]


def groups_record(groups: Groups, space: int) -> np.ndarray:
    """Return GROUPS (1,) of one space."""
    record = np.zeros(1, GROUPS)
    record["centre"] = address(groups.centre[space])
    for field, level in zip(("rows", "groups", "chunks"), LEVELS, strict=True):
        codes = getattr(groups, level)
        parts = codes.codes, codes.scales, codes.radii, codes.lengths
        record[field] = [0 if part is None else address(part[space]) for part in parts]
    record["slack"] = 0.0 if groups.slack is None else groups.slack[space]
    return record


def nothing_bounded(balls: Balls, space: int) -> np.ndarray:
    """Return BALLS (1,) that bounds nothing yet; each direction has one of its own."""
    return np.zeros(1, BALLS)
