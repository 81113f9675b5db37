"""Arrays of either device: NumPy's on the host, CuPy's on a GPU; one code reads and makes both."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.runtime.progress import Advance, ignore

__all__ = ["beside", "equal", "gather", "host", "is_array", "namespace", "offsets_of", "pieces"]

PIECE = 1 << 20
"""Numbers that are copied or compared by one call of NumPy, so that a signal is heard soon."""


def namespace(array: Any) -> ModuleType:
    """Return the module whose functions take an array: NumPy, or CuPy, which such an array has imported."""
    if isinstance(array, np.ndarray):
        return np
    return sys.modules[type(array).__module__.partition(".")[0]]


def host(array: Any) -> np.ndarray:
    """Return an array in the host's memory: the array itself, or a copy, for which the host waits."""
    if isinstance(array, np.ndarray):
        return array
    copy: np.ndarray = array.get()
    return copy


def beside(array: Any) -> AbstractContextManager[Any]:
    """Return what makes the device of an array the current one while it is entered."""
    if isinstance(array, np.ndarray):
        return nullcontext()
    device: AbstractContextManager[Any] = array.device
    return device


def is_array(value: Any) -> bool:
    """Whether a value is an array of either device."""
    return isinstance(value, np.ndarray) or (hasattr(value, "dtype") and hasattr(value, "get"))


def pieces(rows: int, row_size: int) -> Iterator[slice]:
    """Cut rows of so many numbers into slices of about `PIECE` numbers, or of one row."""
    step = max(1, PIECE // max(1, row_size))
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def offsets_of(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where rows of these sizes (m,) begin and the last one ends (m + 1,); on the host."""
    offsets = np.zeros(sizes.size + 1, np.int64)
    sizes.cumsum(out=offsets[1:])
    return offsets


def gather(sources: Sequence[tuple[Any, Any]], advance: Advance = ignore) -> Any:
    """Bring rows of arrays (spaces, n, ...) into one array, in C order, on their device.

    sources : arrays, and which rows (k,) of each, or None for all of it
    advance : called with how many numbers were copied
    """
    first = sources[0][0]
    xp = namespace(first)
    if xp is not np:
        parts = [array if rows is None else array[:, rows] for array, rows in sources]
        whole = xp.ascontiguousarray(xp.concatenate(parts, axis=1))
        advance(whole.size)
        return whole
    sizes = [array.shape[1] if rows is None else len(rows) for array, rows in sources]
    out = np.empty((first.shape[0], sum(sizes), *first.shape[2:]), first.dtype)
    at = 0
    for (array, rows), size in zip(sources, sizes, strict=True):
        for part in pieces(size, first[:, :1].size):
            target = out[:, at + part.start : at + part.stop]
            target[:] = array[:, part if rows is None else rows[part]]
            advance(target.size)
        at += size
    return out


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of the host have one shape and equal elements, NaN being equal to nothing.

    (`numpy.array_equal` takes the exception of a signal handler for a difference.)
    """
    if one.shape != other.shape:
        return False
    if one.ndim == 0 or not (one.flags.c_contiguous and other.flags.c_contiguous):
        return bool((one == other).all())
    flat, others = one.reshape(-1), other.reshape(-1)
    return all((flat[part] == others[part]).all() for part in pieces(flat.size, 1))
