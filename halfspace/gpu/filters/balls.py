"""Balls: each subspace has its own partition of the rows into small groups, and a ball around each group.

See `halfspace.cpu.filters.balls`. All balls are bounded for all directions; rows that these do not rule out are listed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import cupy as cp
import numpy as np
import numpy.typing as npt

from halfspace.gpu.codes import Bases, Members, blank, mean, put_balls, widen_centre
from halfspace.gpu.filters import FilterCode
from halfspace.gpu.partition import partition
from halfspace.gpu.run import Run
from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import CALL, THREADS, Kind, codes_at
from halfspace.gpu.runtime.tables import Part, Uploaded
from halfspace.model.filters.balls import Balls
from halfspace.model.layout import CHUNK, Codes
from halfspace.model.segment import Segment, address
from halfspace.runtime.progress import Advance, ignore

__all__ = ["CODE", "Bounds", "bound", "classify_balls", "enclose", "grid_of"]

WAVES = 2048
"""Blocks that are worth launching: each one prepares its direction first, which many balls should share."""

_bound_balls = Kernel(
    "filters/balls.cu", "bound_balls", ("call", CALL), ("which", int), ("bounds", np.float32), ("extremes", np.uint32)
)
_raise_gates = Kernel(
    "filters/balls.cu",
    "raise_gates",
    ("call", CALL),
    ("which", int),
    ("extremes", np.uint32),
    ("levels", np.float64),
    ("gates", np.float64),
)
_classify_balls = Kernel(
    "filters/balls.cu",
    "classify_balls",
    ("call", CALL),
    ("which", int),
    ("listed", np.int32),
    ("bounds", np.float32),
    ("levels", np.float64),
    ("gates", np.float64),
    ("candidates", np.uint32, None),
    ("swept", np.int32, None),
)


def enclose(
    vectors: Any,
    columns: npt.NDArray[np.int64],
    size: int,
    threads: int,
    advance: Advance = ignore,
    like: Balls | None = None,
) -> Balls:
    """Partition stored vectors (spaces, n, d) into groups of `size` in each subspace, and put balls around them.

    columns : (S + 1,), on the host, where subspaces begin and end
    like : balls whose partition and centre are taken over
    advance : called with components done, each twice: by `partition`, and in balls
    """
    spaces, rows, _ = vectors.shape
    subspaces, groups = columns.size - 1, -(-rows // size)
    if like is None:
        members = cp.stack([partition(x, columns, size, threads, advance) for x in vectors])
        centre = mean(vectors, threads)
    else:
        members, centre = like.members, like.centre
        advance(vectors.size)
    holders = cp.empty_like(members)
    codes = blank(spaces * subspaces, groups, int(np.diff(columns).max()))
    middles, nothing = widen_centre(centre), cp.zeros((1, 1), np.float64)
    for space in range(spaces):
        for part, (low, high) in enumerate(zip(columns[:-1].tolist(), columns[1:].tolist(), strict=True)):
            at = slice(space * subspaces + part, space * subspaces + part + 1)
            own = Members(size, low, members[space, part : part + 1], holders[space, part : part + 1])
            around = Bases(cp.ascontiguousarray(middles[space, None, None, low:high]), nothing, groups)
            place = Codes(codes.codes[at], codes.scales[at], codes.radii[at])
            put_balls(vectors[space : space + 1], own, around, place)
            advance(rows * (high - low))
    return Balls(columns, size, centre, codes, members, holders)


def _tabulate(segment: Segment, space: int, record: Any) -> list[object]:
    """Fill in addresses of the balls of one space."""
    balls = cast(Balls, segment.data)
    columns = cp.asarray(balls.columns)
    record["subspaces"], record["groups"] = balls.shape
    record["width"] = _width(balls)
    record["centre"], record["columns"] = address(balls.centre[space]), address(columns)
    record["of_subspaces"] = codes_at(balls.groups, space * balls.shape[0])
    record["holders"] = address(balls.holders[space])
    return [columns]


def _launches(run: Run, uploaded: Uploaded, part: Part) -> Iterator[Callable[[], Any]]:
    """Yield what launches the kernels, segment by segment."""
    for which, segment, chunks in part.segments:
        yield partial(_launch, run.call, which, cast(Balls, segment.data), chunks)


def _launch(call: np.ndarray, which: int, balls: Balls, chunks: Any) -> list[Any]:
    keepalive: list[Any] = []
    seen = bound(call, which, balls, keepalive)
    classify_balls(call, which, chunks, seen)
    return keepalive


class Bounds(NamedTuple):
    """The balls of one segment, seen from the directions of all spaces."""

    bounds: Any  # float32 (count, S, groups, 2), lower and upper
    levels: Any  # float64 (count, 3): thresholds of the sums; what the largest upper bounds sum to above the first
    gates: Any  # float64 (count, S, 4): the gate, and of the bounds the largest, those to come, the largest magnitude


def bound(call: np.ndarray, which: int, balls: Balls, keepalive: list[Any]) -> Bounds:
    """Bound every ball of segment number `which` for every direction, and find what the gates require.

    call : one CALL, of which the plans are filled in
    keepalive : gets the arrays that are made, for whoever captures the kernels in a graph
    """
    count, (subspaces, groups) = int(call["count"][0]), balls.shape
    seen = Bounds(
        cp.empty((count, subspaces, groups, 2), np.float32),
        cp.empty((count, 3), np.float64),
        cp.empty((count, subspaces, 4), np.float64),
    )
    extremes = cp.zeros((count, subspaces, 2), np.uint32)
    keepalive += [*seen, extremes]
    shared = 2 * (-(-_width(balls) // 16) * 16)
    _bound_balls(grid_of(seen.bounds), THREADS, call, which, seen.bounds, extremes, shared=shared)
    _raise_gates((count,), THREADS, call, which, extremes, seen.levels, seen.gates)
    return seen


def grid_of(bounds: Any) -> tuple[int, int]:
    """Blocks for a kernel over all bounds (count, S, groups, 2)."""
    count, subspaces, groups, _ = bounds.shape
    lists = count * subspaces
    return min(-(-groups // THREADS), -(-WAVES // lists)), min(lists, 65535)


def classify_balls(
    call: np.ndarray, which: int, chunks: Any, seen: Bounds, candidates: Any = None, swept: Any = None
) -> None:
    """List the candidates among the rows of some chunks, and hold the sure hits.

    candidates, swept : what `halfspace.gpu.filters.sweep.sweep` returns; None: all rows are candidates
    """
    parts = chunks.size * (CHUNK // THREADS), min(int(call["count"][0]), 65535)
    _classify_balls(parts, THREADS, call, which, chunks, *seen, candidates, swept)


def _width(balls: Balls) -> int:
    """Dimensions of the widest subspace."""
    return int(np.diff(balls.columns).max())


def _bytes_for_each_direction(segment: Segment) -> int:
    """Count those of bounds, levels and gates."""
    subspaces, groups = cast(Balls, segment.data).shape
    return subspaces * (8 * groups + 40) + 24


CODE = FilterCode(Kind.BALLS, _launches, _tabulate, _bytes_for_each_direction)
