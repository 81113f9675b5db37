"""Between an index and its file: which metadata and which arrays."""

import os
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from halfspace import backend as backends
from halfspace import storage
from halfspace.arrays import equal, host, pieces
from halfspace.dtypes import FORMATS
from halfspace.progress import SILENT, Meter
from halfspace.rounding import MAX_CELL_DIM
from halfspace.seal import FILTERS
from halfspace.segment import Axes, Balls, Cells, Codes, Groups, Segment
from halfspace.snapshot import Snapshot

__all__ = ["Loaded", "check", "load", "save"]

KIND = "halfspace index"
_LEVELS = {"cells": 1, "groups": 16, "chunks": 1024}
_CODES = ("codes", "scales", "radii")


@dataclass(frozen=True)
class Loaded:
    """What a file holds."""

    dim: int
    format: str
    filter: str
    subspaces: int | None
    group_size: int | None
    next_id: int
    sealed: tuple[Segment, ...]
    tail: Segment
    stored: storage.StoredFile | None  # where it is mapped, and not all checked yet


def save(path: str | os.PathLike[str], snapshot: Snapshot, dim: int, format: str) -> None:
    """Write a snapshot: the sealed segments in order, the tail last."""
    arrays: dict[str, np.ndarray] = {}
    segments = []
    for number, segment in enumerate((*snapshot.sealed, snapshot.tail)):
        about: dict[str, Any] = {"grain": segment.grain.hex(), "filter": segment.filter, "trial": segment.trial}
        if segment.balls is not None:
            about["size"] = segment.balls.size
        segments.append(about)
        arrays |= {f"{number}/{name}": array for name, array in _sections(segment).items()}
    sealer = snapshot.sealer
    metadata = {
        "kind": KIND,
        "dim": dim,
        "dtype": format,
        "filter": sealer.filter,
        "subspaces": sealer.subspaces,
        "group_size": sealer.group_size,
        "next_id": snapshot.next_id,
        "segments": segments,
    }
    storage.write(path, metadata, arrays)


def _sections(segment: Segment) -> dict[str, np.ndarray]:
    """All arrays of a segment, by name."""
    parts: dict[str, np.ndarray | None] = {
        "vectors": segment.vectors,
        "ids": segment.ids,
        "norms": segment.norms,
        "by_id": segment.by_id,
        "dead": segment.dead,
    }
    if segment.cells is not None:
        parts |= {f"cells/{name}": part for name, part in vars(segment.cells).items() if name != "axes"}
        if segment.cells.axes is not None:
            parts |= {f"axes/{name}": part for name, part in vars(segment.cells.axes).items()}
    if segment.groups is not None:
        parts["centre"] = segment.groups.centre
        for level in _LEVELS:
            parts |= {f"{level}/{name}": part for name, part in vars(getattr(segment.groups, level)).items()}
    if segment.balls is not None:
        balls = segment.balls
        parts |= {"centre": balls.centre, "columns": balls.columns}
        parts |= {"members": balls.members, "holders": balls.holders}
        parts |= {f"balls/{name}": getattr(balls.groups, name) for name in _CODES}
    return {name: array for name, array in parts.items() if array is not None}


