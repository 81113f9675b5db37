"""Files of bare numbers: ``.fvecs``, ``.bvecs``, the formats of big-ann-benchmarks, and its answers within a radius."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.files.atomic import regular_mode

__all__ = ["SUFFIXES", "read", "read_answers", "suffix_of"]

_VECS: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1")}
_BINS: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"),
    ".bin": np.dtype("<f4"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
}
SUFFIXES = (*_VECS, *_BINS)
"""The kinds of file that `read` knows."""

_CROPPED = re.compile(r"(.*)\.crop_nb_\d+", re.DOTALL)


def suffix_of(file: Path) -> str:
    """Return the suffix that says what a file is, in lower case: that before ``.crop_nb_1000000``, if it has one."""
    cropped = _CROPPED.fullmatch(file.name)
    return Path(cropped[1] if cropped else file.name).suffix.lower()


def read(file: Path, suffix: str) -> NDArray[Any]:
    """Map the vectors of a file, (n, d)."""
    return _vecs(file, _VECS[suffix]) if suffix in _VECS else _bins(file, _BINS[suffix])


def _vecs(file: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map a ``.fvecs`` or ``.bvecs`` file and check the dimension that each row states."""
    size = file.stat().st_size
    if size < 4:
        raise ValueError(f"{file}: {size} bytes, too short for the dimension of row 0")
    raw: NDArray[np.uint8] = np.memmap(file, dtype=np.uint8, mode="r")
    dim = int(raw[:4].view("<i4")[0])
    if dim < 1:
        raise ValueError(f"{file}: row 0 states dimension {dim}")
    row = 4 + dim * dtype.itemsize
    whole, rest = divmod(size, row)
    rows = raw[: whole * row].reshape(whole, row)
    stated = rows[:, :4].view("<i4")[:, 0]
    wrong = np.flatnonzero(stated != dim)
    if wrong.size:
        first = int(wrong[0])
        raise ValueError(f"{file}: row {first} states dimension {int(stated[first])}, row 0 states {dim}")
    if rest:
        raise ValueError(f"{file}: cut short: row {whole} has {rest} of its {row} bytes (dimension {dim})")
    return rows[:, 4:].view(dtype)


def _bins(file: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map a file that states how many rows it has, and their dimension, and hold it to that."""
    size = file.stat().st_size
    if size < 8:
        raise ValueError(f"{file}: {size} bytes, too short for the number of its rows and their dimension")
    n, dim = (int(number) for number in np.fromfile(file, "<u4", 2))
    needed = 8 + n * dim * dtype.itemsize
    if needed != size:
        raise ValueError(f"{file}: its header states {dtype} ({n}, {dim}), a file of {needed} bytes; it has {size}")
    if 0 in (n, dim):
        return np.empty((n, dim), dtype)
    return np.memmap(file, dtype=dtype, mode="r", offset=8, shape=(n, dim))


def read_answers(path: str | Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read answers of range search, as big-ann-benchmarks and ParlayANN keep them.

    Parameters
    ----------
    path : str or Path
        Little-endian int32: the number of questions m and of all hits, the hits of each question, and their ids. The
        distances that may follow are not read.

    Returns
    -------
    offsets : ndarray of int64, shape (m + 1,)
    ids : ndarray of int64
        Ascending for each question.

    Raises
    ------
    ValueError
        If the numbers do not fit together.
    """
    file = Path(path)
    regular_mode(file)
    numbers: NDArray[np.int32] = np.fromfile(file, "<i4")
    m, total = (int(number) for number in numbers[:2]) if len(numbers) > 1 else (-1, -1)
    sizes = numbers[2 : 2 + max(m, 0)].astype(np.int64)
    ids = numbers[2 + max(m, 0) :][: max(total, 0)].astype(np.int64)
    if m < 0 or total < 0 or len(sizes) != m or len(ids) != total or sizes.sum() != total or (sizes < 0).any():
        raise ValueError(f"{file}: no answers of range search: the numbers of questions, hits and ids do not fit")
    if total and ids.min() < 0:
        raise ValueError(f"{file}: hit {int(ids.argmin())} has the id {int(ids.min())}")
    rows = np.repeat(np.arange(m), sizes)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), ids[np.lexsort((ids, rows))]
