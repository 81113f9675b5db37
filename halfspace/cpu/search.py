"""Searching all segments: cut the work into runs of chunks, and bound segments first whose filter asks for it."""

import ctypes
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.directions import Directions, prepare
from halfspace.cpu.emit import Columns, Found
from halfspace.cpu.exact import each_reachable
from halfspace.cpu.filters import FilterCode, code_of
from halfspace.cpu.filters.matrix import LEAST
from halfspace.cpu.job import BYTES, COUNT, FULL, PAUSED, SCORES
from halfspace.cpu.meanwhile import answered_by
from halfspace.cpu.pipeline import search_kernel
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.clock import TURN
from halfspace.cpu.runtime.records import new_job, pack_head, work_of
from halfspace.cpu.stored import readers_of
from halfspace.model.counters import WORK_SHAPE, State
from halfspace.model.layout import CHUNK, chunks_of
from halfspace.model.metrics import as_scores
from halfspace.model.question import ALL, Question
from halfspace.model.segment import SCAN, address
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
    counted: np.ndarray  # int64 (stages, columns), or the job of a kernel, which has them inside
    state: int  # 0, or why there is no answer
    ordered: bool = False  # whether there is one direction, with hits in one part, in order of ids

    @property
    def hits(self) -> int:
        """Number of hits."""
        return int(self.counts[0] if self.counts.size == 1 else self.counts.sum())

    @property
    def work(self) -> npt.NDArray[np.int64]:
        """The counters (stages, columns)."""
        return work_of(self.counted) if self.counted.dtype == np.uint8 else self.counted


class _Prepared(NamedTuple):
    """What a batch needs, made once for all threads that share it."""

    directions: Directions
    shared: int  # address of what the filter has made of it, or 0
    keepalive: object


