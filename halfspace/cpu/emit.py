"""Hits as they come: three columns that Python owns, which the kernel fills, and stops where they are full."""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.runtime.jit import inlined, pointer

__all__ = ["Columns", "Found", "emit"]

LARGE = 1 << 16
"""Hits from which on columns are cut in place instead of copied."""


class Found(NamedTuple):
    """Hits, in order of chunks, directions and rows."""

    owners: np.ndarray  # int32, directions
    ids: np.ndarray  # int64
    scores: np.ndarray  # float32, none where they were not wanted


class Columns:
    """The columns of a sink."""

    __slots__ = ("ids", "owners", "scores")

    def __init__(self, room: int) -> None:
        self.owners = np.empty(room, np.int32)
        self.ids = np.empty(room, np.int64)
        self.scores = np.empty(room, np.float32)

    def grow(self, room: int) -> None:
        """Make room for so many hits; those that are there stay."""
        for column in (self.owners, self.ids, self.scores):
            column.resize(room, refcheck=False)  # moves large memory without a copy

    def taken(self, found: int, scored: bool) -> Found:
        """Give the hits away, without the room that is left: few as copies, but for their owners."""
        owners, ids, scores = self.owners, self.ids, self.scores if scored else self.scores[:0].copy()
        if found < LARGE:
            return Found(owners[:found], ids[:found].copy(), scores[:found].copy())
        for column in (owners, ids, scores) if scored else (owners, ids):
            column.resize(found, refcheck=False)
        return Found(owners, ids, scores)


@inlined
def emit(sink, owner, id, score):
    """Add a hit, for which there is room."""
    at = sink.found
    pointer(sink.owners, np.int32)[at] = owner
    pointer(sink.ids, np.int64)[at] = id
    pointer(sink.scores, np.float32)[at] = score
    sink.found = at + 1
