"""Balls with lattice-coded centres; see `halfspace.cpu.codes`."""

from typing import Any, NamedTuple

import cupy as cp
import numpy as np

from halfspace.gpu.formats import BLOCK_ROWS
from halfspace.gpu.runtime.launch import STORED, Kernel, format_of
from halfspace.model.layout import Codes
from halfspace.model.metrics import Metric

__all__ = ["CODING", "Bases", "Members", "blank", "mean", "put_balls", "put_rows", "warps", "widen_centre"]

PARTS = 1024
"""Rows that are summed as one part of a mean, and the most parts that there are."""
COLUMNS = 32
"""Dimensions of a block of threads that sums rows, 8 for each."""

_FIELDS = ("spaces", "rows", "dim", "low", "width", "size", "balls", "bases", "per_base", "blocks", "steps")
CODING = np.dtype([(name, np.int64) for name in _FIELDS])
"""The twin of the struct Coding in ``kernels/codes.cu``."""

_sum_rows = Kernel(
    "mean.cu",
    "sum_rows",
    ("vectors", STORED),
    ("sums", np.float64),
    *((name, int) for name in ("rows", "dim", "per_part", "parts")),
)
_mean_of_sums = Kernel(
    "mean.cu",
    "mean_of_sums",
    ("sums", np.float64),
    ("means", np.float32),
    *((name, int) for name in ("rows", "dim", "parts")),
)
_widen_centre = Kernel("codes.cu", "widen_centre", ("centre", np.float32), ("wide", np.float64), ("size", int))
_average = Kernel(
    "codes.cu",
    "average_balls",
    ("vectors", STORED),
    ("members", np.int32, None),
    ("middles", np.float64),
    ("coding", CODING),
)
_code = Kernel(
    "codes.cu",
    "code_balls",
    ("middles", np.float64),
    ("bases", np.float64),
    ("base_extents", np.float64),
    ("extents", np.float64),
    ("codes", np.uint8),
    ("scales", np.float32),
    ("coding", CODING),
)
_reach = Kernel(
    "codes.cu",
    "reach_of_balls",
    ("vectors", STORED),
    ("members", np.int32, None),
    ("holders", np.int32, None),
    ("middles", np.float64),
    ("farthest", np.uint64),
    ("coding", CODING),
)
_radii = Kernel(
    "codes.cu",
    "radii_of_balls",
    ("farthest", np.uint64),
    ("extents", np.float64),
    ("radii", np.float32),
    ("coding", CODING),
)
_put_rows = Kernel(
    "codes.cu",
    "put_rows",
    ("vectors", STORED),
    ("bases", np.float64),
    ("extents", np.float64),
    ("codes", np.uint8),
    ("scales", np.float32),
    ("radii", np.float32),
    ("coding", CODING),
)


class Members(NamedTuple):
    """Which rows are in which ball, and the dimensions that these are about."""

    size: int  # rows in a ball
    low: int = 0  # the first dimension
    members: Any = None  # int32 (spaces, n), the rows, ball after ball; None: in their own order
    holders: Any = None  # int32 (spaces, n), gets the ball of each row; None: nobody wants to know


class Bases(NamedTuple):
    """What balls are coded around."""

    points: Any  # float64 (spaces, bases, width)
    extents: Any  # float64 (spaces, bases), the sum of the norms of the computed centres that a base consists of
    per_base: int  # ball i is coded around base i // per_base


def warps(spaces: int, rows: int) -> tuple[int]:
    """Blocks of threads for kernels with a thread for each row, and no warp in two spaces."""
    return (-(-spaces * -(-rows // 32) // (BLOCK_ROWS // 32)),)


def mean(vectors: Any, threads: int) -> Any:
    """Mean of each space of stored vectors (spaces, n, d), in a fixed order of summation."""
    spaces, rows, dim = vectors.shape
    per_part = max(PARTS, -(-rows // PARTS))
    parts, tiles = -(-rows // per_part), -(-dim // COLUMNS)
    sums = cp.empty((spaces, parts, dim), np.float64)
    means = cp.empty((spaces, dim), np.float32)
    number = format_of(vectors.dtype)
    _sum_rows((spaces * parts * tiles,), 8 * COLUMNS, vectors, sums, rows, dim, per_part, parts, format=number)
    _mean_of_sums((spaces * tiles,), 8 * COLUMNS, sums, means, rows, dim, parts)
    return means


def blank(spaces: int, balls: int, dim: int, metric: Metric = Metric.IP) -> Codes:
    """Make room for the codes of some balls: whole tiles, all zero."""
    return Codes.blank(cp.zeros, Codes.shapes(spaces, balls, dim, metric))


def widen_centre(centre: Any) -> Any:
    """Widen centres to float64."""
    wide = cp.empty(centre.shape, np.float64)
    _widen_centre((-(-centre.size // 256),), 256, centre, wide, centre.size)
    return wide


def _coding(vectors: Any, own: Members, bases: Bases, places: Codes) -> np.ndarray:
    """Return one CODING."""
    spaces, rows, dim = vectors.shape
    blocks, steps = places.codes.shape[1:3]
    balls, (count, width) = -(-rows // own.size), bases.points.shape[1:]
    shape = spaces, rows, dim, own.low, width, own.size, balls, count, bases.per_base, blocks, steps
    return np.array([shape], CODING)


def put_balls(vectors: Any, own: Members, bases: Bases, places: Codes) -> tuple[Any, Any]:
    """Code the mean of the rows of each ball of vectors (spaces, n, d), and bound how far they lie from it.

    places : gets codes, scales and radii

    Returns the centres (spaces, balls, width) that the codes stand for, and their extents (spaces, balls).
    """
    spaces, rows, _ = vectors.shape
    balls, width = -(-rows // own.size), bases.points.shape[2]
    number, coding = format_of(vectors.dtype), _coding(vectors, own, bases, places)
    middles = cp.empty((spaces, balls, width), np.float64)
    extents = cp.empty((spaces, balls), np.float64)
    farthest = cp.zeros((spaces, balls), np.uint64)
    _average((-(-middles.size // 256),), 256, vectors, own.members, middles, coding, format=number)
    made = middles, bases.points, bases.extents, extents, places.codes, places.scales
    _code(warps(spaces, balls), BLOCK_ROWS, *made, coding)
    lists = own.members, own.holders
    _reach(warps(spaces, rows), BLOCK_ROWS, vectors, *lists, middles, farthest, coding, format=number)
    _radii((-(-extents.size // 256),), 256, farthest, extents, places.radii, coding)
    return middles, extents


def put_rows(vectors: Any, bases: Bases, places: Codes) -> None:
    """Code rows of vectors (spaces, n, d) as balls of their own."""
    spaces, rows, _ = vectors.shape
    parts = places.codes, places.scales, places.radii
    coding, number = _coding(vectors, Members(1), bases, places), format_of(vectors.dtype)
    _put_rows(warps(spaces, rows), BLOCK_ROWS, vectors, bases.points, bases.extents, *parts, coding, format=number)
