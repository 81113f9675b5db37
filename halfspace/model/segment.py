"""One batch of vectors and all that is derived from it, never changed once it is made.

Arrays carry a leading axis of independent *spaces*, which share their ids: one space for an ordinary index, one per
head for attention. They lie on the device of the index.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.model.arrays import gather, is_array, namespace
from halfspace.model.layout import Arrays
from halfspace.runtime.derived import derived
from halfspace.runtime.progress import SILENT, Advance, Meter, ignore

__all__ = ["SCAN", "Segment", "address", "empty", "join"]

SCAN = "scan"
"""The filter of segments that have none: every vector is read."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Vectors with their ids, bounds and tombstones."""

    vectors: np.ndarray  # (spaces, n, d), the bits of the stored format
    ids: npt.NDArray[np.int64]  # (n,), ascending where the segment is sealed and has no `by_id`
    norms: npt.NDArray[np.float32]  # (spaces, n), upper bounds of |x|
    grain: float  # a power of two of which every component is a multiple; infinite where all are zero
    filter: str = SCAN
    trial: dict[str, int] | None = None  # bytes by filter, counted on a sample, where they decided
    data: Arrays | None = None  # what the filter derived, see `halfspace.model.filters.FilterData`
    by_id: npt.NDArray[np.int64] | None = None  # (n,), rows in order of ids, where a filter brought them in another
    dead: npt.NDArray[np.uint8] | None = None  # (ceil(n / 8),), a bit a row, lowest first
    live: int = -1  # rows that are not dead

    def __post_init__(self) -> None:
        if self.live < 0:
            object.__setattr__(self, "live", self.rows - int(self.dead_rows.sum()))

    @property
    def rows(self) -> int:
        """Number of rows, dead ones included."""
        return self.ids.size

    @property
    def dead_rows(self) -> npt.NDArray[np.bool_]:
        """Whether each row (n,) is dead."""
        xp = namespace(self.ids)
        dead: npt.NDArray[np.bool_] = xp.zeros(self.rows, np.bool_)
        if self.dead is not None:
            dead = xp.unpackbits(self.dead, bitorder="little")[: self.rows].view(np.bool_)
        return dead

    @derived
    def kept(self) -> dict[str, Any]:
        """What a backend derives from a segment for its kernels, by the name of the device."""
        return {}

    def excluding(self, rows: npt.NDArray[np.int64]) -> "Segment":
        """Return the same segment with some live rows (k,), each named once, dead as well."""
        xp = namespace(self.ids)
        dead = xp.zeros(-(-self.rows // 8), np.uint8) if self.dead is None else self.dead.copy()
        at, places = xp.unique(rows >> 3, return_inverse=True)
        bits = (1 << (rows & 7)).astype(np.float64)
        dead[at] |= xp.bincount(places, weights=bits).astype(np.uint8)  # sums of different bits
        return replace(self, dead=dead, live=self.live - rows.size)

    def find(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Find the live row of each of the ids (k,), or -1."""
        xp = namespace(self.ids)
        if self.live == 0:
            nowhere: npt.NDArray[np.int64] = xp.full(ids.size, -1, np.int64)
            return nowhere
        keys, sorter, rows = self._lookup
        at = xp.minimum(xp.searchsorted(keys, ids, sorter=sorter), keys.size - 1)
        if sorter is not None:
            at = sorter[at]
        found = keys[at] == ids
        if rows is None and self.dead is not None:
            found &= (self.dead[at >> 3] >> (at & 7)) & 1 == 0
        where: npt.NDArray[np.int64] = xp.where(found, at if rows is None else rows[at], -1)
        return where

    @derived
    def ordered(self) -> bool:
        """Whether ids are in ascending order, as in every sealed segment whose rows no filter has moved."""
        if self.by_id is not None:
            return False
        return self.filter != SCAN or bool((self.ids[1:] > self.ids[:-1]).all())

    @derived
    def ends(self) -> tuple[int, int]:
        """The first and the last id of a segment that has rows, in order of ids where it is sealed."""
        first, last = (0, -1) if self.by_id is None else (self.by_id[0], self.by_id[-1])
        return int(self.ids[first]), int(self.ids[last])

    @property
    def _lookup(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Ids; what sorts them, if they are not sorted; the rows that they belong to, if not all in order."""
        if self.by_id is not None or self.ordered:
            return self.ids, self.by_id, None
        xp = namespace(self.ids)
        rows = xp.flatnonzero(~self.dead_rows)  # of a tail, which is short, and may hold an id that died and came again
        rows = rows[xp.argsort(self.ids[rows])]
        return self.ids[rows], None, rows

    def reordered(self, order: npt.NDArray[np.int64], advance: Advance = ignore) -> "Segment":
        """Return the same rows in another order (n,); this segment's ids are ascending."""
        xp = namespace(self.ids)
        by_id = xp.empty_like(order)
        by_id[order] = xp.arange(order.size)
        return replace(
            self,
            vectors=gather([(self.vectors, order)], advance),
            ids=self.ids[order],
            norms=gather([(self.norms, order)]),
            by_id=by_id,
        )

    def moved(self, convert: Callable[[Any], Any]) -> "Segment":
        """Return the same segment on another device, to which `convert` brings an array."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: convert(part) for name, part in held.items() if is_array(part)}
        return replace(self, **arrays, data=None if self.data is None else self.data.moved(convert))


def address(array: np.ndarray) -> int:
    """Return where a contiguous array lies in the memory of its device, for kernels."""
    if not array.flags.c_contiguous:
        raise ValueError(f"kernels need contiguous arrays, got strides {array.strides} of shape {array.shape}")
    if not isinstance(array, np.ndarray):
        place: int = array.data.ptr
        return place
    # NumPy describes records by a function in Python, and swallows what a signal handler raises there
    plain = array if array.dtype.names is None else array.view(np.uint8)
    return int(plain.__array_interface__["data"][0])


def empty(xp: ModuleType, bits: np.dtype[np.generic], dim: int, spaces: int = 1) -> Segment:
    """Return a segment without rows, of arrays of `xp`."""
    return Segment(xp.empty((spaces, 0, dim), bits), xp.empty(0, np.int64), xp.empty((spaces, 0), np.float32), np.inf)


def join(segments: list[Segment], meter: Meter = SILENT) -> Segment:
    """Join the live rows of some segments into one, in order of ids and without what a filter needs."""
    segments = [segment for segment in segments if segment.live] or segments[:1]
    if len(segments) == 1 and segments[0].live == segments[0].rows and segments[0].ordered:
        return Segment(segments[0].vectors, segments[0].ids, segments[0].norms, segments[0].grain)
    xp = namespace(segments[0].ids)
    alive = [xp.flatnonzero(~segment.dead_rows) if segment.dead is not None else None for segment in segments]
    ids, norms = (
        gather([(part, rows) for part, rows in zip(parts, alive, strict=True)])
        for parts in ([segment.ids[None] for segment in segments], [segment.norms for segment in segments])
    )
    spaces, rows, dim = len(norms), ids.size, segments[0].vectors.shape[2]
    advance = meter.over(2 * spaces * rows * dim)
    vectors = gather([(s.vectors, own) for s, own in zip(segments, alive, strict=True)], advance)
    order = xp.argsort(ids[0], kind="stable")
    if bool((order[1:] < order[:-1]).any()):
        vectors = gather([(vectors, order)], advance)
        ids, norms = ids[:, order], gather([(norms, order)])
    meter.finish()
    return Segment(vectors, ids[0], norms, min(segment.grain for segment in segments))
