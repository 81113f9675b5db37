"""Hits as they come: three growing columns in memory of the C library, made into arrays once all are there.

Memory that a kernel grows far down in its loops is kept outside Numba's arrays: `realloc` moves large columns without
copying them, and nothing counts references.
"""

import ctypes
import sys
from typing import NamedTuple

import numpy as np
from llvmlite import binding
from numba import carray, types

from halfspace.cpu._jit import pointer, stage

__all__ = ["HELD", "SINK", "TOO_MANY", "Found", "emit", "finish", "make_room"]

_library = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
for _name in ("realloc", "free"):  # by names of our own: compiled code that is cached looks them up again
    binding.add_symbol(f"halfspace_{_name}", ctypes.cast(getattr(_library, _name), ctypes.c_void_p).value)
_realloc = types.ExternalFunction("halfspace_realloc", types.intp(types.intp, types.uintp))
_free = types.ExternalFunction("halfspace_free", types.void(types.intp))

HELD, OUT_OF_MEMORY, TOO_MANY = 0, 1, 2
FIRST = 256
"""Hits that there is room for at first."""

SINK = np.dtype(
    [
        ("owners", np.int64),  # address of int32 (room,): directions
        ("ids", np.int64),  # address of int64 (room,)
        ("scores", np.int64),  # address of float32 (room,)
        ("room", np.int64),
        ("found", np.int64),
        ("most", np.int64),  # hits that may be kept
        ("full", np.int64),  # HELD while there was room, else OUT_OF_MEMORY or TOO_MANY
    ]
)


class Found(NamedTuple):
    """Hits, in order of chunks, directions and rows."""

    owners: np.ndarray  # int32, directions
    ids: np.ndarray  # int64
    scores: np.ndarray  # float32, none where they were not wanted


@stage
def make_room(sink, more):
    """Make room for more hits; whether there is."""
    needed = sink.found + more
    if needed <= sink.room:
        return True
    if needed > sink.most:
        sink.full = TOO_MANY
        return False
    room = max(2 * sink.room, needed, FIRST)
    owners = _realloc(sink.owners, np.uint64(4 * room))
    sink.owners = owners if owners != 0 else sink.owners
    ids = _realloc(sink.ids, np.uint64(8 * room))
    sink.ids = ids if ids != 0 else sink.ids
    scores = _realloc(sink.scores, np.uint64(4 * room))
    sink.scores = scores if scores != 0 else sink.scores
    if owners == 0 or ids == 0 or scores == 0:
        sink.full = OUT_OF_MEMORY
        return False
    sink.room = room
    return True


@stage
def emit(sink, owner, id, score):
    """Add a hit, for which there is room."""
    at = sink.found
    pointer(sink.owners, np.int32)[at] = owner
    pointer(sink.ids, np.int64)[at] = id
    pointer(sink.scores, np.float32)[at] = score
    sink.found = at + 1


@stage
def finish(sink, scored):
    """Make arrays of all hits, of none where there was no room for all, and give the memory back."""
    found = sink.found if sink.full == HELD else 0
    hits = Found(np.empty(found, np.int32), np.empty(found, np.int64), np.empty(found if scored else 0, np.float32))
    if found:
        hits.owners[:] = carray(pointer(sink.owners, np.int32), found)
        hits.ids[:] = carray(pointer(sink.ids, np.int64), found)
        if scored:
            hits.scores[:] = carray(pointer(sink.scores, np.float32), found)
    _free(sink.owners)
    _free(sink.ids)
    _free(sink.scores)
    return hits
