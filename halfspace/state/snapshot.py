"""The state of an index at one moment: sealed segments and a tail. Never changed; writers make the next one.

It is a log-structured merge tree (LSM). Appending fills the tail, its memtable, whose rows are scanned. A full tail is
sealed: joined into one segment, for which its filter's data is derived. Segments of like size merge, `FANOUT` at a
time, so that a vector is copied O(log n) times in all and a query sees O(log n) segments.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.model.arrays import host, namespace
from halfspace.model.layout import nbytes
from halfspace.model.segment import Segment, empty
from halfspace.model.table import Table
from halfspace.runtime.derived import derived
from halfspace.runtime.progress import SILENT, Meter
from halfspace.state.build import Builder

__all__ = ["FANOUT", "TAIL_ROWS", "Snapshot"]

TAIL_ROWS = 256
"""Rows that the tail holds before it is sealed."""
FANOUT = 4
"""Segments of like size that merge into one."""
SAMPLED = 1 << 12
"""Vectors that thresholds of the k best are read off."""

MAX_ID = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Sealed segments in order of their first ids, the tail, and the next id to assign."""

    sealed: tuple[Segment, ...]
    tail: Segment
    next_id: int
    builder: Builder

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments that hold rows."""
        return (*self.sealed, self.tail) if self.tail.rows else self.sealed

    @property
    def live(self) -> int:
        """Number of vectors."""
        return sum(segment.live for segment in self.segments)

    @derived
    def table(self) -> Table:
        """All segments as the kernels see them."""
        return Table.of(self.segments or (self.tail,), self.builder.backend)

    @derived
    def sample(self) -> np.ndarray:
        """Stored bits (s, d) of about `SAMPLED` vectors, evenly spread over each segment; so is any first part."""
        xp = namespace(self.tail.ids)
        parts = [self.tail.vectors[0, :0]]
        for segment in self.segments:
            rows = xp.flatnonzero(~segment.dead_rows)
            share = -(-SAMPLED * segment.live // max(self.live, 1))
            chosen = np.linspace(0, segment.live - 1, min(share, segment.live)).astype(np.int64)
            parts.append(segment.vectors[0][rows[xp.asarray(chosen)]])
        whole = xp.concatenate(parts)
        mixed = np.random.default_rng(0).permutation(len(whole))
        sample: np.ndarray = xp.ascontiguousarray(whole[xp.asarray(mixed)])
        return sample

    def ids(self) -> npt.NDArray[np.int64]:
        """All ids, ascending."""
        xp = namespace(self.tail.ids)
        parts = [segment.ids[~segment.dead_rows] for segment in self.segments]
        ids: npt.NDArray[np.int64] = xp.sort(xp.concatenate([xp.empty(0, np.int64), *parts]))
        return ids

    def vectors(self, ids: npt.NDArray[np.int64]) -> np.ndarray:
        """Copy the stored bits of ids (k,), (k, d)."""
        where, rows = self.known(ids)
        xp = namespace(ids)
        out: np.ndarray = xp.empty((ids.size, self.tail.vectors.shape[2]), self.tail.vectors.dtype)
        for number, segment in enumerate(self.segments):
            here = xp.flatnonzero(where == number)
            out[here] = segment.vectors[0][rows[here]]
        return out

    def locate(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Find the segment and the row of each id (k,); the segment is -1 where there is none."""
        xp = namespace(ids)
        where = xp.full(ids.size, -1, np.int64)
        rows = xp.full(ids.size, -1, np.int64)
        for number, segment in enumerate(self.segments):
            found = segment.find(ids)
            where[found >= 0] = number
            rows = xp.maximum(rows, found)
        return where, rows

    def known(self, ids: npt.NDArray[np.int64], name: str = "") -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Like `locate`, but an id that is not there, of the argument `name`, is a KeyError."""
        where, rows = self.locate(ids)
        if (where < 0).any():
            raise KeyError(f"id {int(ids[where < 0][0])}{name and ' in ' + name} is not in the index")
        return where, rows

    def claimed(self, ids: npt.NDArray[np.int64] | None, count: int) -> npt.NDArray[np.int64]:
        """Return the ids of fresh rows (count,): those that are given, which must not be taken, or the next ones."""
        if ids is None:
            if count and self.next_id > MAX_ID - count + 1:
                raise ValueError(f"no id is left above {self.next_id - 1}: give ids")
            xp = namespace(self.tail.ids)
            assigned: npt.NDArray[np.int64] = xp.arange(count, dtype=np.int64)
            return self.next_id + assigned if count else assigned
        taken = self.locate(ids)[0] >= 0
        if taken.any():
            raise ValueError(f"id {int(ids[taken][0])} is in the index already")
        return ids

    def without(self, ids: npt.NDArray[np.int64]) -> "Snapshot":
        """Mark those of the ids (k,) as dead that are there, each named once; nothing is rewritten yet."""
        where, rows = self.locate(ids)
        there = where >= 0
        return self._marked(where[there], rows[there]) if there.any() else self

    def sealing(self, fresh: Segment, meter: Meter = SILENT) -> "Snapshot":
        """Seal the tail together with fresh rows and what is left of segments more than half dead, and merge."""
        parts = self._parts(fresh)
        sealed = [part[0] for part in parts if len(part) == 1]
        joined = [part for part in parts if len(part) > 1]
        sizes = [float(sum(segment.live for segment in part)) for part in joined]
        for part, own in zip(joined, meter.split(*sizes), strict=True):
            sealed.append(self.builder.build(part, own))
        return self.holding(sealed, _no_rows(self.tail))

    def _parts(self, fresh: Segment) -> list[list[Segment]]:
        """Say which segments become one when fresh rows are sealed."""
        whole = [[segment] for segment in self.sealed if not _half_dead(segment)]
        return _merged([*whole, [*filter(_half_dead, self.sealed), self.tail, fresh]])

    def work(self, count: int) -> int:
        """Count the rows that inserting so many would bring into a new segment, or into the tail."""
        if self.tail.rows + count <= TAIL_ROWS:
            return count
        parts = self._parts(replace(self.tail, live=count))  # of which nothing but this is read
        return sum(segment.live for part in parts if len(part) > 1 for segment in part)

    def excluding(self, where: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> "Snapshot":
        """Mark rows of segments as dead; a sealed segment more than half dead is rewritten without them."""
        marked = self._marked(where, rows)
        sealed = [self.builder.build([segment]) if _half_dead(segment) else segment for segment in marked.sealed]
        return self.holding(sealed, marked.tail)

    def _marked(self, where: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> "Snapshot":
        """Mark rows of segments as dead."""
        segments = list(self.segments)
        for number in host(namespace(where).unique(where)).tolist():
            segments[number] = segments[number].excluding(rows[where == number])
        tail = segments.pop() if self.tail.rows else self.tail
        return self.holding(segments, tail)

    def compacted(self, meter: Meter = SILENT) -> "Snapshot":
        """Seal everything into one segment, unless it is in one already that suits."""
        whole = len(self.segments) == 1 == len(self.sealed) and self.live == self.sealed[0].rows
        trying, sealing = meter.split(1.0, 9.0)
        if whole and self.builder.suits(self.sealed[0], trying):
            return self
        return self.holding([self.builder.build(self.segments, sealing)] if self.segments else [], _no_rows(self.tail))

    def holding(self, sealed: Iterable[Segment], tail: Segment) -> "Snapshot":
        """Return a snapshot with other segments."""
        kept = sorted((segment for segment in sealed if segment.live), key=lambda segment: segment.ends[0])
        return replace(self, sealed=tuple(kept), tail=tail)

    def emptied(self) -> "Snapshot":
        """Return a snapshot without vectors, whose ids continue."""
        return self.holding((), _no_rows(self.tail))

    def apart(self) -> "Snapshot":
        """Return the same state for an index of its own: segments are shared, what was asked is noted apart."""
        return replace(self, builder=self.builder.apart())

    def counted(self) -> dict[str, Any]:
        """Count vectors, dead rows that take space still, sealed segments, and rows of the tail and of each filter."""
        segments = self.segments
        return {
            "vectors": self.live,
            "deleted": sum(segment.rows - segment.live for segment in segments),
            "segments": len(self.sealed),
            "tail": self.tail.rows,
            "filters": {
                name: sum(segment.rows for segment in segments if segment.filter == name)
                for name in sorted({segment.filter for segment in segments})
            },
        }

    def sizes(self) -> dict[str, int]:
        """Sum bytes of vectors, of balls of any kind, of ids, and of norms and tombstones."""
        segments = self.segments
        return {
            "bytes_vectors": sum(nbytes(segment.vectors) for segment in segments),
            "bytes_codes": sum(nbytes(segment.data) for segment in segments),
            "bytes_ids": sum(nbytes(segment.ids) + nbytes(segment.by_id) for segment in segments),
            "bytes_bounds": sum(nbytes(segment.norms) + nbytes(segment.dead) for segment in segments),
        }


def _half_dead(segment: Segment) -> bool:
    """Whether more than half of the rows are dead."""
    return 2 * segment.live < segment.rows


def _merged(parts: list[list[Segment]]) -> list[list[Segment]]:
    """Put lists of segments together wherever `FANOUT` would be of like size."""
    while True:
        levels: dict[int, list[list[Segment]]] = {}
        for part in parts:
            levels.setdefault(_level(part), []).append(part)
        crowded = next((level for level in sorted(levels) if len(levels[level]) >= FANOUT), None)
        if crowded is None:
            return parts
        parts = [part for part in parts if _level(part) != crowded]
        parts.append([segment for part in levels[crowded] for segment in part])


def _level(part: list[Segment]) -> int:
    """Size class of the segment that some segments make: FANOUT^level tails."""
    rows = part[0].rows if len(part) == 1 else sum(segment.live for segment in part)
    level = 0
    while rows >= TAIL_ROWS * FANOUT ** (level + 1):
        level += 1
    return level


def _no_rows(segment: Segment) -> Segment:
    spaces, _, dim = segment.vectors.shape
    return empty(namespace(segment.ids), segment.vectors.dtype, dim, spaces)
