"""Searching all segments: cut the work into runs of chunks, and, where there are balls, bound them first."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.by_chunk import BYTES, FULL, GATES, PAUSED, SCRATCH, SWEEP
from halfspace.cpu.directions import prepare
from halfspace.cpu.emit import Columns, Found
from halfspace.cpu.exact import each_reachable
from halfspace.cpu.filters.balls import bound, record
from halfspace.cpu.filters.matrix import LEAST
from halfspace.cpu.filters.sweep import sweep
from halfspace.cpu.pipeline import COUNT, SCORES, search_chunks
from halfspace.cpu.prepared import Ready, ready_for
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.clock import TURN
from halfspace.cpu.runtime.records import BALLS
from halfspace.model.counters import WORK_SHAPE, State
from halfspace.model.layout import CHUNK
from halfspace.model.question import ALL, Question
from halfspace.model.segment import address
from halfspace.model.table import Table

__all__ = ["MOST_HITS", "Answer", "room", "search"]

MIN_BYTES = 1 << 22
"""Bytes to read per thread below which another thread, which has to wake up, costs more than it saves."""
START = 16
"""A part of all chunks, one in so many, that tells how many bytes will be read."""
RUNS = 4
"""Runs of chunks per thread: hits lie close together where rows are grouped, so equal runs are not equal work."""

ROOM = 4 * CHUNK
"""Hits that there is room for at first; a chunk of them must fit."""
PREPARED = 1 << 24
"""Products of components from which on a batch is prepared once, for all calls of the kernel."""

WORKSPACE = 32 << 20
"""Bytes that prepared directions may take at once: a batch is cut to fit."""
MOST_HITS = 3 << 20
"""Hits that a batch may hold on their way into the answer, 28 bytes each: it is cut again where there are more."""


class Answer(NamedTuple):
    """What a search found, in parts, and what it did."""

    counts: npt.NDArray[np.int64]  # (m,)
    parts: list[Found]
    counted: np.ndarray  # int64 (STAGES, WORK), or the scratch of a kernel, which has them inside
    state: int  # 0, or why there is no answer

    @property
    def hits(self) -> int:
        """Number of hits."""
        return int(self.counts.sum())

    @property
    def work(self) -> npt.NDArray[np.int64]:
        """The counters (STAGES, WORK)."""
        if self.counted.dtype == np.uint8:
            start = -self.counted.ctypes.data % 64
            work: npt.NDArray[np.int64] = self.counted[start : start + SCRATCH.itemsize].view(SCRATCH)["work"][0]
            return work
        return self.counted


def room(table: Table, dim: int) -> int:
    """Count the directions of a batch that are prepared at once."""
    return max(1, WORKSPACE // (16 * dim + 2048))


def search(question: Question) -> Answer:
    """Find the vectors of all segments in the halfspaces of the directions.

    Where there is no answer, because of a direction or of the hits, its state says so.
    """
    table, directions, tau, threads = question.table, question.directions, question.tau, question.threads
    asked = question
    if any(name in ("balls", "sweep") for name in table.filters):
        return _search_balls(asked, threads)
    if threads > 1:
        threads = min(threads, table.rows * directions.size // MIN_BYTES)
    many = len(tau) >= LEAST
    if threads <= 1 and not (many and table.rows * directions.size >= PREPARED):
        return _run(asked, (0, ALL))[0]
    return (_search_many if many else _search_few)(asked, max(threads, 1))


def _run(
    asked: Question, span: tuple[int, int], ready: Ready | None = None, pause: tuple[int, int] = (ALL, ALL)
) -> tuple[Answer, int]:
    """Search a run of chunks in this thread, and tell where it stopped; holds all memory that is read.

    The kernel returns every so often, for an interrupt to take effect, and where more hits come than there is room for.
    """
    table, like, directions, tau, adapt, _, wanted, most = asked
    wanted = min(int(wanted), SCORES)
    prepared = 0 if ready is None else address(ready.record)
    first, last = span
    most = most if tau.size > table.place[1] else ALL
    counts, scratch = np.zeros(tau.size, np.int64), np.empty(SCRATCH.itemsize + 63, np.uint8)
    columns = Columns(0 if wanted == COUNT else ROOM)
    state = 0
    while True:
        first, found, state = search_chunks(
            *table.place, like, directions, tau, prepared, first, last, *pause, adapt, wanted, TURN, state != 0,
            scratch, counts, columns.owners, columns.ids, columns.scores,
        )  # fmt: skip
        if found > most:
            state = int(State.OVERFULL)
        elif state == FULL:
            columns.grow(min(4 * columns.ids.size, most + 2 * ROOM))
        if state not in (FULL, PAUSED):
            break
        _threads.go_on()
    hits = columns.taken(0 if state else found, wanted == SCORES)
    return Answer(counts, [hits], scratch, state), first


def _search_few(asked: Question, threads: int) -> Answer:
    """Search for few directions: alone, unless the first chunks read so many bytes that threads are worth waking."""
    total = sum(-(-segment.rows // CHUNK) for segment in asked.table.segments)
    first = -(-total // START)
    pause = first, 2 * MIN_BYTES * first // max(1, total - first) if threads > 1 else ALL
    begun, reached = _run(asked, (0, ALL), pause=pause)
    if reached >= total or begun.state:
        return begun
    left = int(begun.work[:, BYTES].sum()) * (total - first) // first
    threads = max(2, min(threads, left // MIN_BYTES))
    shared = asked._replace(most=(asked.most - begun.parts[0].ids.size) // threads)
    spans = [(first + low, first + high) for low, high in _threads.spans(total - first, RUNS * threads)]
    return _sum([begun, *_threads.run(lambda span: _run(shared, span)[0], spans, threads)])


def _search_many(asked: Question, threads: int) -> Answer:
    """Search for a batch, prepared once for each segment and shared by all threads, which take runs of chunks."""
    tasks: list[tuple[Question, Ready, tuple[int, int]]] = []
    total = sum(-(-segment.rows // CHUNK) for segment in asked.table.segments)
    prepared = prepare(asked.directions)
    for which, segment in enumerate(asked.table.segments):
        own = asked._replace(table=asked.table.part(which), most=asked.most // threads)
        ready = ready_for(own.table, prepared, asked.tau, segment.data if segment.filter == "cells" else None)
        chunks = -(-segment.rows // CHUNK)
        runs = max(1, round(RUNS * threads * chunks / total))
        tasks += [(own, ready, span) for span in _threads.spans(chunks, runs)]

    def run(task: tuple[Question, Ready, tuple[int, int]]) -> Answer:
        own, ready, span = task
        return _run(own, span, ready)[0]

    return _sum(_threads.run(run, tasks, threads))


def _sum(answers: list[Answer]) -> Answer:
    """Put parts of an answer together; where one has no answer, nor has the whole."""
    worst = min(answers, key=lambda answer: answer.state)
    if worst.state:
        return worst
    return Answer(
        np.sum([answer.counts for answer in answers], axis=0),
        [part for answer in answers for part in answer.parts],
        np.sum([answer.work for answer in answers], axis=0),
        0,
    )


def _search_balls(asked: Question, threads: int) -> Answer:
    """Bound the balls of segments that have them for one direction of each space at a time, and search."""
    tau = asked.tau
    batch = len(tau) // len(asked.table.records)
    counts = np.zeros(tau.size, np.int64)
    parts = []
    held = 0
    total = np.zeros(WORK_SHAPE, np.int64)
    for k in range(batch):
        levels = each_reachable(tau[k::batch])
        own = asked.directions[k::batch].copy()
        if not np.isfinite(own).all():
            return Answer(counts, [], total, int(State.NOT_FINITE))
        bounded, work = _bounded(asked.table, own, levels, threads)
        found = _search_few(asked._replace(table=bounded, directions=own, tau=levels, most=ALL), threads)
        if found.state:
            return found
        counts[k::batch] = found.counts
        parts += [Found(part.owners * np.int32(batch) + np.int32(k), part.ids, part.scores) for part in found.parts]
        total += work + found.work
        held += sum(part.ids.size for part in found.parts)
        if k + 1 < batch and held > asked.most:
            return Answer(counts, [], total, int(State.OVERFULL))
    return Answer(counts, parts, total, 0)


def _bounded(
    table: Table, directions: npt.NDArray[np.float32], tau: npt.NDArray[np.float64], threads: int
) -> tuple[Table, npt.NDArray[np.int64]]:
    """Bound the balls of all segments for one direction of each space, and sweep them where that is the filter.

    Returns a table that knows of it, and the counters.
    """
    records = table.records.copy()
    owners: list[object] = []
    work = np.zeros(WORK_SHAPE, np.int64)
    for which, segment in enumerate(table.segments):
        if segment.filter not in ("balls", "sweep"):
            continue
        workers = threads if segment.data.members.size >= MIN_BYTES else 1
        for space, direction in enumerate(directions):
            bounds = bound(segment.data, space, direction, float(tau[space]), workers)
            work[GATES, BYTES] += bounds.bytes_read
            swept = None
            if segment.filter == "sweep":
                swept = sweep(segment.data, space, bounds, workers)
                work[SWEEP] += (segment.rows, segment.rows - swept.left, 0, swept.left, 0, swept.bytes_read)
            entry = np.array([record(segment.data, space, bounds, swept and swept.candidates)], BALLS)
            records[space, which]["balls"] = address(entry)
            owners += [bounds, swept, entry]
    return table.changed(records, owners), work
