"""The state of an index at one moment: sealed segments and a tail. Never changed; writers make the next one.

Appending fills the tail, whose rows are scanned. A full tail is sealed: joined into one segment with cells. Segments
of like size merge, `FANOUT` at a time, so that a vector is copied O(log n) times in all and a query sees O(log n)
segments.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.rounding import MAX_CELL_DIM
from halfspace.segment import Segment, join

__all__ = ["FANOUT", "TAIL_ROWS", "Sealer", "Snapshot", "Table", "empty"]

TAIL_ROWS = 256
"""Rows that the tail holds before it is sealed."""
FANOUT = 4
"""Segments of like size that merge into one."""


def empty(bits: np.dtype[np.generic], dim: int, spaces: int = 1) -> Segment:
    """Return a segment without rows."""
    return Segment(np.empty((spaces, 0, dim), bits), np.empty(0, np.int64), np.empty((spaces, 0), np.float32), np.inf)


@dataclass(frozen=True)
class Sealer:
    """How segments are sealed."""

    backend: ModuleType
    cells: bool
    threads: int

    def seal(self, segments: Iterable[Segment]) -> Segment:
        """Join segments into one and derive its cells."""
        joined = join(list(segments))
        if self.cells and joined.rows and joined.vectors.shape[2] <= MAX_CELL_DIM:
            return replace(joined, cells=self.backend.encode(joined.vectors, self.threads))
        return joined


class Table(NamedTuple):
    """Segments as the kernels see them: addresses, and whatever keeps the memory at those addresses alive."""

    records: np.ndarray  # SEGMENT (spaces, segments)
    owners: tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Sealed segments in order of their first ids, the tail, and the next id to assign."""

    sealed: tuple[Segment, ...]
    tail: Segment
    next_id: int
    sealer: Sealer

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments that hold rows."""
        return (*self.sealed, self.tail) if self.tail.rows else self.sealed

    @property
    def live(self) -> int:
        """Number of vectors."""
        return sum(segment.live for segment in self.segments)

    @cached_property
    def table(self) -> Table:
        """All segments as the kernels see them."""
        rows = [list(space) for space in zip(*(segment.addresses for segment in self.segments), strict=True)]
        records = np.array(rows or [[]] * self.tail.vectors.shape[0], self.sealer.backend.SEGMENT)
        return Table(records, self.segments)

    def ids(self) -> npt.NDArray[np.int64]:
        """All ids, ascending."""
        parts = [segment.ids[~segment.dead_rows] for segment in self.segments]
        return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))

    def locate(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Find the segment and the row of each id (k,); the segment is -1 where there is none."""
        where = np.full(ids.size, -1)
        rows = np.full(ids.size, -1)
        for number, segment in enumerate(self.segments):
            found = segment.find(ids)
            here = found >= 0
            where[here] = number
            rows[here] = found[here]
        return where, rows

    def sealing(self, fresh: Segment) -> "Snapshot":
        """Seal the tail together with fresh rows, and merge what has become of like size."""
        segments = [*self.sealed, self.sealer.seal([self.tail, fresh])]
        while True:
            levels: dict[int, list[Segment]] = {}
            for segment in segments:
                levels.setdefault(_level(segment), []).append(segment)
            crowded = next((level for level in sorted(levels) if len(levels[level]) >= FANOUT), None)
            if crowded is None:
                break
            segments = [segment for segment in segments if _level(segment) != crowded]
            segments.append(self.sealer.seal(levels[crowded]))
        return self.holding(segments, _no_rows(self.tail))

    def excluding(self, where: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> "Snapshot":
        """Mark rows of segments as dead; a sealed segment more than half dead is rewritten without them."""
        segments = list(self.segments)
        for number in np.unique(where):
            segments[number] = segments[number].excluding(rows[where == number])
        tail = segments.pop() if self.tail.rows else self.tail
        return self.holding(
            [self.sealer.seal([segment]) if 2 * segment.live < segment.rows else segment for segment in segments], tail
        )

    def compacted(self) -> "Snapshot":
        """Seal everything into one segment."""
        return self.holding([self.sealer.seal(self.segments)] if self.segments else [], _no_rows(self.tail))

    def holding(self, sealed: Iterable[Segment], tail: Segment) -> "Snapshot":
        """Return a snapshot with other segments."""
        kept = sorted((segment for segment in sealed if segment.live), key=lambda segment: int(segment.ids[0]))
        return replace(self, sealed=tuple(kept), tail=tail)


def _level(segment: Segment) -> int:
    """Size class of a segment: FANOUT^level tails."""
    level = 0
    while segment.rows >= TAIL_ROWS * FANOUT ** (level + 1):
        level += 1
    return level


def _no_rows(segment: Segment) -> Segment:
    spaces, _, dim = segment.vectors.shape
    return empty(segment.vectors.dtype, dim, spaces)
