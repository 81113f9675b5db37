"""One batch of vectors and all that is derived from it, never changed once it is made.

Arrays carry a leading axis of independent *spaces*, which share their ids: one space for an ordinary index, one per
head for attention.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Cells", "Segment", "address", "join"]


@dataclass(frozen=True, eq=False)
class Cells:
    """A ball for every vector: x = centre + scale * (code - 128) + rest, |rest| <= radius."""

    codes: npt.NDArray[np.uint8]  # (spaces, blocks, steps, 16, 4): blocks of 16 vectors, steps of 4 dimensions
    scales: npt.NDArray[np.float32]  # (spaces, 16 blocks), 0 beyond the last vector
    radii: npt.NDArray[np.float32]  # (spaces, 16 blocks), the same
    centre: npt.NDArray[np.float32]  # (spaces, d)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.codes.nbytes + self.scales.nbytes + self.radii.nbytes + self.centre.nbytes


@dataclass(frozen=True, eq=False)
class Segment:
    """Vectors with their ids, bounds and tombstones."""

    vectors: np.ndarray  # (spaces, n, d), the bits of the stored format
    ids: npt.NDArray[np.int64]  # (n,), ascending where the segment is sealed
    norms: npt.NDArray[np.float32]  # (spaces, n), upper bounds of |x|
    grain: float  # a power of two of which every component is a multiple; infinite where all are zero
    cells: Cells | None = None
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
        if self.dead is None:
            return np.zeros(self.rows, np.bool_)
        return np.unpackbits(self.dead, count=self.rows, bitorder="little").view(np.bool_)

    def excluding(self, rows: npt.NDArray[np.int64]) -> "Segment":
        """Return the same segment with some live rows (k,), each named once, dead as well."""
        dead = np.zeros(-(-self.rows // 8), np.uint8) if self.dead is None else self.dead.copy()
        np.bitwise_or.at(dead, rows >> 3, (1 << (rows & 7)).astype(np.uint8))
        return replace(self, dead=dead, live=self.live - rows.size)

    def find(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Find the live row of each of the ids (k,), or -1."""
        if self.live == 0:
            return np.full(ids.size, -1)
        keys, rows = self._lookup
        at = np.minimum(np.searchsorted(keys, ids), keys.size - 1)
        found = keys[at] == ids
        row = at if rows is None else rows[at]
        if self.dead is not None and rows is None:
            found &= (self.dead[row >> 3] >> (row & 7)) & 1 == 0
        return np.where(found, row, -1)

    @property
    def ordered(self) -> bool:
        """Whether ids are in ascending order, as in every sealed segment."""
        return self.cells is not None or bool(np.all(self.ids[1:] > self.ids[:-1]))

    @cached_property
    def _lookup(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        """Ids in ascending order, and the live rows that they belong to (None where rows are in that order)."""
        if self.ordered:
            return self.ids, None
        rows = np.flatnonzero(~self.dead_rows)
        rows = rows[np.argsort(self.ids[rows])]
        return self.ids[rows], rows

    @cached_property
    def addresses(self) -> list[tuple[Any, ...]]:
        """Where each space lies in memory, for kernels: see `halfspace.cpu.search.SEGMENT`."""
        cells = self.cells
        dead = 0 if self.dead is None else address(self.dead)
        return [
            (
                self.rows,
                address(self.ids),
                address(self.vectors[space]),
                address(self.norms[space]),
                self.grain,
                dead,
                0 if cells is None else address(cells.codes[space]),
                0 if cells is None else address(cells.scales[space]),
                0 if cells is None else address(cells.radii[space]),
                0 if cells is None else address(cells.centre[space]),
            )
            for space in range(self.vectors.shape[0])
        ]


def address(array: np.ndarray) -> int:
    """Return where a contiguous array lies in memory, for kernels."""
    if not array.flags.c_contiguous:
        raise ValueError(f"kernels need contiguous arrays, got strides {array.strides} of shape {array.shape}")
    place: int = array.__array_interface__["data"][0]
    return place


def join(segments: list[Segment]) -> Segment:
    """Join the live rows of some segments into one, without cells, in order of ids."""
    segments = [segment for segment in segments if segment.live] or segments[:1]
    if len(segments) == 1 and segments[0].live == segments[0].rows and segments[0].ordered:
        return replace(segments[0], cells=None, dead=None)
    alive = [~segment.dead_rows if segment.dead is not None else slice(None) for segment in segments]
    ids = np.concatenate([segment.ids[rows] for segment, rows in zip(segments, alive, strict=True)])
    vectors = np.concatenate([segment.vectors[:, rows] for segment, rows in zip(segments, alive, strict=True)], axis=1)
    norms = np.concatenate([segment.norms[:, rows] for segment, rows in zip(segments, alive, strict=True)], axis=1)
    order = np.argsort(ids, kind="stable")
    if bool(np.any(order[1:] < order[:-1])):
        ids, vectors, norms = ids[order], vectors[:, order], norms[:, order]
    grain = min(segment.grain for segment in segments)
    return Segment(np.ascontiguousarray(vectors), ids, np.ascontiguousarray(norms), grain)
