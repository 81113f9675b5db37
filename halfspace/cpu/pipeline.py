"""The query, compiled once for each filter: filter, verify, emit, over all segments that have the filter or none.

Rows go by in chunks of 1,024. What happens in a chunk depends on the data and the directions alone, never on the
thread count, and so do the counters.
"""

from typing import Any

import numpy as np
from numba import types

from halfspace.cpu.collect import order_few
from halfspace.cpu.directions import blank_directions, fill_digits, fill_directions
from halfspace.cpu.exact import COLUMNS
from halfspace.cpu.filters import FilterCode
from halfspace.cpu.filters.scan import CODE as SCAN_CODE
from halfspace.cpu.job import SCORES, bytes_read, clear, complete
from halfspace.cpu.runtime.clock import start_clock
from halfspace.cpu.runtime.jit import (
    array_at,
    blank,
    borrowed,
    compiled,
    compiled_for,
    hold,
    is_kept,
    record_at,
    specialised,
)
from halfspace.cpu.runtime.records import DIRECTION, HEAD, JOB, SEGMENT
from halfspace.model.counters import State
from halfspace.model.layout import CHUNK
from halfspace.model.metrics import Metric

__all__ = ["compile_ahead", "is_there", "search_kernel"]

_kernels: dict[str, tuple[Any, Any]] = {}
_SIGNATURE = tuple(
    types.Array(kind, dimensions, "C")
    for kind, dimensions in (
        (types.uint8, 1),
        (types.float32, 2),
        (types.float64, 1),
        (types.int64, 1),
        (types.int32, 1),
        (types.int64, 1),
        (types.float32, 1),
    )
)
"""Of every search kernel; the arguments of `_search_chunks`."""
NOT_FINITE = int(State.NOT_FINITE)
COSINE = int(Metric.COSINE)
HEAD_BYTES = HEAD.itemsize
scan = SCAN_CODE.search
prepare: Any = None
search: Any = None
NEEDS_DIGITS = False
"""What `search_kernel` puts those of a filter in the place of."""


def _search_chunks(job, narrow, tau, counts, owners, ids, scores):
    """Search chunks for every direction, for as long as there is room for hits and the clock allows.

    job : uint8, a HEAD, then room for one JOB at a multiple of 64 bytes, as the call before left it
    narrow : float32 (spaces * m, d), the directions; tau : float64 (spaces * m,)
    counts : int64 (spaces * m,), the hits are added to it
    owners, ids, scores : (room,), the columns of `halfspace.cpu.emit`, the first hits in them already

    Returns the next first chunk, if the search has stopped before the last; how many hits are in the columns; whether
    there is a single direction, with hits in order of ids; and the state, which is 0, PAUSED, FULL, or NOT_FINITE
    where a direction is not finite, or has no cosine. Counters of verification are completed where it is 0.
    """
    head = record_at(job.ctypes.data, HEAD)
    own = record_at((job.ctypes.data + HEAD_BYTES + 63) // 64 * 64, JOB)
    total, dim = narrow.shape
    spaces, last = head.spaces, head.last
    table = array_at(head.table, SEGMENT, (spaces, head.segments))
    own.owners, own.ids, own.scores, own.room = owners.ctypes.data, ids.ctypes.data, scores.ctypes.data, ids.size
    own.dim, own.words, own.row_bytes = dim, (dim + 7) // 8, dim * head.itemsize
    parts = blank((2, max(dim, COLUMNS)), np.float64)
    own.parts, own.scan, own.verify = parts.ctypes.data, head.scan, head.verify
    own.wanted, own.may_scan, own.scored = min(head.wanted, SCORES), head.may_scan, head.wanted >= SCORES
    if not head.goes_on:
        clear(own.work)
        own.found, own.weight, own.resumed = 0, 0, 0
    own.stopped, own.ahead = 0, 0
    made = blank_directions(narrow if head.directions == 0 else narrow[:0])
    if head.directions == 0:
        fill_directions(made, tau, head.metric)
        if NEEDS_DIGITS:
            fill_digits(made)
    directions = borrowed(made.records)
    if head.directions != 0:
        directions = array_at(head.directions, DIRECTION, total)
    for k in range(total):
        norm = directions[k].norm
        if not norm < np.inf or (norm == 0.0 and head.metric == COSINE):
            return head.first, 0, False, NOT_FINITE
    before, reached, prepares, batch = 0, last, True, total // spaces
    for which in range(head.segments):
        chunks = (table[0, which].rows + CHUNK - 1) // CHUNK
        start = max(head.first - before, 0)
        stop = min(last - before, chunks)
        middle = min(max(head.pause - before, start), stop)
        before += chunks
        if start >= stop or reached != last:
            continue
        state = prepare(table, which, directions, dim, head.shared)
        if prepares:  # only then: every call gets ahead, however long that took
            start_clock(own, head.budget)
            prepares = False
        for part in range(2):
            span = (start, middle) if part == 0 else (middle, stop)
            here = before - chunks + span[0]
            if here == head.pause and own.resumed == 0 and bytes_read(own.work) >= head.enough:
                reached = head.pause
            if span[0] >= span[1] or reached != last:
                continue
            for space in range(own.space if own.resumed else 0, spaces):
                segment, begin = table[space, which], own.chunk if own.resumed else span[0]
                own.space = space
                asked = directions[space * batch : (space + 1) * batch]
                if segment.data == 0:
                    at = scan(own, segment, 0, asked, counts, (begin, span[1]))
                else:
                    at = search(own, segment, state, asked, counts, (begin, span[1]))
                if own.stopped:
                    own.resumed, own.chunk, reached = 1, at, here
                    break
                own.resumed = 0
        hold(state)
    hold(made)
    hold(parts)
    if own.stopped == 0:
        complete(own.work, own.row_bytes)
    found, stopped = own.found, own.stopped
    hold(job)
    return reached, found, total == 1 and order_few(ids[:found], scores[:found]), stopped


def search_kernel(code: FilterCode) -> Any:
    """Return the search of tables whose segments have a filter, or none; it is compiled when it is first called."""
    known = _kernels.get(code.name) or _kernels.setdefault(code.name, (code.search, _search_kernel(code)))
    if known[0] is not code.search:
        raise ValueError(f"two filters have kernels called {code.name!r}: FilterCode.name must be another")
    return known[1]


def is_there(kernel: Any) -> bool:
    """Whether a search kernel need not be compiled: it is loaded or on disk."""
    return bool(kernel.overloads) or is_kept(kernel, _SIGNATURE)


def compile_ahead(code: FilterCode) -> None:
    """Load or compile the search kernel of a filter."""
    compiled_for(search_kernel(code), _SIGNATURE)


def _search_kernel(code: FilterCode) -> Any:
    parts = {"prepare": code.prepare, "search": code.search, "NEEDS_DIGITS": code.needs_digits}
    return compiled(specialised(_search_chunks, name=f"search_{code.name}", **parts), sources=code.sources)
