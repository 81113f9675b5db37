"""Cells: every vector is a ball of its own, whose centre lies on a lattice; see `halfspace.cpu.filters.cells`.

Cells made here have no principal axes: a GPU reads both planes of codes faster than it could decide by axes.
"""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.codes import COLUMNS, mean, warps
from halfspace.gpu.formats import BLOCK_ROWS
from halfspace.gpu.runtime.launch import STORED, Kernel, format_of
from halfspace.model.filters.cells import Cells
from halfspace.model.layout import BLOCK, CHUNK, TILE
from halfspace.runtime.progress import Advance, ignore

__all__ = ["encode"]

SAMPLE = 1 << 14
"""Rows from which spreads are estimated."""
PER_PART = 256
"""Rows of the sample that are summed as one part."""
MODERATE = (2.0**-40, 2.0**60)
"""The largest norm of a segment must lie between these, or all weights are 1."""

_peaks = Kernel(
    "cells.cu", "peaks_of_chunks", ("norms", np.float32), ("peaks", np.float32), ("spaces", int), ("rows", int)
)
_sum_spreads = Kernel(
    "mean.cu",
    "sum_spreads",
    ("vectors", STORED),
    ("centre", np.float32),
    ("sums", np.float64),
    *((name, int) for name in ("rows", "dim", "count", "per_part", "parts")),
)
_weigh = Kernel(
    "cells.cu",
    "weigh",
    ("sums", np.float64),
    ("peaks", np.float32),
    ("spreads", np.float64),
    ("weights", np.float32),
    *((name, int) for name in ("dim", "count", "parts", "all_peaks")),
    ("lowest", float),
    ("highest", float),
)
_encode = Kernel(
    "cells.cu",
    "encode_cells",
    ("vectors", STORED),
    ("centre", np.float32),
    ("weights", np.float32),
    ("high", np.uint8),
    ("low", np.uint8),
    ("scales", np.uint16),
    ("radii", np.uint16),
    ("longest", np.uint32),
    *((name, int) for name in ("spaces", "rows", "dim", "blocks")),
)
_spans = Kernel(
    "cells.cu", "spans_of_codes", ("longest", np.uint32), ("spans", np.float64), ("count", int), ("dim", int)
)


def _choose(vectors: Any, peaks: Any, threads: int) -> tuple[Any, Any]:
    """Choose centre and weights, each (spaces, d), for stored vectors (spaces, n, d)."""
    spaces, rows, dim = vectors.shape
    centre = mean(vectors, threads)
    count = min(rows, SAMPLE)
    parts = -(-count // PER_PART)
    sums = cp.empty((spaces, parts, 2, dim), np.float64)
    spreads = cp.empty((spaces, dim), np.float64)
    weights = cp.empty((spaces, dim), np.float32)
    _sum_spreads(
        (spaces * parts * -(-dim // COLUMNS),), 8 * COLUMNS, vectors, centre, sums, rows, dim, count, PER_PART, parts,
        format=format_of(vectors.dtype),
    )  # fmt: skip
    _weigh((spaces,), 256, sums, peaks, spreads, weights, dim, count, parts, peaks.size, *MODERATE)
    return centre, weights


def encode(vectors: Any, norms: Any, threads: int, like: Cells | None = None, advance: Advance = ignore) -> Cells:
    """Give every stored vector (spaces, n, d) its cell.

    norms : (spaces, n), upper bounds of the vectors' norms
    like : cells whose centre and weights are taken over, and axes, if they have any, with all that belongs to them
    advance : told of each component twice, as soon as all is launched

    Time O(n d); nothing waits for the GPU.
    """
    spaces, rows, dim = vectors.shape
    tiles, words = -(-rows // TILE), -(-dim // 8)
    peaks = cp.empty((spaces, -(-rows // CHUNK)), np.float32)
    _peaks((-(-peaks.size // (BLOCK_ROWS // 32)),), BLOCK_ROWS, norms, peaks, spaces, rows)
    centre, weights = _choose(vectors, peaks, threads) if like is None else (like.centre, like.weights)
    cells = Cells(
        centre,
        weights,
        cp.empty((spaces, 2), np.float64),
        cp.zeros((spaces, 4 * tiles, words, BLOCK, 4), np.uint8),
        cp.zeros((spaces, 4 * TILE * tiles * words + 64), np.uint8),
        cp.zeros((spaces, TILE * tiles), np.uint16),
        cp.zeros((spaces, 2, TILE * tiles), np.uint16),
        peaks,
        None if like is None else like.axes,
    )
    longest = cp.zeros((spaces, 2), np.uint32)
    _encode(
        warps(spaces, rows), BLOCK_ROWS, vectors, centre, weights, cells.high, cells.low, cells.scales, cells.radii,
        longest, spaces, rows, dim, 4 * tiles, format=format_of(vectors.dtype),
    )  # fmt: skip
    _spans((-(-longest.size // 256),), 256, longest, cells.spans, longest.size, dim)
    advance(2 * vectors.size)
    return cells
