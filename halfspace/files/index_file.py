"""Between an index and its file: which metadata and which arrays."""

import math
import os
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from halfspace import backend as backends
from halfspace.arguments import checks
from halfspace.files import container as storage
from halfspace.model.arrays import equal, host, pieces
from halfspace.model.formats import FORMATS
from halfspace.model.rounding import MAX_CELL_DIM, MAX_DIM
from halfspace.model.segment import Axes, Balls, Cells, Codes, Groups, Segment
from halfspace.runtime.interrupts import of_a_handler
from halfspace.runtime.progress import SILENT, Advance, Meter, ignore
from halfspace.state.build import FILTERS
from halfspace.state.snapshot import MAX_ID, Snapshot

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
    """Read a snapshot; ValueError names what does not fit.

    Metadata and shapes are checked and, without `mmap`, ids, norms and grains. `check` looks at all the rest.
    """
    stored = storage.read(path, mmap=mmap)
    metadata = stored.metadata
    if metadata.get("kind") != KIND:
        raise ValueError(f"{path}: holds {metadata.get('kind')!r:.100}, not {KIND!r}")
    try:
        loaded = _loaded(metadata, stored.arrays)
        if not mmap:
            _check_rows(loaded)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        if of_a_handler(error):
            raise
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: is not a whole index: {what!s:.300}") from error
    return replace(loaded, stored=stored) if mmap else loaded