def room(table: Table, dim: int, loose: bool = False) -> int:
    """Count the directions of a batch that are prepared at once, whatever the order of hits."""
    return max(1, WORKSPACE // (16 * dim + 2048))


def search(question: Question) -> Answer:
    """Find the vectors of all segments in the halfspaces of the directions.

    Where there is no answer, because of a direction or of the hits, its state says so. Segments of different filters
    are searched one filter after another, each by a kernel of its own.
    """
    table = question.table
    if not question.directions.flags.c_contiguous:  # kernels read them by address
        question = question._replace(directions=np.ascontiguousarray(question.directions))
    if len(table.filters) < 2:
        return _search(question, code_of(table.filters[0] if table.filters else SCAN))
    answers: list[Answer] = []
    for filter, part in table.by_filter.items():
        held = sum(answer.hits for answer in answers)
        answers.append(_search(question._replace(table=part, most=max(0, question.most - held)), code_of(filter)))
        if answers[-1].state:
            return answers[-1]
    return _sum(answers)


def _search(question: Question, code: FilterCode) -> Answer:
    """Search a table whose segments have this filter, or none."""
    question, code = answered_by(question, code)
    if code.bound is not None:
        return _search_bounded(question, code)
    table, threads = question.table, question.threads
    size = table.rows * question.directions.size
    if threads > 1:
        threads = min(threads, size // MIN_BYTES)
    many = len(question.tau) >= LEAST
    if threads <= 1 and not (many and size >= PREPARED):
        return _run(question, code, (0, ALL))[0]
    return (_search_many if many else _search_few)(question, code, max(threads, 1))


def _run(
    question: Question,
    code: FilterCode,
    span: tuple[int, int],
    prepared: _Prepared | None = None,
    pause: tuple[int, int] = (ALL, ALL),
) -> tuple[Answer, int]:
    """Search a run of chunks in this thread, and tell where it stopped; holds all memory that is read.

    pause : the chunk at which to stop if so many bytes have been read by then

    The kernel returns every so often, for an interrupt to take effect, and where more hits come than there is room for.
    """
    table, like, directions, tau, may_scan, _, wanted, most, _, metric, as_users, _ = question
    kernel, readers = search_kernel(code), readers_of(like.dtype, metric)
    ready = (0, 0) if prepared is None else (address(prepared.directions.records), prepared.shared)
    first, last = span
    most = most if tau.size > table.address[1] else ALL
    counts, job = np.zeros(tau.size, np.int64), new_job()
    columns = Columns(0) if wanted == COUNT else _columns(tau.size == 1)
    state = 0
    while True:
        pack_head(
            job, *table.address, *ready, first, last, *pause, may_scan, wanted, *readers, metric, state != 0, TURN
        )
        first, found, ordered, state = kernel(job, directions, tau, counts, columns.owners, columns.ids, columns.scores)
        if found > most:
            state = int(State.OVERFULL)
        elif state == FULL:
            columns.grow(min(4 * columns.ids.size, most + 2 * ROOM))
        if state not in (FULL, PAUSED):
            break
        _threads.go_on()
    hits = columns.taken(0 if state else found, wanted >= SCORES)
    if tau.size == 1 and columns.ids.size == ROOM:
        _spare.append(columns)
    if as_users:
        as_scores(hits.scores, metric)
    return Answer(counts, [hits], job, state, ordered), first


_spare: list[Columns] = []
"""Columns for a single direction whose hits were copied from them: all owners there are 0, whoever fills them."""


def _columns(single: bool) -> Columns:
    """Make columns, or take some that are not in use."""
    try:
        return _spare.pop() if single else Columns(ROOM)
    except IndexError:
        return Columns(ROOM)


def _search_few(question: Question, code: FilterCode, threads: int) -> Answer:
    """Search for few directions: alone, unless the first chunks read so many bytes that threads are worth waking."""
    total = question.table.chunks
    first = -(-total // START)
    pause = first, 2 * MIN_BYTES * first // max(1, total - first) if threads > 1 else ALL
    begun, reached = _run(question, code, (0, ALL), pause=pause)
    if reached >= total or begun.state:
        return begun
    left = int(begun.work[:, BYTES].sum()) * (total - first) // first
    threads = max(2, min(threads, left // MIN_BYTES))
    shared = question._replace(most=(question.most - begun.parts[0].ids.size) // threads)
    spans = [(first + low, first + high) for low, high in _threads.spans(total - first, RUNS * threads)]
    return _sum([begun, *_threads.run(lambda span: _run(shared, code, span)[0], spans, threads)])


def _search_many(question: Question, code: FilterCode, threads: int) -> Answer:
    """Search for a batch, prepared once for each segment and shared by all threads, which take runs of chunks."""
    tasks: list[tuple[Question, _Prepared, tuple[int, int]]] = []
    table = question.table
    directions = prepare(question.directions, question.tau, question.metric, code.needs_digits)
    for which, segment in enumerate(table.segments):
        own = question._replace(table=table.part(which), most=question.most // threads)
        shared: tuple[int, object] = (0, None)
        if code.share is not None and segment.filter != SCAN:
            shared = code.share(own.table, directions, threads)
        chunks, first = chunks_of(segment.rows), _first_chunk(own.table)
        runs = max(1, round(RUNS * threads * chunks / table.chunks))
        spans = [(first + low, first + high) for low, high in _threads.spans(chunks - first, runs)]
        tasks += [(own, _Prepared(directions, *shared), span) for span in spans]

    def run(task: tuple[Question, _Prepared, tuple[int, int]]) -> Answer:
        own, prepared, span = task
        return _run(own, code, span, prepared)[0]

    return _sum(_threads.run(run, tasks, threads))


def _first_chunk(table: Table) -> int:
    """Count the chunks that begin the only segment of a table and have no rows: joins exclude what came before."""
    places = table.records["excluded"][:, 0]
    if len(places) > 1 or places[0] == 0:
        return 0
    mask = np.ctypeslib.as_array((ctypes.c_uint8 * (table.rows // 8)).from_address(int(places[0])))
    there = np.flatnonzero(mask != 0xFF)[:1]
    return int(there[0] if there.size else mask.size) * 8 // CHUNK


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


def _search_bounded(question: Question, code: FilterCode) -> Answer:
    """Bound segments for one direction of each space at a time, and search."""
    tau, directions = question.tau, question.directions
    batch = len(tau) // len(question.table.records)
    counts = np.zeros(tau.size, np.int64)
    parts = []
    held = 0
    total = np.zeros(WORK_SHAPE, np.int64)
    for k in range(batch):
        levels, own = each_reachable(tau[k::batch]), directions[k::batch].copy()
        if not np.isfinite(own).all():
            return Answer(counts, [], total, int(State.NOT_FINITE))
        asked = question._replace(directions=own, tau=levels, most=ALL)
        bounded, work = _bounded(asked, code)
        found = _search_few(asked._replace(table=bounded), code, question.threads)
        if found.state:
            return found
        counts[k::batch] = found.counts
        parts += [Found(part.owners * np.int32(batch) + np.int32(k), part.ids, part.scores) for part in found.parts]
        total += work + found.work
        held += sum(part.ids.size for part in found.parts)
        if k + 1 < batch and held > question.most:
            return Answer(counts, [], total, int(State.OVERFULL))
    return Answer(counts, parts, total, 0)


def _bounded(question: Question, code: FilterCode) -> tuple[Table, npt.NDArray[np.int64]]:
    """Bound all segments that have the filter for one direction of each space.

    Returns a table that knows of it, and the counters.
    """
    assert code.bound is not None
    table = question.table
    records = table.records.copy()
    keepalive: list[object] = []
    work = np.zeros(WORK_SHAPE, np.int64)
    for which, segment in enumerate(table.segments):
        if segment.filter == SCAN:
            continue
        for space, direction in enumerate(question.directions):
            bounded = code.bound(segment, space, direction, float(question.tau[space]), question.threads)
            records[space, which]["data"] = address(bounded.record)
            work += bounded.work
            keepalive.append(bounded)
    return table.changed(records, keepalive), work
