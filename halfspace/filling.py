"""Filling segments with the rows of a source, rounded, from whatever row on."""

import zlib
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.files import index_file
from halfspace.files.sources import Block, Source
from halfspace.index import HalfspaceIndex
from halfspace.model.formats import as_float32
from halfspace.model.metrics import Metric
from halfspace.runtime.progress import Meter

__all__ = ["Filler", "Options"]

OF_PLAN = ("dim", "metric", "dtype", "filter", "subspaces", "group_size")
"""Arguments that a file is built with, by their names in it."""


class Options(TypedDict, total=False):
    """Arguments of `HalfspaceIndex` that a file is built with."""

    metric: str
    filter: str
    dtype: Any
    threads: int | None
    subspaces: int | None
    group_size: int | None


class Filler:
    """Takes rows from a source, one run after the other.

    Attributes
    ----------
    index : HalfspaceIndex
        An empty one, with the arguments of what is built.
    kind : tuple of int and str
        The number of dimensions, and the stored format.
    """

    def __init__(self, source: Source, dim: int | None, **options: Unpack[Options]) -> None:
        self._source, self._blocks, self._at = source, source.blocks(0), 0
        self._block = next(self._blocks, None)
        if self._block is not None:
            found = checks.asarray(self._block.numbers, self._block.place)
            if found.ndim != 2:
                raise ValueError(f"{self._block.place}: expected rows of shape (k, d), got {found.shape}")
            dim = found.shape[1] if dim is None else dim
        if dim is None:
            raise ValueError("source has no rows: give dim, the number of their dimensions")
        self.index = HalfspaceIndex(dim, **options)
        self.kind = dim, self.index._format
        self._probes = [0, 0]
        if self._block is not None:
            self._probes[0] = self._probe(self._block.numbers[:1], self._block)

    @property
    def plan(self) -> dict[str, Any]:
        """What has to be the same for a file to be gone on with."""
        builder = self.index._snapshot.builder
        about = index_file.metadata_of(builder, *self.kind, 0, [])
        return {"source": self._source.about} | {name: about.get(name) for name in OF_PLAN}

    @property
    def rows(self) -> int | None:
        """Number of rows of the source, if that is known ahead."""
        return self._source.rows

    @property
    def ended(self) -> bool:
        """Whether there are no more rows."""
        return self._block is None

    @property
    def probe(self) -> list[int]:
        """Checksums of the first row, and of the last one that was taken, as they are stored."""
        return list(self._probes)

    def begin(self, done: int, probe: list[int]) -> None:
        """Stand before the row `done`; of the rows before it, finished before, the first and the last are compared."""
        if self._at == done and self._probes == probe:
            return
        target = done if not probe else done - 1
        if self._at > target or (self._source.again and self._at < target):
            self._blocks, self._at = self._source.blocks(target), target
            self._block = next(self._blocks, None)
        while self._block is not None and self._at < target:
            self._skip(min(target - self._at, len(self._block.numbers)))
        if probe:
            last = None if self._block is None else self._probe(self._block.numbers[:1], self._block)
            if [self._probes[0], last] != probe:
                raise ValueError(
                    f"the source is not that of the file that was begun: its first row or row {done - 1} differs; "
                    "remove NAME.building to begin anew"
                )
            self._skip(1)
            self._probes = list(probe)

    def take(self, most: int, meter: Meter) -> tuple[np.ndarray, npt.NDArray[np.int64]] | None:
        """Return the bits (k, d) and the ids (k,) of the next rows, so many or what is left; None after the last."""
        if self._block is None:
            return None
        dim = self.index.dim
        bits, ids = np.empty((most, dim), self.index._bits), np.empty(most, np.int64)
        advance, count, given, place = meter.over(most * dim), 0, False, self._block.place
        while self._block is not None and count < most:
            block, size = self._block, min(most - count, len(self._block.numbers))
            bits[count : count + size] = self._rounded(block.numbers[:size], block)
            if block.ids is None:
                ids[count : count + size] = np.arange(self._at, self._at + size)
            else:
                given = True
                ids[count : count + size] = checks.as_ids(checks.asarray(block.ids[:size], "ids"))
            count += size
            self._skip(size)
            advance(size * dim)
        if given:
            try:
                checks.distinct(ids[:count])
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
        self._probes[1] = zlib.crc32(bits[count - 1].tobytes())
        return bits[:count], ids[:count]

    def _skip(self, count: int) -> None:
        """Pass over rows of the block, and take the next where it ends."""
        block = self._block
        assert block is not None
        self._at += count
        if count < len(block.numbers):
            ids = None if block.ids is None else block.ids[count:]
            self._block = Block(block.numbers[count:], ids, block.place, block.first + count)
        else:
            self._block = next(self._blocks, None)

    def _probe(self, row: Any, block: Block) -> int:
        return zlib.crc32(self._rounded(row, block).tobytes())

    def _rounded(self, numbers: Any, block: Block) -> np.ndarray:
        """Round rows to the stored format; errors name the place in the source."""
        index, backend = self.index, self.index._backend
        rows, _ = checks.as_matrix(checks.asarray(numbers, block.place), index.dim, block.place)
        stored: np.ndarray
        stored, bad = backend.store(rows, index._bits, index._threads)
        if bad >= 0:
            row, column = divmod(int(bad), index.dim)
            place = f"{block.place}: row {block.first + row}, column {column}"
            raise ValueError(f"{place}: {rows[row, column]} in {index._format}")
        if index._metric == Metric.COSINE:
            zero = np.flatnonzero(~as_float32(stored).any(axis=1))
            if zero.size:
                raise ValueError(
                    f"{block.place}: row {block.first + int(zero[0])} is zero, which has no cosine: leave it out, or "
                    "use another metric"
                )
        return stored
