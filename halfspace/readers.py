"""Vectors from files: ``.npy``, ``.npz``, ``.fvecs``, ``.bvecs`` and HDF5.

Files are mapped rather than read where their format allows it, so a file may be larger than memory. Nothing is ever
unpickled. What is wrong with a file is a ``ValueError`` that names the file and the place.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SUFFIXES", "read_vectors"]

SUFFIXES = (".npy", ".npz", ".fvecs", ".bvecs", ".hdf5", ".h5")
"""The kinds of file that `read_vectors` knows."""

_NAMED = re.compile(r"(.*\.(?:npz|hdf5|h5)):(.*)", re.IGNORECASE | re.DOTALL)


def read_vectors(path: str | Path) -> NDArray[Any]:
    """Read the vectors of a file as one two-dimensional array.

    Parameters
    ----------
    path : str or Path
        A file of one of these kinds, told apart by the suffix:

        - ``.npy``: one array (n, d), mapped into memory.
        - ``.npz``: the only two-dimensional array of numbers in it, or the one chosen by ``"path.npz:name"``.
        - ``.fvecs``, ``.bvecs``: rows of a little-endian int32 dimension d and then d float32 (``.fvecs``) or d uint8
          (``.bvecs``), mapped into memory; every row must have the same d.
        - ``.hdf5``, ``.h5``: the dataset ``train``, or the one chosen by ``"path.hdf5:name"``, read into memory; files
          of ann-benchmarks have ``train`` and ``test``. It needs h5py.

    Returns
    -------
    ndarray, shape (n, d)
        Real numbers, in the dtype of the file. A mapped array is read-only and need not be contiguous.

    Raises
    ------
    ValueError
        If the suffix is unknown, the file is damaged or cut short, it holds no single (n, d) array of real numbers, or
        h5py is missing.
    OSError
        If the file cannot be opened.
    """
    text = str(path)
    member: str | None = None
    named = None if Path(text).exists() else _NAMED.match(text)
    if named:
        text, member = named.groups()
    file = Path(text)
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{file}: unknown suffix {suffix!r}; known are {', '.join(SUFFIXES)}")
    if suffix == ".npz":
        return _npz(file, member)
    if suffix in (".hdf5", ".h5"):
        return _hdf5(file, "train" if member is None else member)
    if suffix == ".npy":
        return _matrix(_npy(file), str(file))
    return _vecs(file, np.dtype("<f4") if suffix == ".fvecs" else np.dtype("u1"))


def _matrix(array: NDArray[Any], place: str) -> NDArray[Any]:
    """Return the array if it is (n, d) and real, else say what it is instead."""
    if array.ndim != 2:
        raise ValueError(f"{place}: expected an array of shape (n, d), found shape {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{place}: expected real numbers, found dtype {array.dtype}")
    return array


def _npy(file: Path) -> NDArray[Any]:
    """Map a ``.npy`` file; an array of no elements cannot be mapped and is read."""
    try:
        with file.open("rb") as stream:
            shape, _ = _header(stream)
        mode = None if 0 in shape else "r"
        return np.asanyarray(np.load(file, mmap_mode=mode, allow_pickle=False))  # type: ignore[arg-type]
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: not a readable .npy file: {error}") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype from the header of a ``.npy`` stream, without its data."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return tuple(shape), dtype


def _npz(file: Path, member: str | None) -> NDArray[Any]:
    """Read the chosen array of a ``.npz`` file, or the only matrix in it, looking at headers before data."""
    try:
        with zipfile.ZipFile(file) as archive:
            heads = {}
            for entry in archive.namelist():
                if entry.endswith(".npy"):
                    with archive.open(entry) as stream:
                        heads[entry.removesuffix(".npy")] = _header(stream)
        found = ", ".join(f"{name} {dtype} {shape}" for name, (shape, dtype) in heads.items()) or "no array"
        if member is None:
            matrices = [name for name, (shape, dtype) in heads.items() if len(shape) == 2 and dtype.kind in "fiu"]
            if len(matrices) != 1:
                count = "more than one" if matrices else "no"
                raise ValueError(f"{count} two-dimensional array of numbers; choose with {file}:NAME from {found}")
            member = matrices[0]
        elif member not in heads:
            raise ValueError(f"no array named {member!r}; it holds {found}")
        with np.load(file, allow_pickle=False) as data:
            array: NDArray[Any] = data[member]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file}: {error}") from error
    return _matrix(array, f"{file}:{member}")


def _hdf5(file: Path, member: str) -> NDArray[Any]:
    """Read a dataset of an HDF5 file."""
    with file.open("rb"):  # so that what cannot be opened fails as it does for the other formats
        pass
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{file}: reading HDF5 needs h5py: pip install h5py") from None
    try:
        with h5py.File(file, "r") as archive:
            heads: dict[str, Any] = {}
            archive.visititems(lambda name, item: heads.update({name: item} if isinstance(item, h5py.Dataset) else {}))
            if member not in heads:
                found = ", ".join(f"{name} {item.dtype} {item.shape}" for name, item in heads.items()) or "no dataset"
                raise ValueError(f"no dataset named {member!r}; choose with {file}:NAME from {found}")
            array: NDArray[Any] = heads[member][()]
    except OSError as error:
        raise ValueError(f"{file}: not a readable HDF5 file: {error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return _matrix(np.asarray(array), f"{file}:{member}")


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
