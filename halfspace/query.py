"""Asking the stages: prepare the directions, search, collect, order and cut."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace import checks
from halfspace.table import Table

__all__ = ["Query"]

WORKSPACE = 32 << 20
"""Bytes that prepared directions may take at once: a batch is cut to fit."""
MOST_HITS = 3 << 20
"""Hits that a batch may hold on their way into the answer, 28 bytes each: it is cut again where there are more."""


class Query(NamedTuple):
    """Directions and thresholds, and where to look."""

    backend: ModuleType
    table: Table
    like: np.ndarray  # an empty array in the stored format
    adapt: bool  # whether to leave cells where they do not pay
    directions: npt.NDArray[np.float32]  # (m, d)
    tau: npt.NDArray[np.float64]  # (m,)
    threads: int

    def rows(
        self, scores: bool, sort: bool, limit: int | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find offsets (m + 1,), ids and scores of the hits, and their true numbers (m,)."""
        backend = self.backend
        wanted = backend.SCORES if scores or sort or limit is not None else backend.IDS
        whole: tuple[Any, ...] | None = None
        for found in self._found(wanted):
            offsets, ids, values = backend.collect(found)
            if limit is not None:
                most = int(found.counts.max(initial=0))
                offsets, ids, values = backend.best(offsets, ids, values, min(limit, most))
            if sort:
                backend.sort_by_score(offsets, ids, values)
            block = offsets, ids, values, found.counts
            whole = block if whole is None else _joined(whole, block)
        assert whole is not None
        return whole

    def counts(self) -> npt.NDArray[np.int64]:
        """Count the hits (m,)."""
        return np.concatenate([found.counts for found in self._found(self.backend.COUNT)])

    def work(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Count the hits with scores, and what each stage did: its name, then the columns of its counters."""
        hits = 0
        total = np.zeros(())
        for found in self._found(self.backend.SCORES):
            hits += int(found.counts.sum())
            total = total + found.work
        return hits, [(name, *map(int, row)) for name, row in zip(self.backend.STAGES, total, strict=True)]

    def _found(self, wanted: int) -> Iterator[Any]:
        """Search block by block: as many directions at once as there is room to prepare, and to hold the hits of."""
        count, dim = self.directions.shape
        backend = self.backend
        room = size = max(1, WORKSPACE // (16 * dim + 2048))
        first = 0
        while first < max(count, 1):
            directions, tau = self.directions[first : first + size], self.tau[first : first + size]
            found = backend.search(self.table, self.like, directions, tau, self.adapt, wanted, self.threads, MOST_HITS)
            state = int(found.counts[0]) if count else 0
            if state == backend.NOT_FINITE:
                checks.finite(self.directions, "directions")
            if state == backend.OUT_OF_MEMORY:
                raise MemoryError("no memory for more hits")
            if state == backend.OVERFULL:
                size = max(1, min(size, count - first) // 4)
                continue
            yield found
            first += size
            if first < count and size < room:
                size = min(room, 2 * size, max(1, size * MOST_HITS // (2 * max(1, int(found.counts.sum())))))


def _joined(whole: tuple[Any, ...], block: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add a block of rows to those before; large arrays grow in place."""
    offsets, ids, values, totals = whole
    more_offsets, more_ids, more_values, more_totals = block
    held = ids.size
    ids, values = (array if array.flags.owndata else array.copy() for array in (ids, values))
    for array, more in ((ids, more_ids), (values, more_values)):
        before = array.size
        array.resize(before + more.size, refcheck=False)
        array[before:] = more
    return (
        np.concatenate([offsets, more_offsets[1:] + held]),
        ids,
        values,
        np.concatenate([totals, more_totals]),
    )
