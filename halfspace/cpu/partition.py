"""Partition rows into groups of one size that lie close together: balanced splits along principal axes.

A set of rows is split at the median of their projections on its principal axis (a few power iterations over a sample),
so that both sides hold whole groups; and so on, until a set is one group. Splits keep to multiples of 64 groups and of
64 * 64 as long as they can, so that runs of 64 groups are sets of the same tree, and close together as well.
"""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.formats import SLICE, widen
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled, inlined
from halfspace.model.layout import TILE
from halfspace.runtime.progress import Advance, ignore

__all__ = ["partition"]

AXIS_ROWS = 128
"""Rows of a set that its principal axis is taken from."""
ROUNDS = 4
"""Power iterations."""
LARGE = 1 << 14
"""Rows from which on a set is split in steps of its own, or so many that have `COMPONENTS`."""
COMPONENTS = 1 << 22
"""Components of a set that is split down to its groups as one task."""
TOGETHER = 1 << 24
"""Rows of large sets that are split at once, or one set."""
STEPS = 1 << 22
"""Rows that a selection passes as one task."""

Set = tuple[int, int, int, int]
"""A subspace, where a set of its rows begins and ends, and how many splits it comes from."""


def partition(
    vectors: np.ndarray,
    columns: npt.NDArray[np.int64],
    size: int,
    threads: int,
    advance: Advance = ignore,
    out: npt.NDArray[np.int32] | None = None,
) -> npt.NDArray[np.int32]:
    """Bring the rows of vectors (n, d) into groups of `size`, in each subspace for itself.

    columns : (S + 1,), subspace s has the dimensions columns[s] to columns[s + 1] - 1
    advance : called with the components of rows that have found their group
    out : (S, n), taken for the result

    Returns the rows (S, n), group after group; the last group of each subspace may be smaller. Time O(n d log n); the
    result does not depend on the number of threads.
    """
    subspaces, rows = columns.size - 1, len(vectors)
    order = np.empty((subspaces, rows), np.int32) if out is None else out
    for own in order:
        own[:] = np.arange(rows, dtype=np.int32)
    halvings = max(1, (-(-rows // size) - 1).bit_length())

    def width(one: Set) -> int:
        return int(columns[one[0] + 1] - columns[one[0]])

    def is_large(one: Set) -> bool:
        return one[2] - one[1] > max(size, min(LARGE, COMPONENTS // width(one)))

    def split_down(one: Set) -> None:
        space, first, last, depth = one
        _split_down(vectors, columns[space], columns[space + 1], order[space], first, last, size)
        advance((last - first) * width(one) * max(0.0, 1.0 - depth / halvings))

    sets: list[Set] = [(space, 0, rows, 0) for space in range(subspaces)]
    while sets:
        _threads.run(split_down, [one for one in sets if not is_large(one)], threads)
        large = [one for one in sets if is_large(one)]
        sets = []
        for some in _batches(large):
            splits = [_Split(vectors, columns[one[0] : one[0] + 2], order[one[0]], one, size) for one in some]
            _split_large(splits, threads)
            for one, split in zip(some, splits, strict=True):
                space, first, last, depth = one
                sets += [(space, first, split.middle, depth + 1), (space, split.middle, last, depth + 1)]
                advance((last - first) * width(one) / halvings)
    return order


def _batches(sets: list[Set]) -> list[list[Set]]:
    """Cut a list of sets into lists of at most `TOGETHER` rows, or of one set."""
    batches: list[list[Set]] = []
    held = 0
    for one in sets:
        rows = one[2] - one[1]
        if not batches or held + rows > TOGETHER:
            batches.append([])
            held = 0
        batches[-1].append(one)
        held += rows
    return batches


class _Split:
    """A large set that is being split: what one step leaves to the next."""

    def __init__(
        self, vectors: np.ndarray, ends: npt.NDArray[np.int64], order: npt.NDArray[np.int32], one: Set, size: int
    ) -> None:
        _, self.first, self.last, _ = one
        self.vectors, self.order, self.low, self.width = vectors, order, int(ends[0]), int(ends[1] - ends[0])
        self.middle: int = _middle.py_func(self.first, self.last, size)
        self.axes = np.empty((2, self.width))
        self.keys = np.empty(self.last - self.first)
        self.state = np.array([0, self.keys.size - 1, 1, 0])  # of `_select`: no pass has begun
        self.pivot = np.zeros(1)
        self.ends = True  # whether no step is left

    def find_axis(self) -> None:
        """Take the principal axis; without one, rows stay as they are."""
        sample = np.empty((AXIS_ROWS, self.width))
        self.ends = not _find_axis(self.vectors, self.low, self.order, self.first, self.last, sample, self.axes)

    def project(self, span: tuple[int, int]) -> None:
        """Project rows order[first:][span] on it."""
        _project(self.vectors, self.low, self.order, self.first, self.axes, self.keys, *span)

    def select(self) -> None:
        """Bring some more rows to the side where they belong."""
        middle = self.middle - self.first
        self.ends = _pass(self.keys, self.order, self.first, middle, self.state, self.pivot, STEPS)


def _split_large(splits: list[_Split], threads: int) -> None:
    """Split sets side by side, in steps of about equal length."""
    _threads.run(_Split.find_axis, splits, threads)
    left = [split for split in splits if not split.ends]
    tasks = [
        (split, span)
        for split in left
        for span in _threads.spans(split.keys.size, -(-split.keys.size * split.width // SLICE))
    ]
    _threads.run(lambda task: task[0].project(task[1]), tasks, threads)
    while left:
        _threads.run(_Split.select, left, threads)
        left = [split for split in left if not split.ends]


@inlined
def _middle(first, last, size):
    """Where the second part of rows [first, last), more than `size`, begins."""
    unit = size
    while unit * TILE < last - first:
        unit *= TILE
    units = (last - first + unit - 1) // unit
    return first + units // 2 * unit


@compiled
def _find_axis(vectors, low, order, first, last, sample, axes):
    return _principal_axis(vectors, low, order, first, last, sample, axes)


@compiled
def _project(vectors, low, order, first, axes, keys, start, stop):
    _put_keys(vectors, low, order, first, axes, keys, start, stop)


@compiled
def _pass(keys, order, first, middle, state, pivot, most):
    return _select(keys, order, first, middle, state, pivot, most)


@compiled
def _split_down(vectors, low, high, order, first, last, size):
    """Split rows order[first:last] until each part is a group."""
    keys = np.empty(last - first)
    sample = np.empty((AXIS_ROWS, high - low))
    axes = np.empty((2, high - low))
    state, pivot = np.empty(4, np.int64), np.empty(1)
    pending = np.empty((128, 2), np.int64)
    pending[0, 0], pending[0, 1] = first, last
    count = 1
    while count:
        count -= 1
        start, stop = pending[count, 0], pending[count, 1]
        if stop - start <= size:
            continue
        middle = _middle(start, stop, size)
        if _principal_axis(vectors, low, order, start, stop, sample, axes):
            _put_keys(vectors, low, order, start, axes, keys, 0, stop - start)
            state[0], state[1], state[2], state[3] = 0, stop - start - 1, 1, 0
            _select(keys, order, start, middle - start, state, pivot, np.int64(2**62))
        pending[count, 0], pending[count, 1] = start, middle
        pending[count + 1, 0], pending[count + 1, 1] = middle, stop
        count += 2


@inlined
def _put_keys(vectors, low, order, first, axes, keys, start, stop):
    """Project rows order[first:][start:stop] on axes[0]."""
    axis = axes[0]
    for at in range(start, stop):
        row = order[first + at]
        total = 0.0
        for j in range(axis.size):
            total += axis[j] * np.float64(widen(vectors[row, low + j]))
        keys[at] = total


@inlined
def _principal_axis(vectors, low, order, first, last, sample, axes):
    """Put the principal axis of rows order[first:last] into axes[0]; returns whether there is one.

    sample : scratch (AXIS_ROWS, d); axes : (2, d)
    """
    step = (last - first + AXIS_ROWS - 1) // AXIS_ROWS
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


@inlined
def _select(keys, order, first, middle, state, pivot, most):
    """Reorder keys, and rows order[first:] with them: the smallest `middle` come first (quickselect).

    state : (4,), the first and the last key that are not in their place, and the two at which a pass stands
    pivot : (1,), that of the pass
    most : keys that are passed before it returns, to be called again

    Returns whether all is done. A pass that goes on makes the same exchanges as one that was never interrupted.
    """
    low, high, i, j = state[0], state[1], state[2], state[3]
    value = pivot[0]
    left = most
    while low < high:
        if i > j:
            a, b, c = keys[low], keys[(low + high) // 2], keys[high]
            value = max(min(a, b), min(max(a, b), c))
            i, j = low, high
        while i <= j and left > 0:
            while keys[i] < value and left > 0:
                i += 1
                left -= 1
            while keys[j] > value and left > 0:
                j -= 1
                left -= 1
            if i <= j and left > 0:
                keys[i], keys[j] = keys[j], keys[i]
                order[first + i], order[first + j] = order[first + j], order[first + i]
                i += 1
                j -= 1
                left -= 1
        if i <= j:
            state[0], state[1], state[2], state[3], pivot[0] = low, high, i, j, value
            return False
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            break
    return True
