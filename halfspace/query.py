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
        blocks = []
        for found in self._found(wanted):
            offsets, ids, values = backend.collect(found)
            if limit is not None:
                most = int(found.counts.max(initial=0))
                offsets, ids, values = backend.best(offsets, ids, values, min(limit, most))
            if sort:
                backend.sort_by_score(offsets, ids, values)
            blocks.append((offsets, ids, values, found.counts))
        if len(blocks) == 1:
            return blocks[0]
        offsets, ids, values, totals = zip(*blocks, strict=True)
        lengths = np.concatenate([[0], *(part[1:] - part[:-1] for part in offsets)])
        return np.cumsum(lengths), np.concatenate(ids), np.concatenate(values), np.concatenate(totals)

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
        count, dim = self.directions.shape
        block = max(1, WORKSPACE // (16 * dim + 2048))
        for first in range(0, max(count, 1), block):
            directions, tau = self.directions[first : first + block], self.tau[first : first + block]
            found = self.backend.search(self.table, self.like, directions, tau, self.adapt, wanted, self.threads)
            if found.counts.size and found.counts[0] < 0:
                checks.finite(self.directions, "directions")
            yield found
