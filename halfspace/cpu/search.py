"""Searching all segments: cut the work into runs of chunks, and, where there are balls, bound them first."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu import _threads
from halfspace.cpu._simd import PORTABLE
from halfspace.cpu.balls import bound, record
from halfspace.cpu.cells import CHUNK
from halfspace.cpu.chunks import BYTES, GATES, STAGES, SWEEP, WORK
from halfspace.cpu.directions import Directions
from halfspace.cpu.exact import each_reachable
from halfspace.cpu.pipeline import search_chunks
from halfspace.cpu.records import BALLS
from halfspace.cpu.sweep import sweep
from halfspace.segment import address
from halfspace.table import Table

__all__ = ["Found", "search"]

MIN_BYTES = 1 << 23
"""Bytes of codes (or vectors) per thread below which another thread costs more than it saves."""
RUNS = 4
"""Runs of chunks per thread: hits lie close together where rows are grouped, so equal runs are not equal work."""

ALL = np.iinfo(np.int64).max
"""More chunks than any index has."""


class Found(NamedTuple):
    """What a search found, in no order but that of its parts, and what it did."""

    counts: npt.NDArray[np.int64]  # (m,)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # of each hit: direction int32, id int64, score float32
    work: npt.NDArray[np.int64]  # (STAGES, WORK)


def search(
    table: Table,
    like: np.ndarray,
    directions: Directions,
    tau: npt.NDArray[np.float64],
    adapt: bool,
    wanted: int,
    threads: int,
) -> Found:
    """Find the vectors of all segments in the halfspaces of `directions`; arguments as for `search_chunks`."""
    batch = len(tau) // len(table.records)
    if batch == 0 or not any(segment.balls for segment in table.segments):
        return _search(table, like, directions, tau, adapt, wanted, threads)
    counts = np.empty(tau.size, np.int64)
    parts = []
    total = np.zeros((len(STAGES), len(WORK)), np.int64)
    for k in range(batch):  # the balls of a segment are bounded for one direction of each space at a time
        own = directions.every(batch, k)
        levels = each_reachable(tau[k::batch].copy())
        bounded, work = _bounded(table, own, levels, threads)
        found = _search(bounded, like, own, levels, adapt, wanted, threads)
        counts[k::batch] = found.counts
        parts += [(part[0] * np.int32(batch) + np.int32(k), *part[1:]) for part in found.parts]
        total += work + found.work
    return Found(counts, parts, total)


def _search(
    table: Table,
    like: np.ndarray,
    directions: Directions,
    tau: npt.NDArray[np.float64],
    adapt: bool,
    wanted: int,
    threads: int,
) -> Found:
    def run(span: tuple[int, int]) -> Any:  # holds the table, and with it all memory that is read
        return search_chunks(table.records, like, *directions, tau, *span, adapt, wanted, PORTABLE)

    rows = table.records["rows"][0]
    threads = min(threads, int(rows.sum()) * directions.narrow.size // MIN_BYTES)
    if threads <= 1:
        counts, *hits, work = run((0, ALL))
        return Found(counts, [(hits[0], hits[1], hits[2])], work)
    spans = _threads.spans(int((-(-rows // CHUNK)).sum()), RUNS * threads)
    outcomes = _threads.run(run, spans, threads)
    counts = np.sum([outcome[0] for outcome in outcomes], axis=0)
    work = np.sum([outcome[4] for outcome in outcomes], axis=0)
    return Found(counts, [outcome[1:4] for outcome in outcomes], work)


def _bounded(
    table: Table, directions: Directions, tau: npt.NDArray[np.float64], threads: int
) -> tuple[Table, npt.NDArray[np.int64]]:
    """Bound the balls of all segments for one direction of each space, and sweep them where that is the filter.

    Returns a table that knows of it, and the counters.
    """
    records = table.records.copy()
    owners: list[object] = []
    work = np.zeros((len(STAGES), len(WORK)), np.int64)
    for which, segment in enumerate(table.segments):
        if segment.balls is None:
            continue
        workers = threads if segment.balls.members.size >= MIN_BYTES else 1
        for space, direction in enumerate(directions.narrow):
            bounds = bound(segment.balls, space, direction, float(tau[space]), workers)
            work[GATES, BYTES] += bounds.bytes_read
            swept = None
            if segment.filter == "sweep":
                swept = sweep(segment.balls, space, bounds, workers)
                work[SWEEP] += (segment.rows, segment.rows - swept.left, 0, swept.left, 0, swept.bytes_read)
            entry = np.array([record(segment.balls, space, bounds, swept and swept.candidates)], BALLS)
            records[space, which]["balls"] = address(entry)
            owners += [bounds, swept, entry]
    return Table(records, table.segments, (*table.others, *owners)), work
