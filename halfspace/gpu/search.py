"""Searching all segments: prepare the directions, filter, verify; count the hits, tell the host, and write them out.

The host waits for the number of hits, and makes an answer of so many while they are written out. An answer that goes
into a `Hits` made before (`fill`) is not waited for at all.
"""

from typing import Any, NamedTuple

import cupy as cp
import numpy as np

from halfspace.gpu.collect import order_by_id
from halfspace.gpu.run import Buffers, Run, bytes_for_each_direction
from halfspace.gpu.runtime.tables import Uploaded, as_expected, upload
from halfspace.model.counters import WORK_SHAPE, State, Want
from halfspace.model.question import Question
from halfspace.model.table import Table

__all__ = ["MOST_HITS", "Answer", "room", "search"]

WORKSPACE = 1 << 30
"""Bytes that prepared directions, and bits for their hits, may take at once: a batch is cut to fit."""
MOST_HITS = 1 << 25
"""Candidates or hits that a batch may hold on their way into the answer: it is cut again where there are more."""
MOST_DIRECTIONS = 1 << 22
"""Directions at once: a candidate can tell four times as many apart."""
MOST_LOOSE = 1 << 14
"""The same if hits may come in any order: more would gain nothing, and hold more hits."""
SPARE_SHAPES = 8
"""Shapes of questions of which runs are kept."""
SPARE_HITS = 1 << 16
"""Hits for which an answer may hold more memory than it needs."""


class Answer(NamedTuple):
    """What a search found, and what it did."""

    state: int
    hits: int
    counts: Any = None  # int64 (m,)
    offsets: Any = None  # int64 (m + 1,)
    ids: Any = None  # int64 (hits,)
    scores: Any = None  # float32 (hits,), empty where none are wanted
    work: Any = None  # int64 (stages, columns)
    listed: Run | None = None  # the run in whose memory all hits are, in no order


def room(table: Table, dim: int, loose: bool = False) -> int:
    """Count the directions that there is room to ask at once."""
    uploaded = upload(table)
    if (known := uploaded.rooms.get((dim, loose))) is not None:
        return known
    own = (part.code.bytes_for_each_direction(segment) for part in uploaded.parts for _, segment, _ in part.segments)
    each = bytes_for_each_direction(uploaded, dim, loose) + max(own, default=0)
    most = max(1, min(MOST_LOOSE if loose else MOST_DIRECTIONS, WORKSPACE // max(1, each)))
    return uploaded.rooms.setdefault((dim, loose), most)


def search(question: Question) -> Answer:
    """Find the vectors of all segments in the halfspaces of the directions, space after space.

    Where there is no answer, because of a direction or of the hits, its state says so. `may_scan` and `threads` are of
    no effect on a GPU.
    """
    count, wanted = len(question.directions), int(question.wanted)  # a member of an enum takes long to hash
    uploaded = upload(question.table)
    if count == 0:
        none = cp.zeros(1, np.int64)
        nothing = none[:0], none, none[:0], cp.empty(0, np.float32), np.zeros(WORK_SHAPE, np.int64)
        return Answer(State.DONE, 0, *nothing)
    guess = uploaded.expected(count, wanted, question.most)
    while True:
        try:
            found = _search_once(uploaded, question, (count, wanted), guess)
        except cp.cuda.memory.OutOfMemoryError as error:
            if uploaded.spare:
                uploaded.spare.clear()
                continue
            free, _ = cp.cuda.runtime.memGetInfo()
            raise MemoryError(
                f"{count} directions with {guess[0]} candidates and {guess[1]} hits need "
                f"{24 * guess[0] + 12 * guess[1]} "
                f"bytes on the GPU, beside what the index takes; {free} are free: {error}"
            ) from error
        if isinstance(found, Answer):
            return found
        guess = max(guess[0], found[0]), max(guess[1], found[1])


def _search_once(
    uploaded: Uploaded, question: Question, shape: tuple[int, int], guess: tuple[int, int]
) -> Answer | list[int]:
    """Search with room for so many candidates and hits; returns the answer, or for how many there must be room.

    shape : how many directions there are, and what is wanted
    """
    rooms, expected = guess
    run = _run_for(uploaded, question, shape, rooms)
    run.ask(question)
    try:
        run.launch()
        buffers = Buffers.of(0, 0, run.wanted) if run.loose else Buffers.of(shape[0], expected, run.wanted)
        run.answer_into(buffers)
        found = _counted(uploaded, question, run, buffers, guess)  # while hits are written out
        cp.cuda.get_current_stream().synchronize()
    except BaseException:  # an interrupt, say: kernels still write to what would be free
        cp.cuda.get_current_stream().synchronize()
        raise
    if isinstance(found, Answer) and not found.state and not run.loose:
        _keep(uploaded, run)
    return found


def _counted(
    uploaded: Uploaded, question: Question, run: Run, buffers: Buffers, guess: tuple[int, int]
) -> Answer | list[int]:
    """Wait until hits are counted; returns the answer, which is being written, or for how many there must be room."""
    count, wanted = run.shape
    pairs, listed, hits, bad = run.status()
    if bad < count:
        return Answer(State.NOT_FINITE, 0)
    candidates = max(pairs, listed)
    if count > 1 and max(candidates, hits if wanted != Want.COUNT else 0) > question.most:
        return Answer(State.OVERFULL, 0)
    if candidates > run.pair_room:
        return [candidates, hits]
    if not (as_expected(candidates, guess[0]) and as_expected(hits, guess[1])):
        uploaded.remember(count, wanted, candidates, hits)
    if run.loose:
        return Answer(State.DONE, listed, listed=run)
    if hits > buffers.ids.size and wanted != Want.COUNT:
        again = Buffers.of(count, hits, run.wanted)
        buffers = again._replace(offsets=buffers.offsets, totals=buffers.totals)
        run.fill(buffers)
    return _answer(uploaded, hits, buffers, run.worked())


def _answer(uploaded: Uploaded, hits: int, buffers: Buffers, work: Any) -> Answer:
    """Cut what was written to the hits that there are, and order it by id where segments do not follow one another."""
    ids, scores, offsets, totals = buffers
    if capacity := ids.size:
        scored = hits if scores.size else 0  # what follows takes half of the time of slices
        ids, scores = cp.ndarray(hits, np.int64, ids.data), cp.ndarray(scored, np.float32, scores.data)
        if capacity - hits > max(hits, SPARE_HITS):
            ids, scores = ids.copy(), scores.copy()
        if not uploaded.ordered:
            offsets, ids, scores = order_by_id(offsets, ids, scores)
    return Answer(State.DONE, hits, totals, offsets, ids, scores, work)


def _run_for(uploaded: Uploaded, question: Question, shape: tuple[int, int], rooms: int) -> Run:
    """Take a run of that shape that nobody uses, or make one."""
    spare = [] if question.loose else uploaded.spare.get(shape, [])  # none is loose
    try:
        run: Run = spare.pop()
        if rooms <= run.pair_room <= 8 * rooms:
            run.take_room()
            return run
    except IndexError:
        pass
    return Run(uploaded, question, rooms, shape[1])


def _keep(uploaded: Uploaded, run: Run) -> None:
    """Keep a run for the next question of its shape; many shapes are not kept."""
    run.keepalive = []
    if run.large:
        run.workspace = None
    if (spare := uploaded.spare.get(run.shape)) is not None:
        spare.append(run)
        return
    if len(uploaded.spare) > SPARE_SHAPES:
        uploaded.spare.clear()
    uploaded.spare.setdefault(run.shape, []).append(run)
