"""A table on the device: its records, and which chunks its segments have."""

from dataclasses import dataclass, field
from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.runtime.records import KINDS
from halfspace.model.segment import Segment
from halfspace.model.table import Table

__all__ = ["Uploaded", "upload"]

CHUNK = 1024
FEW = 1 << 12
"""Candidates that there is always room for."""
SHARE = 128
"""Room for candidates, until one knows better: one row in so many."""
FADING = 0.9
"""What the number of candidates that one question had counts for at the next."""
MODERATE = 2.0**60
"""The largest norm for which float32 will do in a matrix product."""


@dataclass
class Uploaded:
    """What the kernels need to know of a table, on the device."""

    records: Any  # the bytes of SEGMENT (spaces, segments)
    owners: Any  # int32 (chunks,), the segment of each chunk
    listed: dict[str, Any]  # by kind: int32, its chunks, or None
    with_balls: list[tuple[int, Segment, Any]]  # number, segment, int32 chunks
    kinds: list[str]
    spaces: int
    chunks: int
    moderate: bool
    ordered: bool
    processors: int
    shared: int  # bytes of shared memory that a block may have
    seen: dict[int, tuple[float, float]] = field(default_factory=dict)  # by what was wanted: see `expected`
    spare: dict[tuple[int, int], list[Any]] = field(default_factory=dict)  # runs that nobody uses, by their shape

    @property
    def filtered(self) -> bool:
        """Whether any segment has more than its vectors."""
        return any(kind != "scan" for kind in self.kinds)

    @property
    def rows(self) -> int:
        """Rows, rounded up to whole chunks."""
        return CHUNK * self.chunks

    def expected(self, count: int, wanted: int, most: int) -> tuple[int, int]:
        """Guess how many candidates, and how many hits, there will be for so many directions."""
        shares = self.seen.get(wanted, (1 / SHARE, 1 / SHARE))
        candidates, hits = (max(FEW, min(most, int(1.25 * count * self.rows * share))) for share in shares)
        return candidates, hits

    def remember(self, count: int, wanted: int, candidates: int, hits: int) -> None:
        """Note how many there were; what was before fades slowly, since searching twice costs more than memory."""
        pairs = max(1, count * self.rows)
        before = self.seen.get(wanted, (0.0, 0.0))
        self.seen[wanted] = max(candidates / pairs, FADING * before[0]), max(hits / pairs, FADING * before[1])


def upload(table: Table) -> Uploaded:
    """Bring a table to the device, once."""
    known: Uploaded | None = table.kept.get("gpu")
    return known or table.kept.setdefault("gpu", _upload(table))


def _upload(table: Table) -> Uploaded:
    records = table.records.copy()
    chunks_each = [-(-segment.rows // CHUNK) for segment in table.segments]
    firsts = np.cumsum([0, *chunks_each])
    records["first"] = firsts[:-1]
    kinds = [KINDS[int(kind)] for kind in records["kind"][0]]
    owners = np.repeat(np.arange(len(kinds), dtype=np.int32), chunks_each)
    of_kind = np.array(kinds)[owners] if owners.size else np.empty(0, str)
    listed: dict[str, Any] = {}
    for kind in KINDS:
        own = np.flatnonzero(of_kind == kind).astype(np.int32)
        listed[kind] = cp.asarray(own) if own.size else None
    with_balls = [
        (which, segment, cp.arange(firsts[which], firsts[which + 1], dtype=np.int32))
        for which, segment in enumerate(table.segments)
        if segment.balls is not None
    ]
    device = cp.cuda.Device()
    return Uploaded(
        cp.asarray(np.ascontiguousarray(records).view(np.uint8).reshape(-1)),
        cp.asarray(owners),
        listed,
        with_balls,
        kinds,
        len(records),
        int(firsts[-1]),
        all(_moderate(segment) for segment in table.segments if segment.cells is not None),
        table.ordered,
        device.attributes["MultiProcessorCount"],
        device.attributes["MaxSharedMemoryPerBlockOptin"],
    )


def _moderate(segment: Segment) -> bool:
    """Whether all norms of a segment with cells are moderate; asked of the device once."""
    assert segment.cells is not None
    if "moderate" not in segment.kept:
        segment.kept["moderate"] = float(segment.cells.peaks.max()) <= MODERATE
    return bool(segment.kept["moderate"])
