"""Between an index and its file: which metadata and which arrays."""

import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from halfspace import storage
from halfspace.dtypes import FORMATS
from halfspace.segment import Cells, Segment
from halfspace.snapshot import Snapshot

__all__ = ["Loaded", "check", "load", "save"]

KIND = "halfspace index"
_CELLS = ("codes", "scales", "radii", "centre")


@dataclass(frozen=True)
class Loaded:
    """What a file holds."""

    dim: int
    format: str
    filter: str
    next_id: int
    sealed: tuple[Segment, ...]
    tail: Segment
    stored: storage.StoredFile | None  # where it is mapped, and not all checked yet


def save(path: str | os.PathLike[str], snapshot: Snapshot, dim: int, format: str, filter: str) -> None:
    """Write a snapshot: the sealed segments in order, the tail last."""
    arrays: dict[str, np.ndarray] = {}
    grains = []
    for number, segment in enumerate((*snapshot.sealed, snapshot.tail)):
        grains.append(segment.grain.hex())
        parts = {"vectors": segment.vectors, "ids": segment.ids, "norms": segment.norms, "dead": segment.dead}
        if segment.cells is not None:
            parts |= {name: getattr(segment.cells, name) for name in _CELLS}
        arrays |= {f"{number}/{name}": array for name, array in parts.items() if array is not None}
    metadata = {
        "kind": KIND,
        "dim": dim,
        "dtype": format,
        "filter": filter,
        "next_id": snapshot.next_id,
        "grains": grains,
    }
    storage.write(path, metadata, arrays)


def load(path: str | os.PathLike[str], mmap: bool) -> Loaded:
    """Read a snapshot; ValueError names what does not fit."""
    stored = storage.read(path, mmap=mmap)
    metadata = stored.metadata
    if metadata.get("kind") != KIND:
        raise ValueError(f"{path}: holds {metadata.get('kind')!r}, not {KIND!r}")
    try:
        dim, name, grains = int(metadata["dim"]), metadata["dtype"], metadata["grains"]
        segments = [
            _segment(stored.arrays, number, dim, FORMATS[name][1], float.fromhex(grain))
            for number, grain in enumerate(grains)
        ]
        *sealed, tail = segments
        return Loaded(
            dim, name, str(metadata["filter"]), int(metadata["next_id"]), tuple(sealed), tail, stored if mmap else None
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is not a whole index: {error}") from error


def _segment(arrays: dict[str, np.ndarray], number: int, dim: int, bits: np.dtype[Any], grain: float) -> Segment:
    def part(name: str, dtype: Any, *shape: int) -> np.ndarray:
        array = arrays[f"{number}/{name}"]
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"section {number}/{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
        return array

    rows = arrays[f"{number}/ids"].size
    cells = None
    if f"{number}/codes" in arrays:
        blocks = -(-rows // 64) * 4
        cells = Cells(
            part("codes", np.uint8, 1, blocks, -(-dim // 4), 16, 4),
            part("scales", np.float32, 1, 16 * blocks),
            part("radii", np.float32, 1, 16 * blocks),
            part("centre", np.float32, 1, dim),
        )
    return Segment(
        part("vectors", bits, 1, rows, dim),
        part("ids", np.int64, rows),
        part("norms", np.float32, 1, rows),
        grain,
        cells,
        part("dead", np.uint8, -(-rows // 8)) if f"{number}/dead" in arrays else None,
    )


def check(snapshot: Snapshot, threads: int) -> None:
    """Check that ids are unique, and derive again all that is derived from vectors; ValueError names what differs."""
    ids = snapshot.ids()
    repeated = ids[1:] == ids[:-1]
    if repeated.any():
        raise ValueError(f"id {ids[1:][repeated][0]} is there twice")
    if ids.size and ids[-1] >= snapshot.next_id:
        raise ValueError(f"id {ids[-1]} is above the next id to assign, {snapshot.next_id}")
    for number, segment in enumerate(snapshot.segments):
        _check_segment(segment, f"segment {number}", snapshot.sealer.backend, threads)


def _check_segment(segment: Segment, name: str, backend: ModuleType, threads: int) -> None:
    norms, grain = backend.measure(segment.vectors, threads)
    if not np.array_equal(norms, segment.norms) or grain < segment.grain:
        raise ValueError(f"{name}: norms do not fit the vectors")
    if segment.cells is None:
        return
    if (segment.ids[1:] <= segment.ids[:-1]).any():
        raise ValueError(f"{name}: ids are not in order")
    cells = backend.encode(segment.vectors, threads, segment.cells.centre)
    for part in _CELLS:
        if not np.array_equal(getattr(cells, part), getattr(segment.cells, part)):
            raise ValueError(f"{name}: {part} do not fit the vectors")
