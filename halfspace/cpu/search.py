"""Searching all segments: cut the work into runs of chunks, and, where there are balls, bound them first."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu import _threads
from halfspace.cpu.balls import bound, record
from halfspace.cpu.chunks import BYTES, GATES, STAGES, SWEEP, WORK
from halfspace.cpu.codes import CHUNK
from halfspace.cpu.directions import prepare
from halfspace.cpu.emit import Found
from halfspace.cpu.exact import each_reachable
from halfspace.cpu.matrix import LEAST
from halfspace.cpu.pipeline import search_chunks
from halfspace.cpu.ready import Ready, ready_for
from halfspace.cpu.records import BALLS
from halfspace.cpu.sweep import sweep
from halfspace.segment import address
from halfspace.table import Table

__all__ = ["Answer", "search"]

MIN_BYTES = 1 << 23
"""Bytes of codes (or vectors) per thread below which another thread costs more than it saves."""
RUNS = 4
"""Runs of chunks per thread: hits lie close together where rows are grouped, so equal runs are not equal work."""

ALL = np.iinfo(np.int64).max
"""More chunks than any index has."""


class Answer(NamedTuple):
    """What a search found, in parts, and what it did."""

    counts: npt.NDArray[np.int64]  # (m,)
    parts: list[Found]
    work: npt.NDArray[np.int64]  # (STAGES, WORK)


def search(
    table: Table,
    like: np.ndarray,
    directions: npt.NDArray[np.float32],
    tau: npt.NDArray[np.float64],
    adapt: bool,
    wanted: int,
    threads: int,
) -> Answer:
    """Find the vectors of all segments in the halfspaces of `directions` (m, d); arguments as for `search_chunks`.

    A direction that is not finite makes the first count -1.
    """
    if table.has_balls:
        return _search_balls(table, like, directions, tau, adapt, wanted, threads)
    if threads > 1:
        threads = min(threads, table.rows * directions.size // MIN_BYTES)
    if threads <= 1:
        counts, *hits, work = search_chunks(*table.place, like, directions, tau, 0, 0, ALL, adapt, wanted)
        return Answer(counts, [Found(*hits)], work)
    return _search_threads(table, like, directions, tau, adapt, wanted, threads)


def _search_threads(
    table: Table,
    like: np.ndarray,
    directions: npt.NDArray[np.float32],
    tau: npt.NDArray[np.float64],
    adapt: bool,
    wanted: int,
    threads: int,
) -> Answer:
    """Search with several threads, each of which takes runs of chunks; a batch is prepared once for each segment."""
    tasks: list[tuple[Table, Ready | None, tuple[int, int]]] = []
    total = sum(-(-segment.rows // CHUNK) for segment in table.segments)
    if len(tau) < LEAST:
        tasks = [(table, None, span) for span in _threads.spans(total, RUNS * threads)]
    else:
        prepared = prepare(directions)
        for which, segment in enumerate(table.segments):
            own = table.part(which)
            ready = ready_for(own, prepared, tau, segment.cells is not None)
            chunks = -(-segment.rows // CHUNK)
            runs = max(1, round(RUNS * threads * chunks / total))
            tasks += [(own, ready, span) for span in _threads.spans(chunks, runs)]

    def run(task: tuple[Table, Ready | None, tuple[int, int]]) -> Any:  # holds all memory that is read
        own, ready, span = task
        place = 0 if ready is None else address(ready.record)
        counts, *hits, work = search_chunks(*own.place, like, directions, tau, place, *span, adapt, wanted)
        return counts, Found(*hits), work

    counts, parts, work = zip(*_threads.run(run, tasks, threads), strict=True)
    return Answer(np.sum(counts, axis=0), list(parts), np.sum(work, axis=0))


def _search_balls(
    table: Table,
    like: np.ndarray,
    directions: npt.NDArray[np.float32],
    tau: npt.NDArray[np.float64],
    adapt: bool,
    wanted: int,
    threads: int,
) -> Answer:
    """Bound the balls of segments that have them for one direction of each space at a time, and search."""
    batch = len(tau) // len(table.records)
    counts = np.zeros(tau.size, np.int64)
    parts = []
    total = np.zeros((len(STAGES), len(WORK)), np.int64)
    for k in range(batch):
        levels = each_reachable(tau[k::batch].copy())
        own = directions[k::batch].copy()
        if not np.isfinite(own).all():
            return Answer(np.full(tau.size, -1), [], total)
        bounded, work = _bounded(table, own, levels, threads)
        found = _search_threads(bounded, like, own, levels, adapt, wanted, threads)
        counts[k::batch] = found.counts
        parts += [Found(part.owners * np.int32(batch) + np.int32(k), part.ids, part.scores) for part in found.parts]
        total += work + found.work
    return Answer(counts, parts, total)


def _bounded(
    table: Table, directions: npt.NDArray[np.float32], tau: npt.NDArray[np.float64], threads: int
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
        for space, direction in enumerate(directions):
            bounds = bound(segment.balls, space, direction, float(tau[space]), workers)
            work[GATES, BYTES] += bounds.bytes_read
            swept = None
            if segment.filter == "sweep":
                swept = sweep(segment.balls, space, bounds, workers)
                work[SWEEP] += (segment.rows, segment.rows - swept.left, 0, swept.left, 0, swept.bytes_read)
            entry = np.array([record(segment.balls, space, bounds, swept and swept.candidates)], BALLS)
            records[space, which]["balls"] = address(entry)
            owners += [bounds, swept, entry]
    return table.changed(records, owners), work
