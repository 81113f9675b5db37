"""Arguments of kernels, as records of numbers and addresses, which own nothing."""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.cpu.runtime.clock import CLOCK_FIELDS
from halfspace.model.counters import WORK_SHAPE
from halfspace.model.filters import FILTERS
from halfspace.model.layout import BLOCK, CHUNK, TILE
from halfspace.model.segment import SCAN, Segment, address

__all__ = ["DIRECTION", "HEAD", "JOB", "SEGMENT", "SINK_FIELDS", "new_job", "pack_head", "tabulate", "work_of"]

SEGMENT = np.dtype(
    [
        ("rows", np.int64),
        ("ids", np.int64),  # address of int64 (rows,)
        ("vectors", np.int64),  # address of stored (rows, d)
        ("norms", np.int64),  # address of float32 (rows,)
        ("grain", np.float64),
        ("excluded", np.int64),  # address of uint8 (ceil(rows / 8),), a bit a row, or 0
        ("data", np.int64),  # address of the record of its filter, 0 where every row is scanned, or NO_RECORD
    ]
)
"""One space of one segment."""

NO_RECORD = -1
"""In the place of an address: the filter needs vectors and norms alone."""

DIRECTION = np.dtype(
    [
        ("number", np.int64),  # among the directions of a search
        ("metric", np.int64),  # of `halfspace.model.metrics.Metric`
        ("narrow", np.int64),  # address of float32 (d,)
        ("wide", np.int64),  # address of float64 (d,), the same values
        ("digits", np.int64),  # address of int8 (steps, 2, 4): of four dimensions the high digits, then the low ones
        ("steps", np.int64),
        ("tau", np.float64),  # the threshold, brought to where scores are
        ("norm", np.float64),  # upper bound of |q|
        ("grain", np.float64),  # a power of two of which every q_j is a multiple
        ("slope", np.float64),  # error of a float64 dot product: slope * |x| + intercept
        ("intercept", np.float64),
        ("slope32", np.float64),  # the same of a float32 dot product
        ("intercept32", np.float64),
        ("spread", np.float64),  # relative error of a float64 cosine's threshold, or of a distance
        ("lost", np.float64),  # what a distance may lose where components are subnormal
        ("square", np.float64),  # of the radius, with the metric "l2", and what it lacks: both together have no error
        ("square_low", np.float64),
        ("drop32", np.float64),  # a float32 dot product, per unit of |x|, or sum of squares that is certainly no hit's
        ("take32", np.float64),  # and one that certainly is
        ("digit_scale", np.float64),  # a, a power of two
        ("reach", np.float64),  # k: what the coding of q costs, per unit of a ball's scale
        ("bias", np.int64),  # 128 sum_j A_j, since codes are stored as c + 128
    ]
)
"""A direction, and what the stages need to know of it."""

HEAD = np.dtype(
    [
        ("table", np.int64),  # address of SEGMENT (spaces, segments)
        ("spaces", np.int64),
        ("segments", np.int64),
        ("directions", np.int64),  # address of DIRECTION (m,), or 0 where they are to be prepared
        ("shared", np.int64),  # address of what the filter has prepared for the only segment, or 0
        ("first", np.int64),  # chunks to be searched
        ("last", np.int64),
        ("pause", np.int64),  # the search stops at this chunk
        ("enough", np.int64),  # if so many bytes have been read by then
        ("may_scan", np.int64),  # whether to read vectors instead where a filter does not pay
        ("wanted", np.int64),  # of `halfspace.model.counters.Want`
        ("scan", np.int64),  # of `halfspace.cpu.stored.Readers`: two addresses, and the bytes of a component
        ("verify", np.int64),
        ("itemsize", np.int64),
        ("metric", np.int64),  # of `halfspace.model.metrics.Metric`
        ("goes_on", np.int64),  # whether the search goes on from where a call before has stopped
        ("budget", np.float64),  # seconds after which the call returns
    ]
)
"""The arguments of one call of a search."""

SINK_FIELDS: list[Any] = [
    ("owners", np.int64),  # address of int32 (room,): directions
    ("ids", np.int64),  # address of int64 (room,)
    ("scores", np.int64),  # address of float32 (room,)
    ("room", np.int64),
    ("found", np.int64),
]
"""Where hits go."""

