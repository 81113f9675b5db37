"""Vectors from files: arrays, archives, tables, and lines of JSON.

Files are mapped rather than read where their format allows it, so a file may be larger than memory. Nothing is ever
unpickled. What is wrong with a file is a ``ValueError`` that names the file and the place.
"""

from __future__ import annotations

import math
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from halfspace.files import binary, jsonl, parquet, safetensors
from halfspace.files.atomic import regular_mode
from halfspace.files.reading import Report, check_dtype, chosen, matrix, reading
from halfspace.runtime.interrupts import undisturbed

__all__ = [
    *("STANDARD_INPUT", "SUFFIXES", "called", "file_of", "nothing"),
    *("read_column", "read_identified", "read_tau", "read_vectors", "split"),
]

SUFFIXES = (".npy", ".npz", *binary.SUFFIXES, ".hdf5", ".h5", ".parquet", ".safetensors", ".jsonl")
"""The kinds of file that `read_vectors` knows."""

STANDARD_INPUT = "-"
"""The path that stands for standard input, of lines of JSON."""

_NAMED = re.compile(r"(.*\.(?:npz|hdf5|h5|parquet|safetensors)):(.*)", re.IGNORECASE | re.DOTALL)


def nothing(done: int, total: int | None) -> None:
    """Take progress that nobody asked for."""


def read_vectors(path: str | Path, progress: Report = nothing) -> NDArray[Any]:
    """Read the vectors of a file as one two-dimensional array.

    Parameters
    ----------
    path : str or Path
        A file of one of these kinds, told apart by the suffix:

        - ``.npy``: one array (n, d), or (d,) for one vector, mapped into memory.
        - ``.npz``: the only two-dimensional array of numbers in it, or the one chosen by ``"path.npz:name"``.
        - ``.fvecs``, ``.bvecs``: rows of a little-endian int32 dimension d and then d float32 (``.fvecs``) or d uint8
          (``.bvecs``), mapped into memory; every row must have the same d.
        - ``.fbin``, ``.u8bin``, ``.i8bin``: two little-endian uint32, n and d, and then n rows of d float32, uint8 or
          int8, mapped into memory. A name may go on with ``.crop_nb_`` and a number, as big-ann-benchmarks calls the
          first rows of a set; ``.bin`` is read as ``.fbin``.
        - ``.hdf5``, ``.h5``: the dataset ``train``, or the one chosen by ``"path.hdf5:name"``, read into memory; files
          of ann-benchmarks have ``train`` and ``test``. It needs h5py.
        - ``.safetensors``: the only two-dimensional tensor of numbers in it, or the one chosen by
          ``"path.safetensors:name"``, mapped into memory.
        - ``.parquet``: the only column of lists of numbers, or the one chosen by ``"path.parquet:name"``; lists have
          one length, fixed by their type or not. It is decoded piece by piece, and needs pyarrow.
        - ``.jsonl``, or ``"-"`` for standard input: a vector in each line of JSON, as an array of numbers or as the
          ``"vector"`` of an object; read line by line.
    progress : callable, optional
        Called with how much is read and of how much, None if nobody knows, by the formats that are read piece by piece.
        An exception of it ends the reading.

    Returns
    -------
    ndarray, shape (n, d)
        Real numbers, in the dtype of the file. A mapped array is read-only and need not be contiguous.

    Raises
    ------
    ValueError
        If the suffix is unknown, the file is damaged or cut short, it holds no single array of real numbers, its
        numbers lie in other files, as those of HDF5 may, rows differ in length or miss a number, or a library that the
        format needs is missing.
    OSError
        If the file cannot be opened, or is a folder, a pipe or a device.
    """
    return _read(path, progress, identified=False)[0]


