"""The sweep: down the lists of all subspaces in step, until what is left cannot reach tau.

See `halfspace.cpu.filters.sweep`. Lists are counted in ranges of bounds instead of sorted, and where the cuts would
collect as many members as there are rows, all rows are candidates.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import cupy as cp
import numpy as np

from halfspace.gpu.filters import balls as _balls
from halfspace.gpu.filters.balls import Bounds, bound, classify_balls, grid_of
from halfspace.gpu.run import Run
from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import CALL, THREADS
from halfspace.gpu.runtime.tables import Part, Uploaded
from halfspace.model.filters.balls import Balls
from halfspace.model.segment import Segment

__all__ = ["CODE", "sweep"]

BINS = 1024
"""Ranges of bounds that are told apart in each list."""
WORD = 32
"""Rows in a word of candidates."""

_count_falls = Kernel(
    "filters/sweep.cu",
    "count_falls",
    ("call", CALL),
    ("which", int),
    ("bounds", np.float32),
    ("levels", np.float64),
    ("gates", np.float64),
    ("falls", np.uint32),
)
_find_cuts = Kernel(
    "filters/sweep.cu",
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
    "filters/sweep.cu",
    "collect_rows",
    ("call", CALL),
    ("which", int),
    ("bounds", np.float32),
    ("cuts", np.float64),
    ("swept", np.int32),
    ("members", np.int32),
    ("size", int),
    ("candidates", np.uint32),
)


def _launches(run: Run, uploaded: Uploaded, part: Part) -> Iterator[Callable[[], Any]]:
    """Yield what launches the kernels, segment by segment."""
    for which, segment, chunks in part.segments:
        yield partial(_launch, run.call, which, cast(Balls, segment.data), chunks)


def _launch(call: np.ndarray, which: int, balls: Balls, chunks: Any) -> list[Any]:
    keepalive: list[Any] = []
    seen = bound(call, which, balls, keepalive)
    classify_balls(call, which, chunks, seen, *sweep(call, which, balls, seen, keepalive))
    return keepalive


def sweep(call: np.ndarray, which: int, balls: Balls, seen: Bounds, keepalive: list[Any]) -> tuple[Any, Any]:
    """Collect the candidates of segment number `which`: a superset of the rows that its bounds do not rule out.

    keepalive : gets the arrays that are made

    Returns a bit for each row, lowest first, uint32 (count, ceil(rows / 32)), and int32 (count,), 0 for directions of
    which all rows are candidates.
    """
    bounds, levels, gates = seen
    count, subspaces = bounds.shape[:2]
    falls = cp.zeros((count, subspaces, BINS), np.uint32)
    cuts = cp.empty((count, subspaces), np.float64)
    swept = cp.empty(count, np.int32)
    candidates = cp.zeros((count, -(-balls.members.shape[2] // WORD)), np.uint32)
    keepalive += [falls, cuts, swept, candidates]
    grid = grid_of(bounds)
    _count_falls(grid, THREADS, call, which, bounds, levels, gates, falls)
    _find_cuts((count,), THREADS, call, which, levels, gates, falls, cuts, swept, balls.size)
    _collect_rows(grid, THREADS, call, which, bounds, cuts, swept, balls.members, balls.size, candidates)
    return candidates, swept


def _bytes_for_each_direction(segment: Segment) -> int:
    """Add counts, cuts and candidates to what balls take."""
    subspaces, rows = cast(Balls, segment.data).shape[0], segment.rows
    return _balls.CODE.bytes_for_each_direction(segment) + subspaces * (4 * BINS + 8) + rows // 8 + 8


CODE = _balls.CODE._replace(launches=_launches, bytes_for_each_direction=_bytes_for_each_direction)
