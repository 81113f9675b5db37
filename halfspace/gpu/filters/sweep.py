"""The sweep: down the lists of all subspaces in step, until what is left cannot reach tau.

See `halfspace.cpu.filters.sweep`. Lists are counted in ranges of bounds instead of sorted, and where the cuts would collect as
many members as there are rows, all rows are candidates.
"""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import CALL
from halfspace.model.filters.balls import Balls

__all__ = ["bytes_for_each_direction", "sweep"]

THREADS = 256
BINS = 1024
"""Ranges of bounds that are told apart in each list."""
WORD = 32
"""Rows in a word of candidates."""

_count_falls = Kernel(
    "sweep.cu",
    "count_falls",
    ("call", CALL),
    ("which", int),
    ("bounds", np.float32),
    ("levels", np.float64),
    ("gates", np.float64),
    ("falls", np.uint32),
)
_find_cuts = Kernel(
    "sweep.cu",
    "find_cuts",
    ("call", CALL),
    ("which", int),
    ("levels", np.float64),
    ("gates", np.float64),
    ("falls", np.uint32),
    ("cuts", np.float64),
    ("swept", np.int32),
    ("size", int),
)
_collect_rows = Kernel(
    "sweep.cu",
    "collect_rows",
    ("call", CALL),
    ("which", int),
    ("bounds", np.float32),
    ("cuts", np.float64),
    ("swept", np.int32),
    ("members", np.int32),
    ("size", int),
    ("candidates", np.uint32),
    ("words", int),
)


def sweep(
    call: np.ndarray,
    which: int,
    balls: Balls,
    grid: tuple[int, int],
    bounds: Any,
    levels: Any,
    gates: Any,
    held: list[Any],
) -> tuple[Any, Any]:
    """Collect the candidates of segment number `which`: a superset of the rows that its bounds do not rule out.

    grid : blocks for a kernel over all bounds (count, S, groups, 2); levels, gates : see `halfspace.gpu.filters.bounds.Bounds`
    held : gets the arrays that are made

    Returns a bit for each row, lowest first, uint32 (count, ceil(rows / 32)), and int32 (count,), 0 for directions of
    which all rows are candidates.
    """
    count, subspaces = bounds.shape[:2]
    falls = cp.zeros((count, subspaces, BINS), np.uint32)
    cuts = cp.empty((count, subspaces), np.float64)
    swept = cp.empty(count, np.int32)
    candidates = cp.zeros((count, -(-balls.members.shape[2] // WORD)), np.uint32)
    held += [falls, cuts, swept, candidates]
    _count_falls(grid, THREADS, call, which, bounds, levels, gates, falls)
    _find_cuts((count,), THREADS, call, which, levels, gates, falls, cuts, swept, balls.size)
    _collect_rows(
        grid, THREADS, call, which, bounds, cuts, swept, balls.members, balls.size, candidates, candidates.shape[1]
    )
    return candidates, swept


def bytes_for_each_direction(balls: Balls) -> int:
    """Device memory that `sweep` takes for each direction."""
    subspaces, rows = balls.columns.size - 1, int(balls.members.shape[2])
    return subspaces * (4 * BINS + 8) + rows // 8 + 8