def load(path: str | os.PathLike[str], mmap: bool) -> Loaded:
    """Read a snapshot; ValueError names what does not fit."""
    stored = storage.read(path, mmap=mmap)
    metadata = stored.metadata
    if metadata.get("kind") != KIND:
        raise ValueError(f"{path}: holds {metadata.get('kind')!r}, not {KIND!r}")
    try:
        dim, name = int(metadata["dim"]), metadata["dtype"]
        *sealed, tail = (
            _segment(stored.arrays, number, dim, FORMATS[name][1], about)
            for number, about in enumerate(metadata["segments"])
        )
        return Loaded(
            dim,
            name,
            str(metadata["filter"]),
            metadata["subspaces"],
            metadata["group_size"],
            int(metadata["next_id"]),
            tuple(sealed),
            tail,
            stored if mmap else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is not a whole index: {error}") from error


def _segment(
    arrays: dict[str, np.ndarray], number: int, dim: int, bits: np.dtype[Any], about: dict[str, Any]
) -> Segment:
    def part(name: str, dtype: Any, *shape: int) -> np.ndarray:
        array = arrays[f"{number}/{name}"]
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"section {number}/{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
        return array

    def optional(name: str, dtype: Any, *shape: int) -> np.ndarray | None:
        return part(name, dtype, *shape) if f"{number}/{name}" in arrays else None

    def codes(name: str, spaces: int, balls: int, width: int) -> Codes:
        blocks = -(-balls // 64) * 4
        return Codes(
            part(f"{name}/codes", np.uint8, spaces, blocks, -(-width // 4), 16, 4),
            part(f"{name}/scales", np.float32, spaces, 16 * blocks),
            part(f"{name}/radii", np.float32, spaces, 16 * blocks),
        )

    rows, filter = arrays[f"{number}/ids"].size, about["filter"]
    if filter not in FILTERS[1:]:
        raise ValueError(f"segment {number} has the filter {filter!r}")
    cells = groups = balls = None
    if filter != "scan" and dim > MAX_CELL_DIM:
        raise ValueError(f"segment {number} has the filter {filter!r} in {dim} dimensions")
    if filter == "cells":
        blocks, words = -(-rows // 64) * 4, -(-dim // 8)
        axes = None
        if f"{number}/axes/weights" in arrays:
            count = arrays[f"{number}/axes/weights"].size
            if not 16 <= count <= dim or count % 16:
                raise ValueError(f"segment {number} has {count} axes of {dim} dimensions")
            axes = Axes(
                part("axes/axes", np.float32, 1, count, dim),
                part("axes/weights", np.float32, 1, count),
                part("axes/spread", np.float64, 1),
                part("axes/codes", np.uint8, 1, 2, blocks, count // 16, 16, 4),
                part("axes/scales", np.uint16, 1, 16 * blocks),
                part("axes/radii", np.uint16, 1, 2, 16 * blocks),
                part("axes/rests", np.uint16, 1, 2, 16 * blocks),
            )
        cells = Cells(
            part("cells/centre", np.float32, 1, dim),
            part("cells/weights", np.float32, 1, dim),
            part("cells/spans", np.float64, 1, 2),
            part("cells/high", np.uint8, 1, blocks, words, 16, 4),
            part("cells/low", np.uint8, 1, 64 * blocks * words + 64),
            part("cells/scales", np.uint16, 1, 16 * blocks),
            part("cells/radii", np.uint16, 1, 2, 16 * blocks),
            part("cells/peaks", np.float32, 1, -(-rows // 1024)),
            axes,
        )
    elif filter == "groups":
        levels = [codes(name, 1, -(-rows // size), dim) for name, size in _LEVELS.items()]
        groups = Groups(part("centre", np.float32, 1, dim), *levels)
    elif filter in ("balls", "sweep"):
        size, columns = int(about["size"]), arrays[f"{number}/columns"]
        part("columns", np.int64, columns.size)
        if size < 1 or columns.size < 2 or columns[0] != 0 or columns[-1] != dim or (columns[1:] <= columns[:-1]).any():
            raise ValueError(f"segment {number} has groups of {size} rows in the dimensions between {columns.tolist()}")
        count, balls_each = columns.size - 1, -(-rows // size)
        balls = Balls(
            columns,
            size,
            part("centre", np.float32, 1, dim),
            codes("balls", count, balls_each, int(np.diff(columns).max())),
            part("members", np.int32, 1, count, rows),
            part("holders", np.int32, 1, count, rows),
        )
    return Segment(
        part("vectors", bits, 1, rows, dim),
        part("ids", np.int64, rows),
        part("norms", np.float32, 1, rows),
        float.fromhex(about["grain"]),
        filter,
        about["trial"],
        cells,
        groups,
        balls,
        optional("by_id", np.int64, rows),
        optional("dead", np.uint8, -(-rows // 8)),
    )


def check(snapshot: Snapshot, threads: int, meter: Meter = SILENT) -> None:
    """Check that ids are unique, and derive again all that is derived from vectors; ValueError names what differs.

    This is done on the host for all devices, which derive the same bits.
    """
    ids = host(snapshot.ids())
    repeated = ids[1:] == ids[:-1]
    if repeated.any():
        raise ValueError(f"id {ids[1:][repeated][0]} is there twice")
    if ids.size and ids[-1] >= snapshot.next_id:
        raise ValueError(f"id {ids[-1]} is above the next id to assign, {snapshot.next_id}")
    meters = meter.split(*(float(segment.rows) for segment in snapshot.segments))
    for number, (segment, own) in enumerate(zip(snapshot.segments, meters, strict=True)):
        _check_segment(segment.moved(host), f"segment {number}", backends.load("cpu"), threads, own)


def _check_segment(segment: Segment, name: str, backend: ModuleType, threads: int, meter: Meter) -> None:
    size = segment.vectors.size
    measuring, deriving = meter.split(1.0, 5.0)
    norms, grain = backend.measure(segment.vectors, threads, measuring.over(size))
    if not np.array_equal(norms, segment.norms) or grain < segment.grain:
        raise ValueError(f"{name}: norms do not fit the vectors")
    if segment.by_id is not None:
        _check_permutation(segment.by_id, f"{name}: by_id")
    if segment.filter != "scan" or segment.by_id is not None:
        ids = segment.ids if segment.by_id is None else segment.ids[segment.by_id]
        if (ids[1:] <= ids[:-1]).any():
            raise ValueError(f"{name}: ids are not in order")
    derived: Segment = segment
    if segment.cells is not None:
        derived = replace(
            segment, cells=backend.encode(segment.vectors, norms, threads, segment.cells, deriving.over(2 * size))
        )
    if segment.groups is not None:
        advance = deriving.over(3 * size)
        groups = backend.enclose_groups(segment.vectors, threads, segment.groups.centre, advance)
        derived = replace(segment, groups=groups)
    if segment.balls is not None:
        for members in segment.balls.members.reshape(-1, segment.rows):
            _check_permutation(members, f"{name}: members")
        balls = segment.balls
        advance = deriving.over(2 * size)
        again = backend.enclose(segment.vectors, balls.columns, balls.size, threads, advance, balls)
        derived = replace(segment, balls=again)
    kept = _sections(segment)
    for part, array in _sections(derived).items():
        if array is not kept[part] and not equal(array, kept[part]):
            raise ValueError(f"{name}: {part} do not fit the vectors")


def _check_permutation(rows: np.ndarray, name: str) -> None:
    """Check that each row is named once."""
    named = np.zeros(rows.size, np.bool_)
    for part in pieces(rows.size, 1):
        own = rows[part]
        if own.min() < 0 or own.max() >= rows.size:
            break
        named[own] = True
    if not named.all():  # as many names as rows: each once, if all are named
        raise ValueError(f"{name} does not name each row once")
