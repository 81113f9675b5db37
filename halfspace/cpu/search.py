"""Searching all segments: cut the work into runs of chunks, and, where there are balls, bound them first."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu import _threads
from halfspace.cpu.balls import bound, record
from halfspace.cpu.chunks import BYTES, GATES, STAGES, SWEEP, WORK
from halfspace.cpu.codes import CHUNK
from halfspace.cpu.directions import PLAN, Directions, prepare
from halfspace.cpu.emit import Found
from halfspace.cpu.exact import each_reachable
from halfspace.cpu.matrix import LEAST, Matrix
from halfspace.cpu.pipeline import look_at, search_chunks
from halfspace.cpu.records import BALLS
from halfspace.cpu.sweep import sweep
from halfspace.cpu.views import VIEW, Seen
from halfspace.segment import address
from halfspace.table import Table

__all__ = ["Answer", "search"]

MIN_BYTES = 1 << 23
"""Bytes of codes (or vectors) per thread below which another thread costs more than it saves."""
RUNS = 4
"""Runs of chunks per thread: hits lie close together where rows are grouped, so equal runs are not equal work."""

ALL = np.iinfo(np.int64).max
"""More chunks than any index has."""

NOT_SEEN = Seen(
    np.empty(0, VIEW),
    np.empty((0, 2, 0), np.int8),
    np.empty((0, 2, 0), np.int8),
    Matrix(
        np.empty((0, 0), np.int64),
        np.empty((0, 0)),
        np.empty((0, 0, 0), np.int8),
        *(np.empty((0, 0), np.float32) for _ in range(3)),
    ),
)
"""No views: the kernel makes them."""

_NO_WIDE, _NO_DIGITS, _NO_PLANS = np.empty((0, 0)), np.empty((0, 0, 0, 0), np.int8), np.empty(0, PLAN)


def _unprepared(directions: npt.NDArray[np.float32]) -> Directions:
    """Leave preparing to the kernel."""
    return Directions(directions, _NO_WIDE, _NO_DIGITS, _NO_PLANS)


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
    """Find the vectors of all segments in the halfspaces of `directions` (m, d); arguments as for `search_chunks`."""
    if any(segment.balls for segment in table.segments):
        return _search_balls(table, like, directions, tau, adapt, wanted, threads)
    rows = table.records["rows"][0]
    threads = min(threads, int(rows.sum()) * directions.size // MIN_BYTES) if threads > 1 else 1
    if threads <= 1:
        counts, found, work = search_chunks(
            table.records, like, _unprepared(directions), tau, NOT_SEEN, 0, ALL, adapt, wanted
        )
        return Answer(counts, [found], work)
    return _search_threads(table, like, prepare(directions), tau, adapt, wanted, threads)


def _search_threads(
    table: Table,
    like: np.ndarray,
    directions: Directions,
    tau: npt.NDArray[np.float64],
    adapt: bool,
    wanted: int,
    threads: int,
) -> Answer:
    """Search with several threads, each of which takes runs of chunks; a batch is prepared once for each segment."""
    tasks: list[tuple[np.ndarray, Seen, tuple[int, int]]] = []
    total = int((-(-table.records["rows"][0] // CHUNK)).sum())
    if len(tau) < LEAST:
        tasks = [(table.records, NOT_SEEN, span) for span in _threads.spans(total, RUNS * threads)]
    else:
        for which, segment in enumerate(table.segments):
            records = np.ascontiguousarray(table.records[:, which : which + 1])
            seen = NOT_SEEN if segment.cells is None else look_at(records, directions, tau)
            chunks = -(-segment.rows // CHUNK)
            runs = max(1, round(RUNS * threads * chunks / total))
            tasks += [(records, seen, span) for span in _threads.spans(chunks, runs)]

    def run(task: tuple[np.ndarray, Seen, tuple[int, int]]) -> Any:  # holds the table, and all memory that is read
        records, seen, span = task
        return search_chunks(records, like, directions, tau, seen, *span, adapt, wanted), table

    outcomes = [outcome for outcome, _ in _threads.run(run, tasks, threads)]
    counts, parts, work = zip(*outcomes, strict=True)
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
        own = prepare(directions[k::batch].copy())
        bounded, work = _bounded(table, own, levels, threads)
        found = _search_threads(bounded, like, own, levels, adapt, wanted, threads)
        counts[k::batch] = found.counts
        parts += [Found(part.owners * np.int32(batch) + np.int32(k), part.ids, part.scores) for part in found.parts]
        total += work + found.work
    return Answer(counts, parts, total)


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
