"""A run: the kernels over a question of one shape, and the memory between them.

Prepare the directions, filter, verify; then count the hits, tell the host, and write them out. What may be asked again
is bound once: a run is launched as often as one likes.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cupy as cp
import numpy as np
import numpy.typing as npt

from halfspace.gpu.counters import complete
from halfspace.gpu.runtime.launch import Kernel, format_of
from halfspace.gpu.runtime.records import CALL, HEADER, PLAN, THREADS, VIEW
from halfspace.gpu.runtime.tables import Uploaded
from halfspace.model.counters import WORK_SHAPE, Want
from halfspace.model.question import Question

__all__ = ["Buffers", "Run", "bytes_for_each_direction"]

ALIGNMENT = 256
"""Bytes at whose multiples the arrays of a workspace begin."""

TILED = 128
"""Directions of a tile, as warp groups multiply them; fewer are not brought into tiles."""
SLAB = 128
"""Dimensions of a tile that are multiplied at once."""

_prepare = Kernel("prepare.cu", "prepare", ("call", CALL))
_verify_pairs = Kernel("verify.cu", "verify_pairs", ("call", CALL))
_count_hits = Kernel("place.cu", "count_hits", ("call", CALL))
_place_hits = Kernel("place.cu", "place_hits", ("call", CALL))
_tell_listed = Kernel("place.cu", "tell_listed", ("call", CALL))
_name_pairs = Kernel(
    "place.cu", "name_pairs", ("call", CALL), ("ids", np.int64), ("one", np.int64), ("other", np.int64)
)
_fill_ids = Kernel("place.cu", "fill_ids", ("call", CALL))
_fill_scored = Kernel("place.cu", "fill_scored", ("call", CALL))

_DIRECTIONS, _TAU, _ONE_TAU, _WITHOUT_SIGN, _OFFSETS, _TOTALS, _IDS, _VALUES, _ANSWER_ROOM = (
    (CALL.names or ()).index(name)
    for name in (
        *("directions", "tau", "one_tau", "without_sign"),
        *("offsets", "totals", "ids", "values", "answer_room"),
    )
)

PART = 512
"""Chunks of a direction whose hits a block finds the places of."""
PARTS = 4
"""Such blocks of a multiprocessor, at most."""

VERIFYING = 3
"""Blocks of a multiprocessor that verify candidates, at most."""
LISTED = 32
"""Candidates for which there is such a block: four for each warp, as long as there are warps."""
FILLING = 16
"""Blocks of a multiprocessor that write out hits, at most; each tells when it is done."""


SPARE_BYTES = 1 << 26
"""Memory up to which a run that is kept for the next question keeps its own; of larger ones it is let go."""
GLANCES = 512
"""How often the host looks for the number of hits, some 0.3 ms in all, before it waits for the stream."""

UNKNOWN = 2**64 - 2  # what is in the header until the GPU has written it: no number of hits, and of no direction


class Buffers(NamedTuple):
    """Room for an answer."""

    ids: Any  # int64 (capacity,), empty where none are wanted
    scores: Any  # float32 (capacity,), the same
    offsets: Any  # int64 (m + 1,)
    totals: Any  # int64 (m,)

    @classmethod
    def of(cls, count: int, capacity: int, wanted: int) -> "Buffers":
        """Make room for so many directions and hits, in one piece: each has its price."""
        ids, scores = capacity if wanted != Want.COUNT else 0, capacity if wanted == Want.SCORES else 0
        memory = cp.cuda.alloc(8 * (2 * count + 1 + ids) + 4 * scores)
        return cls(
            cp.ndarray(ids, np.int64, memory + 8 * (2 * count + 1)),
            cp.ndarray(scores, np.float32, memory + 8 * (2 * count + 1 + ids)),
            cp.ndarray(count + 1, np.int64, memory),
            cp.ndarray(count, np.int64, memory + 8 * (count + 1)),
        )


class Run:
    """The kernels over questions of one shape, and the memory between them: room for so many candidates and hits.

    question : one of that shape; wanted : a `Want`, which may be another
    status : uint64 (4,) on the device, which gets the header of the search; None: memory of the host does
    """

    def __init__(self, uploaded: Uploaded, question: Question, rooms: int, wanted: int, status: Any = None) -> None:
        like, (count, dim) = question.like, question.directions.shape
        self.count, self.dim, self.shape = count, dim, (count, wanted)
        self.format, self.metric, self.itemsize = format_of(like.dtype), int(question.metric), like.dtype.itemsize
        self.variant: dict[str, Any] = {"format": self.format, "metric": self.metric}  # of kernels that know of both
        self.asked, self.wanted, self.batch = wanted, min(int(wanted), int(Want.SCORES)), count // uploaded.spaces
        self.stride = stride = -(-dim // 32) * 32
        self.depth = _depth(dim)
        self.tiled = uploaded.warp_groups and self.batch > TILED
        self.loose = question.loose and self.wanted != Want.COUNT
        self.wanted = int(Want.SCORES) if self.loose else self.wanted
        self.pair_room, self.listed_room = rooms, rooms if self.wanted == Want.SCORES else 0
        segments, cells = uploaded.segments, count * uploaded.chunks
        sizes = {
            "header": HEADER.itemsize,
            "plans": count * PLAN.itemsize,
            "views": count * segments * VIEW.itemsize,
            "digits": count * segments * 2 * stride,
            "tiles": uploaded.spaces * segments * -(-self.batch // TILED) * TILED * self.depth if self.tiled else 0,
            "counts": 0 if self.loose else 8 * cells,
            "starts": 0 if self.loose or wanted == Want.COUNT else 16 * cells,
            "bits": 0 if self.loose or wanted == Want.COUNT else 128 * cells,
            "pairs": 8 * self.pair_room,
            "listed": 8 * self.listed_room,
            "scores": 4 * (self.pair_room + self.listed_room),
        }
        self._places: dict[str, int] = {}
        self._room = 0
        for name, size in sizes.items():
            self._places[name] = self._room
            self._room += -(-size // ALIGNMENT) * ALIGNMENT
        absent = {"counts" if self.loose else "", "" if self.tiled else "tiles"}
        names = CALL.names or ()
        self.large = self._room > SPARE_BYTES
        self._addresses = [(names.index(own), place) for own, place in self._places.items() if own not in absent]
        self.work = cp.empty(WORK_SHAPE, np.uint64) if wanted == Want.EXPLAINED else None
        self._header: np.ndarray | None = None
        if status is None:  # in memory of the host that kernels write to
            self._header = np.frombuffer(cp.cuda.alloc_pinned_memory(HEADER.itemsize), np.uint64, 4)
        values = dict.fromkeys(names, 0)
        values |= {"count": count, "batch": self.batch, "dim": dim, "wanted": self.wanted, "stride": stride}
        values |= {"segments": uploaded.records.data.ptr, "owners": uploaded.owners.data.ptr}
        values |= {"segment_count": segments, "chunks": uploaded.chunks}
        values |= {"pair_room": self.pair_room, "listed_room": self.listed_room}
        values["status"] = status.data.ptr if self._header is None else self._header.ctypes.data
        values["work"] = 0 if self.work is None else self.work.data.ptr
        self.call = np.array([tuple(values.values())], CALL)
        self._fields, self._floats = self.call.view(np.int64), self.call.view(np.float64)  # every field has 8 bytes
        self.workspace: Any = None
        self.take_room()
        self._launches = list(self._bound(uploaded))
        self._counting = list(self._bound_counting(uploaded))
        self._fill = self._bound_fill(uploaded)
        self.keepalive: list[Any] = []  # what the last launches read and wrote besides

    def take_room(self) -> None:
        """Take the memory between the kernels, if it was let go: whoever keeps a run may set `workspace` to None."""
        if self.workspace is None:
            self.workspace = cp.empty(self._room, np.uint8)
            base = self.workspace.data.ptr
            for field, place in self._addresses:
                self._fields[field] = base + place

    def ask(self, question: Question) -> None:
        """Say what is asked, by a question of the same shape; whoever asks keeps its arrays."""
        directions: Any = question.directions
        tau = question.tau
        self._fields[_DIRECTIONS] = directions.data.ptr
        self._fields[_WITHOUT_SIGN] = question.as_users
        if self.work is not None:
            self.work.fill(0)
        if isinstance(tau, float):
            self._fields[_TAU], self._floats[_ONE_TAU] = 0, tau
        else:
            self._fields[_TAU] = tau.data.ptr

    def launch(self) -> None:
        """Launch everything up to verification."""
        self.keepalive = [launch() for launch in self._launches]

    def answer_into(self, buffers: Buffers) -> None:
        """Launch what counts the hits, tells, and writes them out; what there is no room for is left out."""
        if self._header is not None:
            self._header.fill(UNKNOWN)
        self._say_where(buffers)
        for launch in self._counting:
            launch()
        self._fill()

    def fill(self, buffers: Buffers) -> None:
        """Launch what writes the hits out, once more, into more room."""
        self._say_where(buffers)
        self._fill()

    def _say_where(self, buffers: Buffers) -> None:
        """Say where the answer goes."""
        fields = self._fields
        fields[_OFFSETS], fields[_TOTALS] = buffers.offsets.data.ptr, buffers.totals.data.ptr
        fields[_IDS], fields[_VALUES] = buffers.ids.data.ptr, buffers.scores.data.ptr
        fields[_ANSWER_ROOM] = buffers.ids.size

    def edges(self, ids: Any, count: int) -> tuple[Any, Any, Any]:
        """Name what a loose question found: ids of the directions, which are these (m,), and of vectors; scores.

        All (count,); no scores if they were not wanted.
        """
        one, other = cp.empty(count, np.int64), cp.empty(count, np.int64)
        _name_pairs((-(-count // THREADS),), THREADS, self.call, cp.ascontiguousarray(ids), one, other)
        if self.asked == Want.IDS:
            return one, other, cp.empty(0, np.float32)
        first = self._places["scores"] + 4 * self.pair_room
        return one, other, self.workspace[first : first + 4 * count].view(np.float32).copy()

    def _bound(self, uploaded: Uploaded) -> Iterator[Callable[[], Any]]:
        call = self.call
        rows = min(self.count, 65535)
        clearing = max(1, min(256, self.count * uploaded.chunks * 8 // THREADS // 4))
        yield _prepare.bind((uploaded.segments + -(-clearing // rows), rows), THREADS, call, **self.variant)
        for part in (own for own in uploaded.parts if own.chunks.size):
            yield from part.code.launches(self, uploaded, part)
        if uploaded.filtered:
            blocks = min(-(-self.pair_room // LISTED), VERIFYING * uploaded.processors)
            yield _verify_pairs.bind((blocks,), THREADS, call, **self.variant, overlap=True)

    def _bound_counting(self, uploaded: Uploaded) -> Iterator[Callable[[], Any]]:
        if self.loose:
            yield _tell_listed.bind((1,), THREADS, self.call, overlap=True)
            return
        if self.count > 1:
            yield _count_hits.bind((self.count,), THREADS, self.call, overlap=True)
        parts = min(-(-uploaded.chunks // PART), max(1, PARTS * uploaded.processors // self.count), 65535)
        yield _place_hits.bind((self.count, max(1, parts)), THREADS, self.call, overlap=True)

    def _bound_fill(self, uploaded: Uploaded) -> Callable[[], None]:
        if self.loose or self.wanted == Want.COUNT:
            return _nothing
        most = FILLING * uploaded.processors
        if self.wanted == Want.SCORES:
            blocks = min(-(-self.pair_room // THREADS), most)
            return _fill_scored.bind((blocks,), THREADS, self.call, overlap=True)
        blocks = min(-(-self.count * uploaded.chunks // (THREADS // 32)), most)
        return _fill_ids.bind((max(1, blocks),), THREADS, self.call, overlap=True)

    def status(self) -> list[int]:
        """Wait until the hits are counted, and return the header; they may still be being written out.

        These are candidates, hits listed, hits, and the lowest direction without an answer.
        """
        assert self._header is not None
        stream = cp.cuda.get_current_stream()
        for _ in range(GLANCES):
            numbers: list[int] = self._header.tolist()
            if UNKNOWN not in numbers:
                return numbers
            if stream.done:  # other threads run meanwhile
                break
        else:
            stream.synchronize()
        written: list[int] = self._header.tolist()
        return written

    def worked(self) -> npt.NDArray[np.int64] | None:
        """Return the counters, if they were wanted."""
        if self.work is None:
            return None
        return complete(self.work.get(), self.dim, self.itemsize)


def _nothing() -> None:
    """Launch nothing: there is nothing to write out."""


def bytes_for_each_direction(uploaded: Uploaded, dim: int, loose: bool = False) -> int:
    """Device memory that a run takes for each direction, beside that of the filters."""
    stride = -(-dim // 32) * 32
    return (not loose) * 152 * uploaded.chunks + uploaded.segments * (2 * stride + _depth(dim) + VIEW.itemsize)


def _depth(dim: int) -> int:
    """Bytes of a direction in tiles: it is cut into slabs."""
    return -(-dim // SLAB) * SLAB
