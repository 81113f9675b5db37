"""Appending to the tail (the memtable): rows go where no snapshot looks yet, and then a longer tail is published."""

from dataclasses import replace

import numpy as np

from halfspace.model.arrays import namespace
from halfspace.model.segment import Segment, address
from halfspace.runtime.progress import SILENT, Meter
from halfspace.state.snapshot import TAIL_ROWS, Snapshot

__all__ = ["TailWriter"]


class TailWriter:
    """The one writer of a tail: it owns the buffer that the tail's arrays are the first rows of."""

    def __init__(self) -> None:
        self._buffer: Segment | None = None

    def append(self, snapshot: Snapshot, fresh: Segment, next_id: int, meter: Meter = SILENT) -> Snapshot:
        """Add fresh rows to the tail of a snapshot, or seal the tail with them if they would not fit."""
        tail = snapshot.tail
        rows = tail.rows + fresh.rows
        if rows > TAIL_ROWS:
            return replace(snapshot.sealing(fresh, meter), next_id=next_id)
        buffer = self._room(tail)
        buffer.vectors[:, tail.rows : rows] = fresh.vectors
        buffer.norms[:, tail.rows : rows] = fresh.norms
        buffer.ids[tail.rows : rows] = fresh.ids
        dead = tail.dead
        if dead is not None:
            xp = namespace(dead)
            dead = xp.concatenate([dead, xp.zeros(-(-rows // 8) - dead.size, np.uint8)])
        longer = Segment(
            buffer.vectors[:, :rows],
            buffer.ids[:rows],
            buffer.norms[:, :rows],
            min(tail.grain, fresh.grain),
            dead=dead,
            live=tail.live + fresh.rows,
        )
        return Snapshot(snapshot.sealed, longer, next_id, snapshot.builder)

    def _room(self, tail: Segment) -> Segment:
        """Return the buffer that `tail` begins, or a new one that begins with a copy of it."""
        buffer = self._buffer
        if buffer is not None and tail.rows and address(buffer.ids) == address(tail.ids):
            return buffer
        xp = namespace(tail.ids)
        spaces, rows, dim = tail.vectors.shape
        buffer = Segment(
            xp.empty((spaces, TAIL_ROWS, dim), tail.vectors.dtype),
            xp.empty(TAIL_ROWS, np.int64),
            xp.empty((spaces, TAIL_ROWS), np.float32),
            np.inf,
            live=0,
        )
        buffer.vectors[:, :rows] = tail.vectors
        buffer.norms[:, :rows] = tail.norms
        buffer.ids[:rows] = tail.ids
        self._buffer = buffer
        return buffer