JOB = np.dtype(
    [
        ("rows", np.int64, (CHUNK,)),  # the rows left, ascending within a block
        ("kinds", np.int32, (CHUNK,)),  # their verdicts
        ("blocks", np.int64, (TILE,)),  # blocks of rows that are still to be tested
        ("below", np.float64, (TILE,)),  # their thresholds
        ("above", np.float64, (TILE,)),
        ("products", np.int32, (2 * TILE,)),
        ("values", np.float64, (CHUNK,)),  # of the chunk's rows, what the parts of their codes came to
        ("candidates", np.int64, (CHUNK,)),  # rows left by the high codes, twice, plus one where they are taken
        ("places", np.int64, (TILE // BLOCK + 1,)),
        ("verdicts", np.int32, (CHUNK,)),
        ("sums", np.float64, (CHUNK,)),
        ("alive", np.int32, (CHUNK,)),
        ("work", np.int64, WORK_SHAPE),
        ("dim", np.int64),
        ("words", np.int64),  # of 8 codes of 4 bits
        ("row_bytes", np.int64),  # of a vector
        ("parts", np.int64),  # address of float64 (2, d), at least (2, COLUMNS), to decide a hairline in
        ("scan", np.int64),  # as in HEAD
        ("verify", np.int64),
        ("wanted", np.int64),
        ("may_scan", np.int64),
        ("counting", np.bool_),  # whether hits of this chunk are counted instead of listed
        ("scored", np.bool_),  # whether scores are wanted
        *SINK_FIELDS,
        *CLOCK_FIELDS,
        ("weight", np.int64),  # of what was done since the clock was read
        ("ahead", np.int64),  # whether this call has done anything yet, which every call does
        ("stopped", np.int64),  # why a search has stopped: 0, or PAUSED or FULL
        ("resumed", np.int64),  # whether it goes on from where it did:
        ("space", np.int64),
        ("chunk", np.int64),  # of a segment
        ("place", np.int64),  # of a direction
        ("row", np.int64),  # in a matrix product, the first of the tiles that were being verified
        ("part", np.int64),  # of the axes, which is multiplied first in this chunk; see `halfspace.cpu.filters.prefix`
        ("cost", np.int64),  # of the first of its tiles, with the first part
        ("another", np.int64),  # whether the second tile tries another part
    ],
    align=True,
)
"""The search of one thread: what it is about, room to work in, the counters and the hits."""


def new_job() -> np.ndarray:
    """Make room for a HEAD, and for a JOB at the next multiple of 64 bytes."""
    return np.empty(HEAD.itemsize + JOB.itemsize + 63, np.uint8)


_PACKED = struct.Struct(f"={len(HEAD.names or ()) - 1}qd")


def pack_head(job: Any, *fields: float) -> None:
    """Fill in the HEAD: much faster than NumPy would."""
    _PACKED.pack_into(job, 0, *fields)


def work_of(job: np.ndarray) -> npt.NDArray[np.int64]:
    """Return the counters of a job."""
    start = HEAD.itemsize + -(job.ctypes.data + HEAD.itemsize) % 64
    work: npt.NDArray[np.int64] = job[start : start + JOB.itemsize].view(JOB)["work"][0]
    return work


def tabulate(segment: Segment) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return SEGMENT (spaces,), and what it refers to beside the segment's own arrays."""
    kept = segment.kept
    known: tuple[np.ndarray, list[np.ndarray]] | None = kept.get("cpu")
    return known or kept.setdefault("cpu", _tabulate(segment))


def _tabulate(segment: Segment) -> tuple[np.ndarray, list[np.ndarray]]:
    spaces = segment.vectors.shape[0]
    records = np.zeros(spaces, SEGMENT)
    describe = FILTERS[segment.filter].on("cpu").CODE.describe
    others = []
    for space in range(spaces):
        row = records[space]
        row["rows"], row["ids"], row["grain"] = segment.rows, address(segment.ids), segment.grain
        row["vectors"], row["norms"] = address(segment.vectors[space]), address(segment.norms[space])
        row["excluded"] = 0 if segment.dead is None else address(segment.dead)
        if describe is not None:
            others.append(describe(segment.data, space))
            row["data"] = address(others[-1])
        elif segment.filter != SCAN:
            row["data"] = NO_RECORD
    return records, others
