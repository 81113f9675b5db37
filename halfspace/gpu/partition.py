"""Partition rows into groups of one size that lie close together: balanced splits along principal axes.

As `halfspace.cpu.partition`, but level by level: all sets of a level are split by one sort of their rows, by set and
projection. Projections are compared in float32, from the middle of their set, which may bring close rows in another
order than on a CPU.
"""

from typing import Any

import cupy as cp
import numpy as np
import numpy.typing as npt

from halfspace.gpu.codes import warps
from halfspace.gpu.formats import BLOCK_ROWS
from halfspace.gpu.runtime.launch import STORED, Kernel, format_of
from halfspace.model.layout import TILE
from halfspace.runtime.progress import Advance, ignore

__all__ = ["SPLIT", "partition"]

AXIS_ROWS = 128
"""Rows of a set that its principal axis is taken from."""
ROOM = 1 << 24
"""Rows that are sorted at once, those of all subspaces together, unless one has more."""

SPLIT = np.dtype([(name, np.int64) for name in ("parts", "rows", "dim", "sets", "width", "size")])
"""The twin of the struct Split in ``kernels/partition.cu``."""

_PARAMETERS = (
    ("vectors", STORED),
    ("order", np.int32),
    ("firsts", np.int64),
    ("columns", np.int64),
    ("axes", np.float32),
    ("scales", np.float64),
)
_principal_axes = Kernel("partition.cu", "principal_axes", *_PARAMETERS, ("split", SPLIT))
_project = Kernel("partition.cu", "project", *_PARAMETERS, ("keys", np.uint64), ("split", SPLIT))


def partition(vectors: Any, columns: npt.NDArray[np.int64], size: int, threads: int, advance: Advance = ignore) -> Any:
    """Bring the rows of vectors (n, d) into groups of `size`, in each subspace for itself.

    columns : (S + 1,), on the host, subspace s has the dimensions columns[s] to columns[s + 1] - 1
    advance : called with the components of rows that have found their group

    Returns the rows (S, n), int32, group after group; the last group of each subspace may be smaller. Time
    O(n d log n).
    """
    subspaces, rows = columns.size - 1, len(vectors)
    order = cp.empty((subspaces, rows), np.int32)
    order[:] = cp.arange(rows, dtype=np.int32)
    together = max(1, ROOM // rows)
    for first in range(0, subspaces, together):
        own = columns[first : first + together + 1]
        firsts = np.array([0, rows])
        while int(np.diff(firsts).max()) > size:
            _split(vectors, own, order[first : first + together], firsts, size)
            firsts = _halved(firsts, size)
        if advance is not ignore:
            cp.cuda.get_current_stream().synchronize()
        advance(rows * int(own[-1] - own[0]))
    return order


def _halved(firsts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Where sets begin, and the last one ends, when each of more than `size` rows is split in two."""
    lengths = np.diff(firsts)
    unit = np.full_like(lengths, size)
    while np.any(larger := unit * TILE < lengths):
        unit[larger] *= TILE
    middles = firsts[:-1] + -(-lengths // unit) // 2 * unit
    return np.sort(np.concatenate([firsts, middles[lengths > size]]))


def _split(vectors: Any, columns: npt.NDArray[np.int64], order: Any, firsts: npt.NDArray[np.int64], size: int) -> None:
    """Sort sets of more than `size` rows, order[:, firsts[k]:firsts[k + 1]], each along its principal axis."""
    parts, rows = order.shape
    sets, width = firsts.size - 1, int(np.diff(columns).max())
    axes = cp.empty((2, parts, sets, width), np.float32)
    scales = cp.empty((parts, sets), np.float64)
    keys = cp.empty((parts, rows), np.uint64)
    block = AXIS_ROWS if int(np.diff(firsts).max()) > 32 else 32
    number = format_of(vectors.dtype)
    seen = vectors, order, cp.asarray(firsts), cp.asarray(columns), axes, scales
    split = np.array([(parts, rows, vectors.shape[1], sets, width, size)], SPLIT)
    _principal_axes((parts * sets,), block, *seen, split, format=number)
    _project(warps(parts, rows), BLOCK_ROWS, *seen, keys, split, format=number)
    order[:] = order.ravel()[cp.argsort(keys.ravel(), kind="stable")].reshape(parts, rows)
