"""Between an index and its file: which metadata and which arrays."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from halfspace import backend as backends
from halfspace.arguments import checks
from halfspace.files import container
from halfspace.files.streams import Source, Target
from halfspace.model.arrays import equal, host
from halfspace.model.filters import AUTO, FILTERS, Building, Rows, names
from halfspace.model.formats import FORMATS
from halfspace.model.layout import Sections
from halfspace.model.metrics import METRICS, Metric
from halfspace.model.rounding import MAX_DIM
from halfspace.model.segment import SCAN, Segment
from halfspace.runtime.interrupts import of_a_handler
from halfspace.runtime.progress import SILENT, Advance, Meter, ignore
from halfspace.state.build import Builder
from halfspace.state.snapshot import MAX_ID, Snapshot

__all__ = ["Loaded", "check", "load", "metadata_of", "save", "taken_apart"]

KIND = "halfspace index"


@dataclass(frozen=True)
class Loaded:
    """What a file holds."""

    dim: int
    format: str
    filter: str
    metric: str
    subspaces: int | None
    group_size: int | None
    next_id: int
    sealed: tuple[Segment, ...]
    tail: Segment
    stored: container.StoredFile | None  # where it is mapped, and not all checked yet


def save(target: Target, snapshot: Snapshot, dim: int, format: str) -> None:
    """Write a snapshot: the sealed segments in order, the tail last."""
    arrays: dict[str, np.ndarray] = {}
    segments = []
    for number, segment in enumerate((*snapshot.sealed, snapshot.tail)):
        about, own = taken_apart(segment)
        segments.append(about)
        arrays |= {f"{number}/{name}": array for name, array in own.items()}
    container.write(target, metadata_of(snapshot.builder, dim, format, snapshot.next_id, segments), arrays)


def metadata_of(
    builder: Builder, dim: int, format: str, next_id: int, segments: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the metadata of an index: how it is built, and what is to be said of each segment, the tail last."""
    metadata = {
        "kind": KIND,
        "dim": dim,
        "dtype": format,
        "filter": builder.filter,
        "subspaces": builder.subspaces,
        "group_size": builder.group_size,
        "next_id": next_id,
        "segments": segments,
    }
    if builder.metric != Metric.IP:  # files of that metric are older than metrics
        metadata["metric"] = builder.metric.label
    return metadata


