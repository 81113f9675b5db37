"""Searching all segments: prepare the directions, filter, verify; count the hits, tell the host, and write them out.

The host waits once, for the number of hits; what is written after that is ordered by the stream. An answer that goes
into a `Hits` made before (`fill`) is not waited for at all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cupy as cp
import numpy as np
import numpy.typing as npt

from halfspace.gpu.collect import order_by_id
from halfspace.gpu.counters import complete
from halfspace.gpu.filters import bounds
from halfspace.gpu.runtime.launch import Kernel, format_of
from halfspace.gpu.runtime.records import CALL, HEADER, PLAN, VIEW
from halfspace.gpu.runtime.tables import Uploaded, upload
from halfspace.model.counters import WORK_SHAPE
from halfspace.model.table import Table

__all__ = [
    "COUNT",
    "EXPLAINED",
    "IDS",
    "MOST_HITS",
    "NOT_FINITE",
    "OVERFULL",
    "SCORES",
    "Answer",
    "Buffers",
    "Run",
    "room",
    "search",
]

COUNT, IDS, SCORES, EXPLAINED = range(4)
"""What is wanted of the hits; EXPLAINED are scores, and the counters of what the stages did."""
NOT_FINITE, OVERFULL = -1, -2
"""States of a search without an answer."""

WORKSPACE = 1 << 29
"""Bytes that prepared directions, and bits for their hits, may take at once: a batch is cut to fit."""
MOST_HITS = 1 << 25
"""Candidates or hits that a batch may hold on their way into the answer: it is cut again where there are more."""
MOST_DIRECTIONS = 1 << 22
"""Directions at once: a candidate can tell four times as many apart."""
MATRIX = 12
"""Directions from which on a matrix product is faster than four after four."""
STRIPS = 128
"""Directions up to which what counts is the codes that are read, not the products."""
SET = 64
"""Directions of a set that goes through them at once."""
SPARE_SHAPES = 8
"""Shapes of questions of which runs are kept."""
SPARE_HITS = 1 << 16
"""Hits for which an answer may hold more memory than it needs."""
SPARE_BYTES = 1 << 26
"""Memory up to which a run is kept for the next question."""
THREADS = 256
ALIGNMENT = 256

_prepare = Kernel("prepare.cu", "prepare", ("call", CALL))
_test_cells = Kernel("cascade.cu", "test_cells", ("call", CALL), ("listed", np.int32))
_test_cells_of_four = Kernel("cascade.cu", "test_cells_of_four", ("call", CALL), ("listed", np.int32))
_multiply_cells = Kernel("matrix.cu", "multiply_cells", ("call", CALL), ("listed", np.int32))
_multiply_strips = Kernel("strips.cu", "multiply_strips", ("call", CALL), ("listed", np.int32), ("chunks", int))
_multiply_long_strips = Kernel(
    "strips.cu", "multiply_long_strips", ("call", CALL), ("listed", np.int32), ("chunks", int)
)
_test_groups = Kernel("test_groups.cu", "test_groups", ("call", CALL), ("listed", np.int32))
_verify_pairs = Kernel("verify.cu", "verify_pairs", ("call", CALL))
_scan_rows = Kernel("verify.cu", "scan_rows", ("call", CALL), ("listed", np.int32))
_count_hits = Kernel("place.cu", "count_hits", ("call", CALL))
_place_hits = Kernel("place.cu", "place_hits", ("call", CALL))
_fill_ids = Kernel("place.cu", "fill_ids", ("call", CALL))
_fill_scored = Kernel("place.cu", "fill_scored", ("call", CALL))


_DIRECTIONS, _TAU, _ONE_TAU, _OFFSETS, _TOTALS, _IDS, _VALUES, _ANSWER_ROOM = (
    (CALL.names or ()).index(name)
    for name in ("directions", "tau", "one_tau", "offsets", "totals", "ids", "values", "answer_room")
)


class Buffers(NamedTuple):
    """Room for an answer."""

    ids: Any  # int64 (capacity,), empty where none are wanted
    scores: Any  # float32 (capacity,), the same
    offsets: Any  # int64 (m + 1,)
    totals: Any  # int64 (m,)

    @classmethod
    def of(cls, count: int, capacity: int, wanted: int) -> "Buffers":
        """Make room for so many directions and hits, in one piece: each has its price."""
        ids, scores = capacity if wanted != COUNT else 0, capacity if wanted == SCORES else 0
        memory = cp.cuda.alloc(8 * (2 * count + 1 + ids) + 4 * scores)
        return cls(
            cp.ndarray(ids, np.int64, memory + 8 * (2 * count + 1)),
            cp.ndarray(scores, np.float32, memory + 8 * (2 * count + 1 + ids)),
            cp.ndarray(count + 1, np.int64, memory),
            cp.ndarray(count, np.int64, memory + 8 * (count + 1)),
        )


@dataclass
class Answer:
    """What a search found, and what it did."""

    state: int
    hits: int
    counts: Any = None  # int64 (m,)
    offsets: Any = None  # int64 (m + 1,)
    ids: Any = None  # int64 (hits,)
    scores: Any = None  # float32 (hits,), empty where none are wanted
    work: Any = None  # int64 (stages, columns)


def room(table: Table, dim: int) -> int:
    """Count the directions that there is room to ask at once."""
    uploaded = upload(table)
    stride = -(-dim // 32) * 32
    each = 140 * uploaded.chunks + len(table.segments) * (2 * stride + VIEW.itemsize)
    each += bounds.bytes_for_each_direction(table.segments)
    return max(1, min(MOST_DIRECTIONS, WORKSPACE // max(1, each)))


def search(
    table: Table,
    like: Any,
    directions: Any,
    tau: Any,
    adapt: bool,
    wanted: int,
    threads: int,
    most: int = MOST_HITS,
) -> Answer:
    """Find the vectors of all segments in the halfspaces of `directions` (m, d), space after space.

    like : an empty array in the stored format; tau : float, or float64 (m,)
    most : candidates or hits that may be held at once, if there are several directions
    adapt, threads : of no effect on a GPU

    The state is NOT_FINITE where a direction is not finite or tau is NaN, OVERFULL where more than `most` are held.
    """
    count = len(directions)
    uploaded = upload(table)
    if count == 0:
        none = cp.zeros(1, np.int64)
        return Answer(0, 0, none[:0], none, none[:0], cp.empty(0, np.float32), np.zeros(WORK_SHAPE, np.int64))
    rooms, expected = uploaded.expected(count, wanted, most)
    while True:
        try:
            found = _search_once(uploaded, like, directions, tau, wanted, most, rooms, expected)
        except cp.cuda.memory.OutOfMemoryError as error:
            if uploaded.spare:
                uploaded.spare.clear()
                continue
            free, _ = cp.cuda.runtime.memGetInfo()
            raise MemoryError(
                f"{count} directions with {rooms} candidates and {expected} hits need {20 * rooms + 12 * expected} "
                f"bytes on the GPU, beside what the index takes; {free} are free: {error}"
            ) from error
        if isinstance(found, Answer):
            return found
        rooms, expected = max(rooms, found[0]), max(expected, found[1])


def _search_once(
    uploaded: Uploaded, like: Any, directions: Any, tau: Any, wanted: int, most: int, rooms: int, expected: int
) -> Answer | tuple[int, int]:
    """Search with room for so many candidates and hits; returns the answer, or for how many there must be room."""
    count = len(directions)
    run = _run_for(uploaded, like, count, directions.shape[1], wanted, rooms)
    buffers = Buffers.of(count, expected, run.wanted)
    run.ask(directions, tau)
    run.answer_into(buffers)
    run.launch()
    run.fill()
    pairs, listed, hits, bad = run.told()
    if bad < count:
        return Answer(NOT_FINITE, 0)
    held = max(pairs, listed)
    if count > 1 and max(held, hits if wanted != COUNT else 0) > most:
        return Answer(OVERFULL, 0)
    if held > run.pair_room:
        return held, hits
    uploaded.remember(count, wanted, held, hits)
    if hits > expected and wanted != COUNT:
        again = Buffers.of(count, hits, run.wanted)
        buffers = again._replace(offsets=buffers.offsets, totals=buffers.totals)
        run.answer_into(buffers)
        run.fill()
        cp.cuda.get_current_stream().synchronize()  # what it reads may serve another stream next
    answer = _answer(uploaded, hits, buffers, run.worked())
    if run.workspace.nbytes <= SPARE_BYTES:
        _keep(uploaded, run)
    return answer


def _answer(uploaded: Uploaded, hits: int, buffers: Buffers, work: Any) -> Answer:
    """Cut what was written to the hits that there are, and order it by id where segments do not follow one another."""
    ids, scores, offsets, totals = buffers
    if ids.size:
        wasteful = ids.size - hits > max(hits, SPARE_HITS)
        ids, scores = ids[:hits], scores[:hits] if scores.size else scores
        if wasteful:
            ids, scores = ids.copy(), scores.copy()
        if not uploaded.ordered:
            offsets, ids, scores = order_by_id(offsets, ids, scores)
    return Answer(0, hits, totals, offsets, ids, scores, work)


def _run_for(uploaded: Uploaded, like: Any, count: int, dim: int, wanted: int, rooms: int) -> "Run":
    """Take a run of that shape that nobody uses, or make one."""
    try:
        run: Run = uploaded.spare[count, wanted].pop()
        if rooms <= run.pair_room <= 8 * rooms:
            return run
    except (KeyError, IndexError):
        pass
    return Run(uploaded, like, count, dim, wanted, rooms, told=True)


def _keep(uploaded: Uploaded, run: "Run") -> None:
    """Keep a run for the next question of its shape; many shapes are not kept."""
    if len(uploaded.spare) > SPARE_SHAPES:
        uploaded.spare.clear()
    uploaded.spare.setdefault((run.count, run.asked), []).append(run)


class Run:
    """The kernels over a question of one shape, and the memory between them: room for so many candidates and hits.

    told : whether the host is told of the number of hits, and waits for it
    """

    def __init__(
        self, uploaded: Uploaded, like: Any, count: int, dim: int, wanted: int, rooms: int, told: bool
    ) -> None:
        self.count, self.dim = count, dim
        self.format, self.itemsize = format_of(like.dtype), like.dtype.itemsize
        self.asked, self.wanted, self.batch = wanted, min(wanted, SCORES), count // uploaded.spaces
        self.stride = stride = -(-dim // 32) * 32
        self.pair_room, self.listed_room = rooms, rooms if self.wanted == SCORES else 0
        segments, cells = len(uploaded.kinds), count * uploaded.chunks
        sizes = {
            "header": HEADER.itemsize,
            "plans": count * PLAN.itemsize,
            "views": count * segments * VIEW.itemsize,
            "digits": count * segments * 2 * stride,
            "counts": 4 * cells,
            "starts": 8 * cells,
            "bits": 0 if wanted == COUNT else 128 * cells,
            "pairs": 8 * self.pair_room,
            "listed": 8 * self.listed_room,
            "scores": 4 * self.listed_room,
        }
        self.places, total = {}, 0
        for name, size in sizes.items():
            self.places[name] = total
            total += -(-size // ALIGNMENT) * ALIGNMENT
        self.workspace = cp.empty(total, np.uint8)
        self.work = cp.empty(WORK_SHAPE, np.uint64) if wanted == EXPLAINED else None
        self._header = np.zeros(4, np.uint64)
        if told:  # in memory of the host that kernels write to
            self._header = np.frombuffer(cp.cuda.alloc_pinned_memory(HEADER.itemsize), np.uint64, 4)
        base = self.workspace.data.ptr
        values = dict.fromkeys(CALL.names or (), 0)
        values |= {name: base + place for name, place in self.places.items()}
        values |= {"count": count, "batch": self.batch, "dim": dim, "wanted": self.wanted, "stride": stride}
        values |= {"segments": uploaded.records.data.ptr, "owners": uploaded.owners.data.ptr}
        values |= {"segment_count": segments, "chunks": uploaded.chunks}
        values |= {"pair_room": self.pair_room, "listed_room": self.listed_room}
        values["told"] = self._header.ctypes.data if told else 0  # where the answer has no status of its own
        values["work"] = 0 if self.work is None else self.work.data.ptr
        self.call = np.array([tuple(values.values())], CALL)
        self._fields, self._floats = self.call.view(np.int64), self.call.view(np.float64)  # every field has 8 bytes
        self._launches = list(self._bound(uploaded))
        self._fill = self._bound_fill(uploaded)
        self.held: list[Any] = []  # what the last launches read and wrote besides

    def ask(self, directions: Any, tau: Any) -> None:
        """Say what the question is: float32 (m, d), and float64 (m,) or a float for all; whoever asks keeps them."""
        self._fields[_DIRECTIONS] = directions.data.ptr
        if self.work is not None:
            self.work.fill(0)
        if isinstance(tau, float):
            self._fields[_TAU], self._floats[_ONE_TAU] = 0, tau
        else:
            self._fields[_TAU] = tau.data.ptr

    def answer_into(self, buffers: Buffers) -> None:
        """Say where the answer goes."""
        fields = self._fields
        fields[_OFFSETS], fields[_TOTALS] = buffers.offsets.data.ptr, buffers.totals.data.ptr
        fields[_IDS], fields[_VALUES] = buffers.ids.data.ptr, buffers.scores.data.ptr
        fields[_ANSWER_ROOM] = buffers.ids.size

    def tell(self, status: Any) -> None:
        """Have the header written to an array on the device, uint64 (4,)."""
        self.call["told"] = status.data.ptr

    def launch(self) -> None:
        """Launch everything up to the number of hits."""
        self.held = [launch() for launch in self._launches]

    def fill(self) -> None:
        """Launch what writes ids and scores of the hits; what there is no room for is left out."""
        if self.wanted != COUNT:
            self._fill()

    def _bound(self, uploaded: Uploaded) -> Iterator[Callable[[], Any]]:
        call, format = self.call, self.format
        rows = min(self.count, 65535)
        clearing = max(1, min(256, self.count * uploaded.chunks * 8 // THREADS // 4))
        yield _prepare.bind((len(uploaded.kinds) + -(-clearing // rows), rows), THREADS, call, format=format)
        if uploaded.listed["cells"] is not None:
            yield self._filter_cells(uploaded, uploaded.listed["cells"])
        listed = uploaded.listed["groups"]
        if listed is not None:
            yield _test_groups.bind((listed.size, rows), THREADS, call, listed, format=format)
        for which, segment, chunks in uploaded.with_balls:
            yield partial(bounds.test_balls, call, which, segment, chunks)
        scanned = uploaded.listed["scan"]
        if scanned is not None:
            yield _scan_rows.bind((scanned.size, rows), THREADS, call, scanned, format=format)
        if uploaded.filtered:
            yield _verify_pairs.bind((8 * uploaded.processors,), THREADS, call, format=format)
        if self.count > 1:
            yield _count_hits.bind((self.count,), THREADS, call)
        yield _place_hits.bind((self.count,), THREADS, call)

    def _bound_fill(self, uploaded: Uploaded) -> Callable[[], None]:
        if self.wanted == SCORES:
            return _fill_scored.bind((8 * uploaded.processors,), THREADS, self.call)
        return _fill_ids.bind((max(1, min(-(-self.count * uploaded.chunks // 8), 1 << 20)),), THREADS, self.call)

    def _filter_cells(self, uploaded: Uploaded, listed: Any) -> Callable[[], None]:
        """Test the cells of the listed chunks: by the cascade for few directions, as a matrix product for more."""
        call, format, chunks = self.call, self.format, listed.size
        spaces, batch, stride = uploaded.spaces, self.batch, self.stride
        multiplied = batch >= MATRIX and uploaded.moderate and self.work is None
        sets = -(-batch // SET)
        if multiplied and batch <= STRIPS and stride <= 384 and spaces * sets <= 65535:
            kernel, pitch, share = (_multiply_strips, 160, 2) if stride <= 128 else (_multiply_long_strips, 416, 1)
            grid = (max(1, min(chunks, share * uploaded.processors // min(spaces * sets, share))), spaces * sets)
            return kernel.bind(grid, THREADS, call, listed, chunks, shared=17408 + 2 * SET * pitch, format=format)
        shared = 11280 + 256 * (stride + 16)
        if multiplied and shared <= uploaded.shared and spaces <= 65535:
            parts = max(1, min(sets, 4 * uploaded.processors // (8 * chunks * spaces)))
            grid = (8 * chunks, spaces * parts)
            return _multiply_cells.bind(grid, THREADS, call, listed, shared=shared, format=format)
        if batch == 1:
            grid = (2 * chunks, min(spaces, 65535))
            return _test_cells.bind(grid, THREADS, call, listed, shared=5 << 10, format=format)
        grid = (2 * chunks, min(spaces * -(-batch // 4), 65535))
        return _test_cells_of_four.bind(grid, THREADS, call, listed, shared=20 << 10, format=format)

    def told(self) -> list[int]:
        """Wait, and return the header: candidates, hits listed, hits, and the lowest direction without an answer."""
        stream = cp.cuda.get_current_stream()
        try:
            stream.synchronize()
        except BaseException:  # an interrupt: kernels still write to the header
            stream.synchronize()
            raise
        numbers: list[int] = self._header.tolist()
        return numbers

    def worked(self) -> npt.NDArray[np.int64] | None:
        """Return the counters, if they were wanted."""
        if self.work is None:
            return None
        return complete(self.work.get(), self.dim, self.itemsize)