def _loaded(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> Loaded:
    """Build what metadata and arrays describe; of the arrays, little more than shapes is looked at."""
    dim = _count(metadata["dim"], "dim", 1, MAX_DIM)
    format = checks.one_of(metadata["dtype"], "dtype", tuple(FORMATS))
    filter = checks.one_of(metadata["filter"], "filter", FILTERS)
    if filter not in ("auto", "scan") and dim > MAX_CELL_DIM:
        raise ValueError(f"filter {filter!r} in {dim} dimensions")
    subspaces, group_size = checks.grouping(metadata["subspaces"], metadata["group_size"], dim, filter)
    next_id = _count(metadata["next_id"], "next_id", 0, MAX_ID + 1)
    left = dict(arrays)
    *sealed, tail = (
        _segment(left, number, dim, FORMATS[format][1], about) for number, about in enumerate(metadata["segments"])
    )
    if left:
        raise ValueError(f"section {next(iter(left))!r} belongs to no segment")
    if tail.filter != "scan" or tail.by_id is not None:
        raise ValueError(f"the last segment, which is to grow, has the filter {tail.filter!r}")
    for number, segment in enumerate(sealed):
        if segment.rows == 0:
            raise ValueError(f"segment {number} has no rows")
        _check_next_id(segment.ends[1], next_id)
    _check_next_id(int(tail.ids.max(initial=-1)), next_id)
    return Loaded(dim, format, filter, subspaces, group_size, next_id, tuple(sealed), tail, None)


def _count(value: Any, name: str, least: int, most: int) -> int:
    """Return an integer in a range; a number that only looks like one, as 1.0 or True, is refused."""
    count = checks.as_count(value, name, least)
    if count > most:
        raise ValueError(f"{name} must be at most {most}, got {count}")
    return count


def _grain(text: Any) -> float:
    """Read a positive power of two, or infinity, in hexadecimal."""
    grain = float.fromhex(text)
    if not grain > 0 or (grain != np.inf and math.frexp(grain)[0] != 0.5):
        raise ValueError(f"grain must be a positive power of two, got {text!r:.100}")
    return grain


def _trial(counted: Any) -> dict[str, int] | None:
    """Return the bytes that filters read in a trial, if there was one."""
    if counted is None:
        return None
    if not isinstance(counted, dict) or set(counted) != set(FILTERS[1:]):
        raise TypeError(f"trial must have a count for each filter, got {counted!r:.100}")
    return {name: checks.as_count(count, f"trial of {name}", 0) for name, count in counted.items()}


def _check_next_id(largest: int, next_id: int) -> None:
    if largest >= next_id:
        raise ValueError(f"id {largest} is above the next id to assign, {next_id}")


def _check_rows(loaded: Loaded) -> None:
    """Check ids, norms and grains, on which exact answers rest, against the rows of an index that was read."""
    backend = backends.load("cpu")
    for number, segment in enumerate((*loaded.sealed, loaded.tail)):
        _check_order(segment, f"segment {number}")
        _check_norms(segment, f"segment {number}", backend, backend.available())
        _check_next_id(int(segment.ids.max(initial=-1)), loaded.next_id)
    live = [segment.ids[~segment.dead_rows] for segment in (*loaded.sealed, loaded.tail)]
    _check_distinct(np.sort(np.concatenate(live), kind="stable"))  # quick where runs are in order


def _segment(
    arrays: dict[str, np.ndarray], number: int, dim: int, bits: np.dtype[Any], about: dict[str, Any]
) -> Segment:
    """Take a segment's sections out of `arrays`."""

    def part(name: str, dtype: Any, *shape: int) -> np.ndarray:
        array = arrays.pop(f"{number}/{name}")
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
        size = _count(about["size"], f"size of the groups of segment {number}", 1, max(rows, 1))
        columns = part("columns", np.int64, arrays[f"{number}/columns"].size)
        if columns.size < 2 or columns[0] != 0 or columns[-1] != dim or (columns[1:] <= columns[:-1]).any():
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
        _check_size(balls, f"segment {number}")
    return Segment(
        part("vectors", bits, 1, rows, dim),
        part("ids", np.int64, rows),
        part("norms", np.float32, 1, rows),
        _grain(about["grain"]),
        filter,
        _trial(about["trial"]),
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
    _check_distinct(ids)
    _check_next_id(int(ids.max(initial=-1)), snapshot.next_id)
    meters = meter.split(*(float(segment.rows) for segment in snapshot.segments))
    for number, (segment, own) in enumerate(zip(snapshot.segments, meters, strict=True)):
        _check_segment(segment.moved(host), f"segment {number}", backends.load("cpu"), threads, own)


def _check_segment(segment: Segment, name: str, backend: ModuleType, threads: int, meter: Meter) -> None:
    size = segment.vectors.size
    measuring, deriving = meter.split(1.0, 5.0)
    norms = _check_norms(segment, name, backend, threads, measuring.over(size))
    _check_order(segment, name)
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


def _check_norms(
    segment: Segment, name: str, backend: ModuleType, threads: int, advance: Advance = ignore
) -> np.ndarray:
    """Check the norms and the grain of vectors; return the norms."""
    norms: np.ndarray
    norms, grain = backend.measure(segment.vectors, threads, advance)
    if not equal(norms, segment.norms) or grain < segment.grain:
        raise ValueError(f"{name}: norms do not fit the vectors")
    return norms


def _check_order(segment: Segment, name: str) -> None:
    """Check that ids ascend where they are to be searched by halves; `by_id` then names each row once."""
    ids, by_id = segment.ids, segment.by_id
    if by_id is not None:
        if by_id.min(initial=0) < 0 or by_id.max(initial=-1) >= segment.rows:
            raise ValueError(f"{name}: by_id does not name rows")
        ids = ids[by_id]
    if (segment.filter != "scan" or by_id is not None) and (ids[1:] <= ids[:-1]).any():
        raise ValueError(f"{name}: ids are not in order")


def _check_distinct(ids: np.ndarray) -> None:
    """Check that sorted ids differ."""
    repeated = ids[1:] == ids[:-1]
    if repeated.any():
        raise ValueError(f"id {ids[1:][repeated][0]} is there twice")


def _check_size(balls: Balls, name: str) -> None:
    """Check in constant time that groups have as many rows as is stated: the first one ends where it should."""
    members, holders = balls.members[0], balls.holders[0]
    for subspace in range(len(members)):
        ends = members[subspace, balls.size - 1 : balls.size + 1]
        if not equal(holders[subspace, ends], np.arange(ends.size)):
            raise ValueError(f"{name}: groups do not have {balls.size} rows")


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
