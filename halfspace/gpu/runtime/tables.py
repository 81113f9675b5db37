"""A table on the device: its records, and which chunks its segments have."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import cupy as cp
import numpy as np
import numpy.typing as npt

from halfspace.gpu.filters import FilterCode, code_of
from halfspace.gpu.runtime.launch import has_warp_groups
from halfspace.model.filters import FILTERS
from halfspace.model.layout import CHUNK, chunks_of
from halfspace.model.segment import Segment
from halfspace.model.table import Table

__all__ = ["Part", "Uploaded", "as_expected", "upload"]

FEW = 1 << 12
"""Candidates that there is always room for."""
SHARE = 128
"""Room for candidates, until one knows better: one row in so many."""
AMPLE = 1.25
"""Room for so many times as many as are expected."""
FADING = 0.9
"""What the number of candidates that one question had counts for at the next, where that has far fewer."""
FAR = 0.5
"""Far fewer: so many that they take less than this share of the room."""

SHAPES = 64
"""Shapes of questions of which guesses are kept."""


class Part(NamedTuple):
    """The segments of a table that have one filter."""

    code: FilterCode
    chunks: Any  # int32, the numbers of their chunks
    segments: list[tuple[int, Segment, Any]]  # number, segment, int32 chunks of each


@dataclass
class Uploaded:
    """What the kernels need to know of a table, on the device."""

    records: Any  # the bytes of SEGMENT (spaces, segments)
    owners: Any  # int32 (chunks,), the segment of each chunk
    parts: list[Part]
    spaces: int
    segments: int
    chunks: int
    ordered: bool
    processors: int
    shared: int  # bytes of shared memory that a block may have
    warp_groups: bool  # whether there are instructions of those
    seen: dict[int, tuple[float, float]] = field(default_factory=dict)  # by what was wanted: see `expected`
    guesses: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=dict)  # what `expected` has returned
    spare: dict[tuple[int, int], list[Any]] = field(default_factory=dict)  # runs that nobody uses, by their shape
    rooms: dict[tuple[int, bool], int] = field(default_factory=dict)  # see `halfspace.gpu.search.room`

    @property
    def filtered(self) -> bool:
        """Whether any filter lists candidates."""
        return any(part.code.lists for part in self.parts)

    @property
    def rows(self) -> int:
        """Rows, rounded up to whole chunks."""
        return CHUNK * self.chunks

    def expected(self, count: int, wanted: int, most: int) -> tuple[int, int]:
        """Guess how many candidates, and how many hits, there will be for so many directions."""
        if (known := self.guesses.get((count, wanted, most))) is not None:
            return known
        candidates, hits = self.seen.get(wanted, (1 / SHARE, 1 / SHARE))
        pairs = AMPLE * count * self.rows
        guess = max(FEW, min(most, int(pairs * candidates))), max(FEW, min(most, int(pairs * hits)))
        if len(self.guesses) > SHAPES:
            self.guesses.clear()
        self.guesses[count, wanted, most] = guess
        return guess

    def remember(self, count: int, wanted: int, candidates: int, hits: int) -> None:
        """Note how many there were; what was before fades slowly, since searching twice costs more than memory."""
        pairs = max(1, count * self.rows)
        before = self.seen.get(wanted, (0.0, 0.0))
        self.seen[wanted] = max(candidates / pairs, FADING * before[0]), max(hits / pairs, FADING * before[1])
        self.guesses.clear()


def as_expected(number: int, room: int) -> bool:
    """Whether so many leave of their room what it has to spare, and are not so few that it should shrink."""
    return AMPLE * number <= room and (room <= FEW or AMPLE * number > FAR * room)


def upload(table: Table) -> Uploaded:
    """Bring a table to the device, once."""
    known: Uploaded | None = table.kept.get("gpu")
    return known or table.kept.setdefault("gpu", _upload(table))


def _upload(table: Table) -> Uploaded:
    records = table.records.copy()
    chunks_each = [chunks_of(segment.rows) for segment in table.segments]
    firsts = np.cumsum([0, *chunks_each])
    records["first"] = firsts[:-1]
    owners = np.repeat(np.arange(len(chunks_each), dtype=np.int32), chunks_each)
    device = cp.cuda.Device()
    return Uploaded(
        cp.asarray(np.ascontiguousarray(records).view(np.uint8).reshape(-1)),
        cp.asarray(owners),
        _parts(table, firsts),
        len(records),
        len(chunks_each),
        int(firsts[-1]),
        table.ordered,
        device.attributes["MultiProcessorCount"],
        device.attributes["MaxSharedMemoryPerBlockOptin"],
        has_warp_groups(device.id),
    )


def _parts(table: Table, firsts: npt.NDArray[np.int64]) -> list[Part]:
    """Sort segments that have rows by their filters."""
    parts = []
    for name in FILTERS:
        own = [item for item in enumerate(table.segments) if item[1].filter == name and item[1].rows]
        if own:
            begins = firsts.copy()
            if code_of(name).passes:
                begins[0] += table.passed
            numbers = [np.arange(begins[which], firsts[which + 1], dtype=np.int32) for which, _ in own]
            chunks, ends = cp.asarray(np.concatenate(numbers)), np.cumsum([part.size for part in numbers]).tolist()
            each = [chunks[first:end] for first, end in pairwise([0, *ends])]
            segments = [(*item, part) for item, part in zip(own, each, strict=True)]
            parts.append(Part(code_of(name), chunks, segments))
    return parts
