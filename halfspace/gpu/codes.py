"""Balls with lattice-coded centres; see `halfspace.cpu.codes`."""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.formats import BLOCK_ROWS
from halfspace.gpu.runtime.launch import STORED, Kernel, format_of
from halfspace.model.layout import Codes

__all__ = ["BLOCK", "CHUNK", "TILE", "blank", "mean", "put_balls", "put_rows", "widen_centre"]

BLOCK = 16
"""Balls in a block of codes."""
TILE = 4 * BLOCK
"""Arrays of codes hold whole tiles."""
CHUNK = TILE * BLOCK
"""Rows in a chunk: a tile of groups, a block of rows each."""

PARTS = 1024
"""Rows that are summed as one part of a mean, and the most parts that there are."""
COLUMNS = 32
"""Dimensions of a block of threads that sums rows, 8 for each."""

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
    *((name, int) for name in ("spaces", "rows", "dim", "low", "width", "size")),
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
    *((name, int) for name in ("spaces", "balls", "width", "per_base", "blocks", "steps")),
)
_reach = Kernel(
    "codes.cu",
    "reach_of_balls",
    ("vectors", STORED),
    ("members", np.int32, None),
    ("holders", np.int32, None),
    ("middles", np.float64),
    ("farthest", np.uint64),
    *((name, int) for name in ("spaces", "rows", "dim", "low", "width", "size")),
)
_radii = Kernel(
    "codes.cu",
    "radii_of_balls",
    ("farthest", np.uint64),
    ("extents", np.float64),
    ("radii", np.float32),
    *((name, int) for name in ("spaces", "balls", "width", "blocks")),
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
    *((name, int) for name in ("spaces", "rows", "dim", "per_base", "blocks", "steps")),
)


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


def blank(spaces: int, balls: int, dim: int) -> Codes:
    """Make room for the codes of some balls: whole tiles, all zero."""
    tiles = -(-balls // TILE)
    return Codes(
        codes=cp.zeros((spaces, tiles * TILE // BLOCK, -(-dim // 4), BLOCK, 4), np.uint8),
        scales=cp.zeros((spaces, tiles * TILE), np.float32),
        radii=cp.zeros((spaces, tiles * TILE), np.float32),
    )


def widen_centre(centre: Any) -> Any:
    """Widen centres to float64."""
    wide = cp.empty(centre.shape, np.float64)
    _widen_centre((-(-centre.size // 256),), 256, centre, wide, centre.size)
    return wide


def put_balls(
    vectors: Any,
    members: Any,
    holders: Any,
    low: int,
    size: int,
    bases: Any,
    base_extents: Any,
    per_base: int,
    places: Codes,
) -> tuple[Any, Any]:
    """Code the mean of every `size` rows of vectors (spaces, n, d) around a base, and bound how far they lie from it.

    members, holders : None, or int32 (spaces, n): the rows, ball after ball, and where each row's ball is put
    bases : (spaces, bases, width), for the dimensions from `low` on; ball i is coded around base i // `per_base`
    base_extents : (spaces, bases), the sum of the norms of the computed centres that a base consists of
    places : gets codes, scales and radii

    Returns the centres (spaces, balls, width) that the codes stand for, and their extents (spaces, balls).
    """
    spaces, rows, dim = vectors.shape
    balls, width = -(-rows // size), bases.shape[2]
    blocks, steps = places.codes.shape[1:3]
    number = format_of(vectors.dtype)
    middles = cp.empty((spaces, balls, width), np.float64)
    extents = cp.empty((spaces, balls), np.float64)
    farthest = cp.zeros((spaces, balls), np.uint64)
    shape = spaces, rows, dim, low, width, size
    _average((-(-middles.size // 256),), 256, vectors, members, middles, *shape, format=number)
    _code(
        warps(spaces, balls), BLOCK_ROWS, middles, bases, base_extents, extents, places.codes, places.scales,
        spaces, balls, width, per_base, blocks, steps,
    )  # fmt: skip
    _reach(warps(spaces, rows), BLOCK_ROWS, vectors, members, holders, middles, farthest, *shape, format=number)
    grid = (-(-extents.size // 256),)
    _radii(grid, 256, farthest, extents, places.radii, spaces, balls, width, blocks)
    return middles, extents


def put_rows(vectors: Any, bases: Any, extents: Any, per_base: int, places: Codes) -> None:
    """Code rows of vectors (spaces, n, d) around bases (spaces, bases, d) of these extents (spaces, bases)."""
    spaces, rows, dim = vectors.shape
    blocks, steps = places.codes.shape[1:3]
    _put_rows(
        warps(spaces, rows), BLOCK_ROWS, vectors, bases, extents, places.codes, places.scales, places.radii,
        spaces, rows, dim, per_base, blocks, steps, format=format_of(vectors.dtype),
    )  # fmt: skip
