"""Lengths of rows and of balls, which lift the thresholds of cosines and distances: `halfspace.model.metrics`."""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.codes import Bases, warps
from halfspace.gpu.formats import BLOCK_ROWS
from halfspace.gpu.runtime.launch import STORED, Kernel, format_of
from halfspace.model.layout import Codes
from halfspace.model.metrics import Metric
from halfspace.model.segment import address

__all__ = ["MEASURED", "fill_cosine", "fill_distances", "row_lengths"]

MOST = np.finfo(np.float32).max

_FIELDS = (
    *("centre", "bases", "extents", "codes", "scales", "radii", "lengths", "lacks"),
    *("spaces", "balls", "dim", "count", "per_base", "blocks", "steps"),
)
MEASURED = np.dtype([(name, np.int64) for name in _FIELDS])
"""The twin of the struct Measured in ``kernels/filters/lengths.cu``."""

_half_squares = Kernel(
    "filters/lengths.cu",
    "half_squares",
    ("vectors", STORED),
    ("centre", np.float32),
    ("lengths", np.float32),
    *((name, int) for name in ("spaces", "rows", "dim", "pitch")),
)
_least_norms = Kernel(
    "filters/lengths.cu",
    "least_norms",
    ("norms", np.float32),
    ("lengths", np.float32),
    *((name, int) for name in ("spaces", "rows", "size", "pitch")),
)
_lengths_of_balls = Kernel("filters/lengths.cu", "lengths_of_balls", ("level", MEASURED))


def row_lengths(vectors: Any, norms: Any, centre: Any, lengths: Any, metric: Metric) -> None:
    """Fill in the lengths (spaces, 16 blocks) of stored vectors (spaces, n, d), for cells."""
    spaces, rows, dim = vectors.shape
    if metric == Metric.L2:
        shape = spaces, rows, dim, lengths.shape[1]
        _half_squares(
            warps(spaces, rows), BLOCK_ROWS, vectors, centre, lengths, *shape, format=format_of(vectors.dtype)
        )
    else:
        lengths[:, :rows] = cp.minimum(norms, MOST)


def fill_cosine(norms: Any, level: Codes, size: int) -> None:
    """Fill in the least norm of each ball, of so many rows."""
    spaces, rows = norms.shape
    blocks = -(-spaces * -(-rows // size) // (BLOCK_ROWS // 32))
    assert level.lengths is not None
    _least_norms((blocks,), BLOCK_ROWS, norms, level.lengths, spaces, rows, size, level.lengths.shape[1])


def fill_distances(centre: Any, around: Bases, level: Codes, balls: int, lacks: Any) -> None:
    """Fill in the lengths of so many balls in each space, as seen from its centre, float64 (spaces, d).

    around : what they are coded around
    lacks : float64 (spaces,), raised to how much a length may lack
    """
    spaces, dim = centre.shape
    blocks, steps = level.codes.shape[1:3]
    assert level.lengths is not None
    places = centre, around.points, around.extents, level.codes, level.scales, level.radii, level.lengths, lacks
    numbers = spaces, balls, dim, around.points.shape[1], around.per_base, blocks, steps
    measured = np.array([(*map(address, places), *numbers)], MEASURED)
    _lengths_of_balls(warps(spaces, balls), BLOCK_ROWS, measured)
