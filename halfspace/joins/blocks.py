"""Asking for pairs block by block: so many stored vectors, or others, are the directions of one batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace import query as asking
from halfspace.backend import Backend
from halfspace.files import mapped
from halfspace.model.arrays import host, namespace
from halfspace.model.counters import Want
from halfspace.model.formats import as_float32
from halfspace.model.layout import CHUNK
from halfspace.model.question import Question
from halfspace.model.segment import address
from halfspace.model.table import Table
from halfspace.runtime.progress import Advance, Meter
from halfspace.state.restrict import wanted_rows
from halfspace.state.snapshot import Snapshot

__all__ = [
    "Ask",
    "Block",
    "Edges",
    "Rows",
    "across",
    "answered",
    "block_size",
    "blocks",
    "once",
    "ordered_pairs",
    "told",
    "within_itself",
]

SHARE = 16
"""A block is at most one in so many of the rows: half of its products with itself are made in vain."""

Edges = tuple[Any, Any, Any]
"""Ids of one side and of the other (k,), and scores (k,), of none where they are not wanted; on the device."""
Ask = Callable[[Table, Any, Want], Question]
"""Makes the question of some directions (m, d) to a table."""


class Rows(NamedTuple):
    """An index at one moment, and which of its rows count."""

    backend: Backend
    snapshot: Snapshot
    rows: list[npt.NDArray[np.bool_]]  # of each segment
    threads: int

    @classmethod
    def of(cls, backend: Backend, snapshot: Snapshot, within: Any, threads: int) -> "Rows":
        """Take the live rows that are within."""
        return cls(backend, snapshot, wanted_rows(snapshot, within), threads)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids of the rows, ascending, on the host."""
        parts = [segment.ids[rows] for segment, rows in zip(self.snapshot.segments, self.rows, strict=True)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *map(host, parts)]))

    @property
    def size(self) -> int:
        """Number of rows that count."""
        return sum(int(rows.sum()) for rows in self.rows)

    def table(self, rows: Sequence[npt.NDArray[np.bool_]] | None = None, begin: int = 0, first: int = 0) -> Table:
        """Return the table of the rows, or of these of the segments from `begin` on: none before row `first` of it."""
        xp = self.backend.xp
        masks = [xp.packbits(~own, bitorder="little") for own in (self.rows if rows is None else rows)]
        if not masks:
            return self.snapshot.table
        table = self.snapshot.table.part(*range(begin, begin + len(masks)))
        for place, mask in enumerate(masks):
            table.records[:, place]["excluded"] = address(mask)
        return replace(table.changed(table.records, masks), passed=first // CHUNK)


class Block(NamedTuple):
    """Some rows of a segment: the directions of a batch."""

    ids: Any  # (m,), in the order of the rows
    directions: Any  # (m, d) float32
    number: int  # of the segment
    first: int
    stop: int  # rows [first, stop) of it, as far as they count

    def own(self, of: Rows) -> Table:
        """Return the table of its own rows."""
        return of.table([_between(of.rows[self.number], self.first, self.stop)], self.number, self.first)

    def since(self, of: Rows, row: int) -> Table:
        """Return the table of what comes from a row of its segment on."""
        rows = of.rows[self.number]
        return of.table([_between(rows, row, rows.size), *of.rows[self.number + 1 :]], self.number, row)


def _between(rows: npt.NDArray[np.bool_], first: int, stop: int) -> npt.NDArray[np.bool_]:
    part: npt.NDArray[np.bool_] = namespace(rows).zeros_like(rows)
    part[first:stop] = rows[first:stop]
    return part


def block_size(of: Rows, dim: int) -> int:
    """Count the rows that make a block."""
    room = of.backend.room(of.snapshot.table, dim, loose=True)
    return max(1, min(room, sum(rows.size for rows in of.rows) // SHARE) // CHUNK) * CHUNK


def blocks(of: Rows, dim: int) -> Iterator[Block]:
    """Cut the rows into blocks."""
    size = block_size(of, dim)
    mapped.expect(of.snapshot.segments, sparse=False)
    for number, (segment, rows) in enumerate(zip(of.snapshot.segments, of.rows, strict=True)):
        xp = namespace(rows)
        for first in range(0, segment.rows, size):
            mapped.fetched(segment, first, min(first + size, segment.rows))
            own = first + xp.flatnonzero(rows[first : first + size])
            if own.size:
                directions = xp.ascontiguousarray(as_float32(segment.vectors[0][own]))
                yield Block(segment.ids[own], directions, number, first, min(first + size, segment.rows))


def told(of: Rows, dim: int, meter: Meter) -> Iterator[Block]:
    """Cut the rows into blocks, each of which is paired with itself and what follows, and tell how far that is."""
    left = of.size
    advance = meter.over(left * (left + 1) // 2)
    for block in blocks(of, dim):
        yield block
        advance(block.ids.size * (left - block.ids.size / 2))
        left -= block.ids.size
    meter.finish()


def within_itself(of: Rows, ask: Ask, dim: int, wanted: Want, meter: Meter) -> Iterator[Edges]:
    """Find all pairs of the rows, the smaller id first."""
    for block in told(of, dim, meter):
        for edges in answered(of, ask(block.since(of, block.first), block.directions, wanted), block.ids):
            yield once(*edges, block.ids)


def across(of: Rows, others: Iterator[tuple[Any, Any]], ask: Ask, wanted: Want, advance: Advance) -> Iterator[Edges]:
    """Find all pairs of the rows and of others: of these, come ids (m,) and directions (m, d), block by block."""
    table = of.table()
    for ids, directions in others:
        for theirs, ours, scores in answered(of, ask(table, directions, wanted), ids):
            yield ours, theirs, scores
        advance(len(ids))


def answered(of: Rows, question: Question, ids: Any) -> Iterator[Edges]:
    """Ask, and name the direction of each hit."""
    for own, found in asking.parts(of.backend, question._replace(loose=True)):
        yield of.backend.edges(found, ids[own], of.threads)


def once(ids: Any, others: Any, scores: Any, own: Any) -> Edges:
    """Leave each pair once, and none of a vector and itself; own : ids of the block, whose pairs come twice."""
    xp = namespace(ids)
    lowest, highest = int(own.min()), int(own.max())
    doubtful = xp.flatnonzero((others >= lowest) & (others <= highest) & (others <= ids))
    if doubtful.size:
        if highest - lowest + 1 > own.size:
            doubtful = doubtful[xp.isin(others[doubtful], own)]
        kept = xp.ones(ids.size, np.bool_)
        kept[doubtful] = False
        ids, others = ids[kept], others[kept]
        scores = scores[kept] if scores.size else scores
    return xp.minimum(ids, others), xp.maximum(ids, others), scores


def ordered_pairs(edges: Edges) -> Edges:
    """Order pairs by the first id and then by the second, where they are not."""
    first, second, scores = edges
    if first.size < 2:
        return edges
    xp = namespace(first)
    ascends = (first[1:] > first[:-1]) | ((first[1:] == first[:-1]) & (second[1:] > second[:-1]))
    if bool(ascends.all()):
        return edges
    order = xp.lexsort(xp.stack([second, first]))
    return first[order], second[order], scores[order] if scores.size else scores
