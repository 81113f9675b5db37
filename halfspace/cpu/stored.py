"""What reads stored vectors: the scan of blocks, and verification.

Both are compiled once for each stored format and metric. The search kernels of all filters call them by their
addresses, once for a direction and a chunk, and so serve all of them.
"""

from typing import Any, NamedTuple

import numpy as np

from halfspace.cpu import job as jobs
from halfspace.cpu.emit import emit
from halfspace.cpu.exact import COLUMNS
from halfspace.cpu.job import COUNT, DROP, LOOK, SCAN, TAKE, keep
from halfspace.cpu.metrics import cosine, euclidean, inner_product
from halfspace.cpu.runtime.jit import array_at, called, is_called_kept, pointer, record_at, specialised
from halfspace.cpu.runtime.records import DIRECTION, JOB, SEGMENT
from halfspace.model.layout import BLOCK
from halfspace.model.metrics import Metric

__all__ = ["Readers", "is_there", "readers_of"]

like: Any = None
"""What `readers_of` puts a stored format in the place of."""
classify_rows: Any = None
precision: Any = None
decide: Any = None
decide_hairline: Any = None
"""What it puts the functions of a metric in the place of."""

_CODE = {Metric.IP: inner_product, Metric.COSINE: cosine, Metric.L2: euclidean}


class Readers(NamedTuple):
    """What reads the vectors of a stored format, with a metric."""

    scan: int  # address of `_scan`
    verify: int  # address of `_verify`
    itemsize: int


_readers: dict[Any, Readers] = {}
_keepalive: list[object] = []


def readers_of(dtype: np.dtype[Any], metric: Metric) -> Readers:
    """Return what reads vectors of a stored format for a metric; it is compiled when it is first asked for."""
    known = _readers.get((dtype, metric))
    return known or _readers.setdefault((dtype, metric), _compile(dtype, metric))


def is_there(dtype: np.dtype[Any], metric: Metric) -> bool:
    """Whether what reads vectors of a stored format for a metric need not be compiled: it is loaded or on disk."""
    return (dtype, metric) in _readers or all(is_called_kept(*one) for one in _functions(dtype, metric))


def _compile(dtype: np.dtype[Any], metric: Metric) -> Readers:
    (scan, scan_code), (verify, verify_code) = (called(*one) for one in _functions(dtype, metric))
    _keepalive.extend((scan_code, verify_code))
    return Readers(scan, verify, dtype.itemsize)


def _functions(dtype: np.dtype[Any], metric: Metric) -> tuple[tuple[Any, int], tuple[Any, int]]:
    """Return the scan and verification, each with how many arguments it takes."""
    code = _CODE[metric]
    names = ("classify_rows", "precision", "decide", "decide_hairline")
    parts = {"like": dtype.type} | {name: getattr(code, name) for name in names}
    suffix = f"{dtype.name}_{metric.label}"
    return (specialised(_scan, f"scan_{suffix}", **parts), 5), (specialised(_verify, f"verify_{suffix}", **parts), 4)


def _scan(job, segment, direction, listed, left):
    """Scan the first `listed` blocks of a job; the others are addresses. Returns how many rows are left."""
    own, part = record_at(job, JOB), record_at(segment, SEGMENT)
    asked = record_at(direction, DIRECTION)
    vectors = array_at(part.vectors, like, (part.rows, own.dim))
    tested, taken, looks = 0, 0, 0
    for b in range(listed):
        low = BLOCK * own.blocks[b]
        high = min(low + BLOCK, part.rows)
        classify_rows(vectors, part.norms, asked, (low, high), own.verdicts)
        tested += high - low
        for i in range(high - low):
            verdict = own.verdicts[i]
            if verdict != DROP:
                taken += verdict == TAKE
                looks += verdict == LOOK
                left = keep(own, part, low + i, verdict, left)
    work = own.work
    work[SCAN, jobs.TESTED] += tested
    work[SCAN, jobs.DROPPED] += tested - taken - looks
    work[SCAN, jobs.TAKEN] += taken
    work[SCAN, jobs.LEFT] += looks
    work[SCAN, jobs.DOTS] += tested
    work[SCAN, jobs.BYTES] += tested * (own.row_bytes + 4)
    return left


def _verify(job, segment, direction, left):
    """Decide the rows that a filter has left, and emit the hits, for which there is room; returns how many."""
    own, part = record_at(job, JOB), record_at(segment, SEGMENT)
    asked = record_at(direction, DIRECTION)
    dim, scored, wanted, tau = own.dim, own.scored, own.wanted, asked.tau
    vectors, norms = array_at(part.vectors, like, (part.rows, dim)), pointer(part.norms, np.float32)
    row_ids = pointer(part.ids, np.int64)
    narrow, values = array_at(asked.narrow, np.float32, dim), array_at(asked.wide, np.float64, dim)
    parts = array_at(own.parts, np.float64, (2, max(dim, COLUMNS)))
    trust = precision(asked, part.grain)
    hits = 0
    for at in range(left):
        row = own.rows[at]
        score = np.float32(0.0)
        if scored or own.kinds[at] == jobs.LOOK:
            x, norm, by = vectors[row], norms[row], jobs.VERIFY
            hit, score, certain = decide(x, norm, values, trust, tau, scored)
            if not certain:
                by = jobs.EXACT
                hit, score = decide_hairline(x, norm, part.grain, narrow, asked, tau, scored, parts)
            own.work[by, jobs.TAKEN if hit else jobs.DROPPED] += 1
            if not hit:
                continue
        if wanted != COUNT:
            emit(own, asked.number, row_ids[row], score)
        hits += 1
    return hits