def taken_apart(segment: Segment) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what is to be said of a segment, and its arrays by the names of their sections: part of the format."""
    about: dict[str, Any] = {"grain": segment.grain.hex(), "filter": segment.filter, "trial": segment.trial}
    data = FILTERS[segment.filter].data
    about |= {name: getattr(segment.data, name) for name in (data.ABOUT if data else ())}
    parts = {
        "vectors": segment.vectors,
        "ids": segment.ids,
        "norms": segment.norms,
        "by_id": segment.by_id,
        "dead": segment.dead,
    }
    held = {name: array for name, array in parts.items() if array is not None}
    return about, held if segment.data is None else held | segment.data.sections()


def load(source: Source, mmap: bool) -> Loaded:
    """Read a snapshot; ValueError names what does not fit.

    Metadata and shapes are checked and, without `mmap`, ids, norms and grains. `check` looks at all the rest.
    """
    stored = container.read(source, mmap=mmap)
    metadata = stored.metadata
    if metadata.get("kind") != KIND:
        raise ValueError(f"{stored.name}: holds {metadata.get('kind')!r:.100}, not {KIND!r}")
    try:
        loaded = _loaded(metadata, stored.arrays)
        if not mmap:
            _check_rows(loaded)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        if of_a_handler(error):
            raise
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{stored.name}: is not a whole index: {what!s:.300}") from error
    return replace(loaded, stored=stored) if mmap else loaded


def _loaded(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> Loaded:
    """Build what metadata and arrays describe; of the arrays, little more than shapes is looked at."""
    dim = _count(metadata["dim"], "dim", 1, MAX_DIM)
    format = checks.one_of(metadata["dtype"], "dtype", tuple(FORMATS))
    metric = checks.one_of(metadata.get("metric", Metric.IP.label), "metric", METRICS)
    filter = checks.one_of(metadata["filter"], "filter", names())
    if filter != AUTO:
        checks.suits(FILTERS[filter], dim, metric)
    subspaces, group_size = checks.grouping(metadata["subspaces"], metadata["group_size"], dim, filter)
    next_id = _count(metadata["next_id"], "next_id", 0, MAX_ID + 1)
    left = dict(arrays)
    *sealed, tail = (
        _segment(
            Sections(left, f"{number}/"), f"segment {number}", dim, FORMATS[format][1], {**about, "metric": metric}
        )
        for number, about in enumerate(metadata["segments"])
    )
    if left:
        raise ValueError(f"section {next(iter(left))!r} belongs to no segment")
    if tail.filter != SCAN or tail.by_id is not None:
        raise ValueError(f"the last segment, which is to grow, has the filter {tail.filter!r}")
    for number, segment in enumerate(sealed):
        if segment.rows == 0:
            raise ValueError(f"segment {number} has no rows")
        _check_next_id(segment.ends[1], next_id)
    _check_next_id(int(tail.ids.max(initial=-1)), next_id)
    return Loaded(dim, format, filter, metric, subspaces, group_size, next_id, tuple(sealed), tail, None)


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
    if not isinstance(counted, dict):
        raise TypeError(f"trial must have counts of filters, got {counted!r:.100}")
    return {name: checks.as_count(count, f"trial of {name}", 0) for name, count in counted.items()}


def _check_next_id(largest: int, next_id: int) -> None:
    if largest >= next_id:
        raise ValueError(f"id {largest} is above the next id to assign, {next_id}")


def _check_rows(loaded: Loaded) -> None:
    """Check ids, norms and grains, on which exact answers rest, against the rows of an index that was read."""
    how = _on_host(Metric.named(loaded.metric))
    for number, segment in enumerate((*loaded.sealed, loaded.tail)):
        _check_order(segment, f"segment {number}")
        _check_norms(segment, f"segment {number}", how)
        _check_next_id(int(segment.ids.max(initial=-1)), loaded.next_id)
    live = [segment.ids[~segment.dead_rows] for segment in (*loaded.sealed, loaded.tail)]
    _check_distinct(np.sort(np.concatenate(live), kind="stable"))  # quick where runs are in order


def _on_host(metric: Metric, threads: int | None = None) -> Building:
    """Files are checked on the host for all devices, which derive the same bits."""
    backend = backends.load("cpu")
    return Building(backend, backend.available() if threads is None else threads, metric=metric)


def _segment(sections: Sections, name: str, dim: int, bits: np.dtype[Any], about: dict[str, Any]) -> Segment:
    """Take a segment's sections out of a file."""

    def optional(section: str, dtype: Any, *shape: int) -> np.ndarray | None:
        return sections.take(section, dtype, shape) if section in sections else None

    rows, filter = sections.size("ids"), about["filter"]
    if filter not in FILTERS:
        raise ValueError(f"{name} has the filter {filter!r}")
    spec = FILTERS[filter]
    if (why_not := spec.why_not(dim, about["metric"])) is not None:
        raise ValueError(f"{name}: {why_not}")
    try:
        data = None if spec.data is None else spec.data.read(sections, rows, dim, about)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    return Segment(
        sections.take("vectors", bits, (1, rows, dim)),
        sections.take("ids", np.int64, (rows,)),
        sections.take("norms", np.float32, (1, rows)),
        _grain(about["grain"]),
        filter,
        _trial(about["trial"]),
        data,
        optional("by_id", np.int64, rows),
        optional("dead", np.uint8, -(-rows // 8)),
    )


def check(snapshot: Snapshot, threads: int, meter: Meter = SILENT) -> None:
    """Check that ids are unique, and derive again all that is derived from vectors; ValueError names what differs."""
    ids = host(snapshot.ids())
    _check_distinct(ids)
    _check_next_id(int(ids.max(initial=-1)), snapshot.next_id)
    meters = meter.split(*(float(segment.rows) for segment in snapshot.segments))
    how = _on_host(snapshot.builder.metric, threads)
    for number, (segment, own) in enumerate(zip(snapshot.segments, meters, strict=True)):
        _check_segment(segment.moved(host), f"segment {number}", how, own)


def _check_segment(segment: Segment, name: str, how: Building, meter: Meter) -> None:
    size = segment.vectors.size
    measuring, deriving = meter.split(1.0, 5.0)
    norms = _check_norms(segment, name, how, measuring.over(size))
    _check_order(segment, name)
    data: Any = segment.data
    if data is None:
        return
    kept = data.sections()
    try:
        again = data.again(Rows(segment.vectors, norms), how, deriving.over(data.PASSES * size))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    for part, array in again.sections().items():
        if array is not kept[part] and not equal(array, kept[part]):
            raise ValueError(f"{name}: {part} do not fit the vectors")


def _check_norms(segment: Segment, name: str, how: Building, advance: Advance = ignore) -> np.ndarray:
    """Check the norms and the grain of vectors; return the norms."""
    norms: np.ndarray
    norms, grain = how.backend.measure(segment.vectors, how.threads, advance)
    if not equal(norms, segment.norms) or grain < segment.grain:
        raise ValueError(f"{name}: norms do not fit the vectors")
    if how.metric == Metric.COSINE and not norms.all():
        raise ValueError(f"{name}: row {int(np.flatnonzero(norms.ravel() == 0)[0])} is zero, which has no cosine")
    return norms


def _check_order(segment: Segment, name: str) -> None:
    """Check that ids ascend where they are to be searched by halves; `by_id` then names each row once."""
    ids, by_id = segment.ids, segment.by_id
    if by_id is not None:
        if by_id.min(initial=0) < 0 or by_id.max(initial=-1) >= segment.rows:
            raise ValueError(f"{name}: by_id does not name rows")
        ids = ids[by_id]
    if (segment.filter != SCAN or by_id is not None) and (ids[1:] <= ids[:-1]).any():
        raise ValueError(f"{name}: ids are not in order")


def _check_distinct(ids: np.ndarray) -> None:
    """Check that sorted ids differ."""
    repeated = ids[1:] == ids[:-1]
    if repeated.any():
        raise ValueError(f"id {ids[1:][repeated][0]} is there twice")