def read_identified(path: str | Path, progress: Report = nothing) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Read vectors as `read_vectors` does, and their ids (n,) if they are objects of JSON that have an ``"id"``."""
    return _read(path, progress, identified=True)


def _read(path: str | Path, progress: Report, *, identified: bool) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    if str(path) == STANDARD_INPUT:
        if sys.stdin is None:
            raise ValueError("standard input is closed")
        return jsonl.read(sys.stdin.buffer, called(path), None, progress, identified=identified)
    file, member = split(path)
    suffix = binary.suffix_of(file)
    if suffix not in SUFFIXES:
        raise ValueError(f"{file}: unknown suffix {suffix!r}; known are {', '.join(SUFFIXES)}")
    regular_mode(file)
    if suffix == ".jsonl":
        with file.open("rb") as stream:
            total = os.fstat(stream.fileno()).st_size
            return jsonl.read(stream, str(file), total, progress, identified=identified)
    if suffix == ".parquet":
        return parquet.read(file, member, progress), None
    return _array(file, member, suffix), None


def _array(file: Path, member: str | None, suffix: str) -> NDArray[Any]:
    """Read a file that is one array, or several with names."""
    if suffix == ".npz":
        return undisturbed(_npz, file, member)
    if suffix == ".safetensors":
        return undisturbed(safetensors.read, file, member)
    if suffix in (".hdf5", ".h5"):
        return undisturbed(_hdf5, file, "train" if member is None else member)
    if suffix == ".npy":
        return matrix(undisturbed(_npy, file), str(file))
    return binary.read(file, suffix)


def called(path: str | Path) -> str:
    """Return what errors call a path as `read_vectors` takes it."""
    return "standard input" if str(path) == STANDARD_INPUT else str(path)


def file_of(path: str | Path) -> Path:
    """Return the file that a path as `read_vectors` takes it is in."""
    return split(path)[0]


def read_column(path: str | Path, n: int, what: str, kinds: str) -> NDArray[Any]:
    """Read a ``.npy`` file of one number per row, (n,), whose dtype is of one of the `kinds`, such as ``"iu"``."""
    file = Path(path)
    regular_mode(file)
    column = undisturbed(_npy, file)
    if column.dtype.kind not in kinds or column.dtype.itemsize > 8 or column.shape != (n,):
        raise ValueError(f"{path}: expected one {what} per row, shape ({n},), found {column.dtype} {column.shape}")
    return column


def read_tau(text: str, m: int, name: str = "tau") -> NDArray[np.float64]:
    """Read thresholds (m,) of an option: a number for all directions, or a ``.npy`` file of one per direction."""
    try:
        number = float(text)
    except ValueError:
        if not text.endswith(".npy"):
            raise ValueError(f"--{name} {text!r} is neither a number nor a .npy file") from None
    else:
        if math.isnan(number):
            raise ValueError(f"--{name} {text!r} is not a number")
        return np.full(m, number)
    taus = read_column(text, m, name, "fiu").astype(np.float64)
    if np.isnan(taus).any():
        raise ValueError(f"{text}: {name} of direction {int(np.flatnonzero(np.isnan(taus))[0])} is nan")
    return taus


def split(path: str | Path) -> tuple[Path, str | None]:
    """Split ``"file.npz:name"``; a file that has this name as a whole is one."""
    named = None if undisturbed(os.path.exists, path) else _NAMED.match(str(path))
    return (Path(named[1]), named[2]) if named else (Path(path), None)


def _npy(file: Path) -> NDArray[Any]:
    """Map a ``.npy`` file; an array of no elements cannot be mapped and is read."""
    with file.open("rb") as stream, reading(file, "not a readable .npy file: "):
        shape, dtype = _header(stream, os.fstat(stream.fileno()).st_size)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are never unpickled")
        mode = None if 0 in shape else "r"
        return np.asanyarray(np.load(file, mmap_mode=mode, allow_pickle=False))  # type: ignore[arg-type]


def _header(stream: IO[bytes], nbytes: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype from the header of a ``.npy`` stream of so many bytes, which must hold its data."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if any(length < 0 for length in shape):
        raise ValueError(f"its header states the shape {shape}")
    needed, found = math.prod(shape) * dtype.itemsize, nbytes - stream.tell()
    if needed > found and not dtype.hasobject:
        raise ValueError(f"its header states {dtype} {shape}, which takes {needed} bytes; {found} follow")
    return tuple(shape), dtype


def _npz(file: Path, member: str | None) -> NDArray[Any]:
    """Read the chosen array of a ``.npz`` file, or the only matrix in it, looking at headers before data."""
    with file.open("rb") as opened, reading(file):
        heads = {}
        with zipfile.ZipFile(opened) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".npy"):
                    with archive.open(entry) as stream:
                        heads[entry.filename.removesuffix(".npy")] = _header(stream, entry.file_size)
        held = {name: f"{dtype} {shape}" for name, (shape, dtype) in heads.items()}
        matrices = [name for name, (shape, dtype) in heads.items() if len(shape) == 2 and dtype.kind in "fiu"]
        member = chosen(file, member, held, matrices, ("array", "two-dimensional array of numbers"))
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as data:
            array: NDArray[Any] = data[member]
    return matrix(array, f"{file}:{member}")


def _hdf5(file: Path, member: str) -> NDArray[Any]:
    """Read a dataset of an HDF5 file, all of which must lie in this file."""
    with file.open("rb"):  # so that what cannot be opened fails as it does for the other formats
        pass
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{file}: reading HDF5 needs h5py: pip install h5py") from None
    with reading(file, "not a readable HDF5 file: "):
        archive = h5py.File(file, "r")
    with archive, reading(file):
        heads: dict[str, Any] = {}
        # It visits what lies in this file, and follows neither soft links nor those to other files.
        archive.visititems(lambda name, item: heads.update({name: item} if isinstance(item, h5py.Dataset) else {}))
        if member not in heads:
            found = ", ".join(f"{name} {item.dtype} {item.shape}" for name, item in heads.items()) or "no dataset"
            raise ValueError(f"no dataset named {member!r}; choose with {file}:NAME from {found}; links do not count")
        dataset = heads[member]
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"dataset {member!r} takes its numbers from other files, which are not read")
        if dataset.size and not dataset.id.get_storage_size():
            raise ValueError(f"dataset {member!r} has the shape {dataset.shape}, but no numbers were stored")
        check_dtype(dataset.dtype, f"dataset {member!r}")
        array: NDArray[Any] = np.asarray(dataset[()])
    return matrix(array, f"{file}:{member}")
