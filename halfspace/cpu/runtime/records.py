"""Segments as kernels see them: records of addresses, which own nothing."""

from typing import Any

import numpy as np

from halfspace.model.filters.cells import Cells
from halfspace.model.filters.groups import Groups
from halfspace.model.segment import Segment, address

__all__ = ["BALLS", "CELLS", "SEGMENT", "tabulate", "tabulate_cells"]

SEGMENT = np.dtype(
    [
        ("rows", np.int64),
        ("ids", np.int64),  # address of int64 (rows,)
        ("vectors", np.int64),  # address of stored (rows, d)
        ("norms", np.int64),  # address of float32 (rows,)
        ("grain", np.float64),
        ("excluded", np.int64),  # address of uint8 (ceil(rows / 8),), a bit a row, or 0
        ("cells", np.int64),  # address of one CELLS record, or 0
        ("centre", np.int64),  # groups: address of float32 (d,)
        ("codes", np.int64),  # balls of rows: address of uint8 (blocks, steps, 16, 4), or 0
        ("scales", np.int64),  # address of float32 (16 blocks,)
        ("radii", np.int64),  # address of float32 (16 blocks,)
        ("group_codes", np.int64),  # the same of each 16 rows
        ("group_scales", np.int64),
        ("group_radii", np.int64),
        ("chunk_codes", np.int64),  # the same of each 1,024 rows
        ("chunk_scales", np.int64),
        ("chunk_radii", np.int64),
        ("balls", np.int64),  # address of one BALLS record, or 0
    ]
)
"""One space of one segment."""

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
        ("axes", np.int64),  # their number, h, or 0
        ("axes_matrix", np.int64),  # address of float32 (h, d)
        ("axes_weights", np.int64),  # address of float32 (h,)
        ("axes_spread", np.float64),
        ("axes_codes", np.int64, (2,)),  # of each part: address of uint8 (blocks, words, 16, 4)
        ("axes_scales", np.int64),  # address of bfloat16 (16 blocks,)
        ("axes_radii", np.int64, (2,)),  # of each part: address of bfloat16 (16 blocks,)
        ("axes_rests", np.int64, (2,)),
    ]
)
"""The cells of one space of one segment."""

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
"""The balls of one space of one segment, bounded for one direction."""


def tabulate(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """Return SEGMENT (spaces,), and what it refers to beside the segment's own arrays."""
    kept = segment.kept
    known: tuple[np.ndarray, np.ndarray] | None = kept.get("cpu")
    return known or kept.setdefault("cpu", _tabulate(segment))


def _tabulate(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    spaces = segment.vectors.shape[0]
    records = np.zeros(spaces, SEGMENT)
    cells = np.zeros(spaces if segment.filter == "cells" else 0, CELLS)
    for space in range(spaces):
        row = records[space]
        row["rows"], row["ids"], row["grain"] = segment.rows, address(segment.ids), segment.grain
        row["vectors"], row["norms"] = address(segment.vectors[space]), address(segment.norms[space])
        row["excluded"] = 0 if segment.dead is None else address(segment.dead)
        if segment.filter == "cells":
            tabulate_cells(segment.data, space, cells[space])
            row["cells"] = address(cells[space : space + 1])
        if segment.filter == "groups":
            _tabulate_groups(segment.data, space, row)
    return records, cells


def tabulate_cells(cells: Cells, space: int, row: Any) -> None:
    """Fill in a CELLS record of one space."""
    for name in ("centre", "weights", "high", "low", "scales", "peaks"):
        row[name] = address(getattr(cells, name)[space])
    row["high_radii"], row["low_radii"] = (address(radii) for radii in cells.radii[space])
    row["high_span"], row["low_span"] = cells.spans[space]
    axes = cells.axes
    if axes is None:
        return
    row["axes"], row["axes_spread"] = axes.weights.shape[1], axes.spread[space]
    row["axes_matrix"], row["axes_weights"] = address(axes.axes[space]), address(axes.weights[space])
    row["axes_scales"] = address(axes.scales[space])
    for name in ("codes", "radii", "rests"):
        row[f"axes_{name}"] = [address(part) for part in getattr(axes, name)[space]]


def _tabulate_groups(groups: Groups, space: int, row: Any) -> None:
    row["centre"] = address(groups.centre[space])
    for level, prefix in ((groups.cells, ""), (groups.groups, "group_"), (groups.chunks, "chunk_")):
        for name in ("codes", "scales", "radii"):
            row[f"{prefix}{name}"] = address(getattr(level, name)[space])
