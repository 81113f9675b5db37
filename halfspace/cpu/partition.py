"""Partition rows into groups of one size that lie close together: balanced splits along principal axes.

A set of rows is split at the median of their projections on its principal axis (a few power iterations over a sample),
so that both sides hold whole groups; and so on, until a set is one group. Splits keep to multiples of 64 groups and of
64 * 64 as long as they can, so that runs of 64 groups are sets of the same tree, and close together as well.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from halfspace.cpu import _threads
from halfspace.cpu._jit import entry, stage
from halfspace.cpu._simd import TILE
from halfspace.cpu.formats import widen

__all__ = ["partition"]

SAMPLE = 128
"""Rows of a set that its principal axis is taken from."""
ROUNDS = 4
"""Power iterations."""
LARGE = 1 << 14
"""Rows from which on a set is split in a task of its own."""

Advance = Callable[[int], object]
"""Told how many more components have found their group."""


def partition(
    vectors: np.ndarray, columns: npt.NDArray[np.int64], size: int, threads: int, advance: Advance | None = None
) -> npt.NDArray[np.int32]:
    """Bring the rows of vectors (n, d) into groups of `size`, in each subspace for itself.

    columns : (S + 1,), subspace s has the dimensions columns[s] to columns[s + 1] - 1

    Returns the rows (S, n), group after group; the last group of each subspace may be smaller. Time O(n d log n); the
    result does not depend on the number of threads.
    """
    subspaces, rows = columns.size - 1, len(vectors)
    order = np.empty((subspaces, rows), np.int32)
    order[:] = np.arange(rows, dtype=np.int32)
    sets = [(space, 0, rows) for space in range(subspaces)]

    def split(task: tuple[int, int, int]) -> list[tuple[int, int, int]]:
        """Split a large set once, a small one down to its groups; returns the sets that are still to split."""
        space, first, last = task
        low, high = columns[space], columns[space + 1]
        if last - first > max(LARGE, size):
            middle = _split_once(vectors, low, high, order[space], first, last, size)
            return [(space, first, middle), (space, middle, last)]
        _split_down(vectors, low, high, order[space], first, last, size)
        if advance is not None:
            advance((last - first) * int(high - low))
        return []

    while sets:
        sets = [part for parts in _threads.run(split, sets, threads) for part in parts]
    return order


@entry
def _split_once(vectors, low, high, order, first, last, size):
    keys = np.empty(last - first)
    sample = np.empty((SAMPLE, high - low))
    return _split(vectors, low, order, first, last, size, keys, sample, np.empty((2, high - low)))


@entry
def _split_down(vectors, low, high, order, first, last, size):
    keys = np.empty(last - first)
    sample = np.empty((SAMPLE, high - low))
    axes = np.empty((2, high - low))
    pending = np.empty((128, 2), np.int64)
    pending[0, 0], pending[0, 1] = first, last
    count = 1
    while count:
        count -= 1
        start, stop = pending[count, 0], pending[count, 1]
        if stop - start <= size:
            continue
        middle = _split(vectors, low, order, start, stop, size, keys, sample, axes)
        pending[count, 0], pending[count, 1] = start, middle
        pending[count + 1, 0], pending[count + 1, 1] = middle, stop
        count += 2


@stage
def _split(vectors, low, order, first, last, size, keys, sample, axes):
    """Split rows order[first:last], more than `size`, in two; returns where the second part begins."""
    unit = size
    while unit * TILE < last - first:
        unit *= TILE
    units = (last - first + unit - 1) // unit
    middle = first + units // 2 * unit
    if _principal_axis(vectors, low, order, first, last, sample, axes):
        axis = axes[0]
        for at in range(first, last):
            row = order[at]
            total = 0.0
            for j in range(axis.size):
                total += axis[j] * np.float64(widen(vectors[row, low + j]))
            keys[at - first] = total
        _select(keys, order, first, last - first, middle - first)
    return middle


@stage
def _principal_axis(vectors, low, order, first, last, sample, axes):
    """Put the principal axis of rows order[first:last] into axes[0]; returns whether there is one.

    sample : scratch (SAMPLE, d); axes : (2, d)
    """
    step = (last - first + SAMPLE - 1) // SAMPLE
    count = (last - first + step - 1) // step
    dim = axes.shape[1]
    axis, image = axes[0], axes[1]
    widest, most = 0, 0.0
    for j in range(dim):
        mean = 0.0
        for i in range(count):
            sample[i, j] = np.float64(widen(vectors[order[first + i * step], low + j]))
            mean += sample[i, j]
        mean /= count
        spread = 0.0
        for i in range(count):
            sample[i, j] -= mean
            spread += sample[i, j] * sample[i, j]
        if spread > most:
            widest, most = j, spread
    if most == 0.0:
        return False
    axis[:] = 0.0
    axis[widest] = 1.0
    for _ in range(ROUNDS if dim > 1 else 0):
        image[:] = 0.0
        for i in range(count):
            along = 0.0
            for j in range(dim):
                along += sample[i, j] * axis[j]
            for j in range(dim):
                image[j] += along * sample[i, j]
        largest = 0.0
        for j in range(dim):
            largest = max(largest, abs(image[j]))
        for j in range(dim):
            axis[j] = image[j] / largest
    return True


@stage
def _select(keys, order, first, count, middle):
    """Reorder `count` keys, and rows order[first:] with them: the smallest `middle` come first (quickselect)."""
    low, high = 0, count - 1
    while low < high:
        a, b, c = keys[low], keys[(low + high) // 2], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                order[first + i], order[first + j] = order[first + j], order[first + i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            break
