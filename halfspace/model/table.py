"""Segments as the kernels see them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from halfspace.model.layout import chunks_of
from halfspace.model.segment import SCAN, Segment, address
from halfspace.runtime.derived import derived

__all__ = ["Table"]


@dataclass(frozen=True, eq=False)
class Table:
    """Records of addresses, on the host, and what keeps the memory at those addresses, on the device, alive."""

    records: np.ndarray  # SEGMENT (spaces, segments)
    segments: tuple[Segment, ...]
    others: tuple[object, ...] = ()
    allowed: int = 0  # rows that are not excluded, where that was counted
    passed: int = 0  # chunks with which the first segment begins that hold only excluded rows

    @classmethod
    def of(cls, segments: Sequence[Segment], backend: Any) -> "Table":
        """Tabulate at least one segment."""
        tabulated = [backend.tabulate(segment) for segment in segments]
        return cls(np.stack([part[0] for part in tabulated], axis=1), tuple(segments), tuple(tabulated))

    def changed(self, records: np.ndarray, others: Sequence[object], allowed: int = 0) -> "Table":
        """Return a table of the same segments with other records, which need `others` as well."""
        return replace(self, records=records, others=(*self.others, *others), allowed=allowed)

    def part(self, *which: int) -> "Table":
        """Return the table of some segments alone."""
        records = np.ascontiguousarray(self.records[:, which])
        segments = tuple(self.segments[number] for number in which)
        return replace(self, records=records, segments=segments, passed=self.passed if which[:1] == (0,) else 0)

    @derived
    def address(self) -> tuple[int, int, int]:
        """Where the records lie, and their numbers of spaces and segments."""
        return address(self.records), *self.records.shape

    @derived
    def kept(self) -> dict[str, Any]:
        """What a backend derives from a table for its kernels."""
        return {}

    @derived
    def ordered(self) -> bool:
        """Whether all ids are in ascending order, segment after segment, in each by ids."""
        held = [segment for segment in self.segments if segment.rows]
        return all(segment.ordered or segment.by_id is not None for segment in held) and all(
            before.ends[1] < after.ends[0] for before, after in pairwise(held)
        )

    @derived
    def rows(self) -> int:
        """Rows of all segments."""
        return sum(segment.rows for segment in self.segments)

    @derived
    def chunks(self) -> int:
        """Chunks of all segments."""
        return sum(chunks_of(segment.rows) for segment in self.segments)

    @derived
    def by_filter(self) -> dict[str, "Table"]:
        """Return the table of the segments of each filter; those without any go with the first."""
        first = self.filters[0] if self.filters else SCAN
        owners = [first if segment.filter == SCAN else segment.filter for segment in self.segments]
        parts = {name: [k for k, owner in enumerate(owners) if owner == name] for name in dict.fromkeys(owners)}
        return {name: self.part(*which) for name, which in parts.items()}

    @derived
    def filters(self) -> tuple[str, ...]:
        """Filters of the segments, each once, of segments that have more than their vectors."""
        return tuple(dict.fromkeys(segment.filter for segment in self.segments if segment.filter != SCAN))
