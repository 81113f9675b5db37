"""Segments with balls: bound all balls for all directions, and list the rows that these do not rule out.

See `halfspace.cpu.filters.balls`. Nothing is read back: what one kernel finds, the next one reads on the device.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import cupy as cp
import numpy as np

from halfspace.gpu.filters import sweep
from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import CALL
from halfspace.model.filters.balls import Balls
from halfspace.model.segment import Segment

__all__ = ["Bounds", "bytes_for_each_direction", "test_balls"]

THREADS = 256
CHUNK = 1024
WAVES = 2048
"""Blocks that are worth launching: each one prepares its direction first, which many balls should share."""

_bound_balls = Kernel(
    "bounds.cu", "bound_balls", ("call", CALL), ("which", int), ("bounds", np.float32), ("extremes", np.uint32)
)
_raise_gates = Kernel(
    "bounds.cu",
    "raise_gates",
    ("call", CALL),
    ("which", int),
    ("extremes", np.uint32),
    ("levels", np.float64),
    ("gates", np.float64),
)
_test_balls = Kernel(
    "bounds.cu",
    "test_balls",
    ("call", CALL),
    ("which", int),
    ("listed", np.int32),
    ("bounds", np.float32),
    ("levels", np.float64),
    ("gates", np.float64),
    ("candidates", np.uint32, None),
    ("words", int),
    ("swept", np.int32, None),
)


class Bounds(NamedTuple):
    """The balls of one segment, seen from the directions of all spaces."""

    bounds: Any  # float32 (count, S, groups, 2), lower and upper
    levels: Any  # float64 (count, 3): thresholds of the sums; what the largest upper bounds sum to above the first
    gates: Any  # float64 (count, S, 4): the gate, and of the bounds the largest, those to come, the largest magnitude


def test_balls(call: np.ndarray, which: int, segment: Segment, chunks: Any) -> list[Any]:
    """List the candidates, and hold the sure hits, of segment number `which`, which has balls.

    call : one CALL, of which the plans are filled in; chunks : int32, the segment's chunks

    Returns the arrays that the kernels read and write, for whoever captures them in a graph.
    """
    if segment.balls is None:
        raise ValueError("a segment without balls cannot be tested by them")
    count, subspaces, groups = int(call["count"][0]), *_shape(segment.balls)
    lists = count * subspaces
    tiles = min(-(-groups // THREADS), -(-WAVES // lists))
    grid = tiles, min(lists, 65535)
    held: list[Any] = []
    seen = _bound(call, which, segment.balls, grid, held)
    candidates = swept = None
    if segment.filter == "sweep":
        candidates, swept = sweep.sweep(call, which, segment.balls, grid, *seen, held)
    words = 0 if candidates is None else candidates.shape[1]
    parts = chunks.size * (CHUNK // THREADS)
    _test_balls((parts, min(count, 65535)), THREADS, call, which, chunks, *seen, candidates, words, swept)
    return held


def _bound(call: np.ndarray, which: int, balls: Balls, grid: tuple[int, int], held: list[Any]) -> Bounds:
    """Bound every ball for every direction, and find what the gates require; adds its arrays to `held`."""
    count, subspaces, groups = int(call["count"][0]), *_shape(balls)
    seen = Bounds(
        cp.empty((count, subspaces, groups, 2), np.float32),
        cp.empty((count, 3), np.float64),
        cp.empty((count, subspaces, 4), np.float64),
    )
    extremes = cp.zeros((count, subspaces, 2), np.uint32)
    held += [*seen, extremes]
    width = int(np.diff(balls.columns).max())
    _bound_balls(grid, THREADS, call, which, seen.bounds, extremes, shared=2 * (-(-width // 16) * 16))
    _raise_gates((count,), THREADS, call, which, extremes, seen.levels, seen.gates)
    return seen


def _shape(balls: Balls) -> tuple[int, int]:
    """Subspaces, and groups in each."""
    return balls.columns.size - 1, -(-balls.members.shape[2] // balls.size)


def bytes_for_each_direction(segments: Iterable[Segment]) -> int:
    """Device memory that `test_balls` takes for each direction, while one segment is tested after the other."""
    most = 0
    for segment in segments:
        if segment.balls is not None:
            subspaces, groups = _shape(segment.balls)
            own = subspaces * (8 * groups + 40) + 24
            if segment.filter == "sweep":
                own += sweep.bytes_for_each_direction(segment.balls)
            most = max(most, own)
    return most
