"""Asking the stages: prepare the directions, search, collect, order and cut."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.model.arrays import host
from halfspace.model.table import Table
from halfspace.runtime.interrupts import of_a_handler

__all__ = ["Query"]


class Query(NamedTuple):
    """Directions and thresholds, and where to look."""

    backend: ModuleType
    table: Table
    like: np.ndarray  # an empty array in the stored format
    adapt: bool  # whether to leave cells where they do not pay
    directions: npt.NDArray[np.float32]  # (m, d)
    tau: Any  # float64 (m,), or a float that is the threshold of all, where the backend takes one
    threads: int

    def rows(
        self, scores: bool, sort: bool, limit: int | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find offsets (m + 1,), ids and scores of the hits, and their true numbers (m,)."""
        try:
            return self._rows(scores, sort, limit)
        except MemoryError as error:
            if of_a_handler(error):
                raise
            remedy = "" if limit is not None else ", or keep the best of each direction by limit="
            why = f" ({error})" if str(error) else ""
            try:
                hits = f"the {self.total():,} hits"
            except MemoryError:
                hits = "all hits"
            raise MemoryError(
                f"no memory for {hits}: raise tau, ask count() for their number alone{remedy}{why}"
            ) from error

    def _rows(
        self, scores: bool, sort: bool, limit: int | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        backend = self.backend
        wanted = backend.SCORES if scores or sort or limit is not None else backend.IDS
        whole: tuple[Any, ...] | None = None
        for found in self._found(wanted):
            rows = backend.collect(found, self.threads) if limit is None else backend.best(found, limit, self.threads)
            if sort:
                rows = backend.sort_by_score(*rows, self.threads)
            block = *rows, found.counts
            whole = block if whole is None else backend.joined(whole, block)
        assert whole is not None
        return whole

    def total(self) -> int:
        """Count the hits of all directions together."""
        return sum(found.hits for found in self._found(self.backend.COUNT))

    def counts(self) -> npt.NDArray[np.int64]:
        """Count the hits (m,)."""
        blocks = [found.counts for found in self._found(self.backend.COUNT)]
        counts: npt.NDArray[np.int64] = blocks[0] if len(blocks) == 1 else self.backend.xp.concatenate(blocks)
        return counts

    def work(self) -> tuple[int, list[tuple[Any, ...]]]:
        """Count the hits with scores, and what each stage did: its name, then the columns of its counters."""
        hits = 0
        total = np.zeros(())
        for found in self._found(self.backend.EXPLAINED):
            hits += found.hits
            total = total + host(found.work)
        return hits, [(name, *map(int, row)) for name, row in zip(self.backend.STAGES, total, strict=True)]

    def _found(self, wanted: int) -> Iterator[Any]:
        """Search block by block: as many directions at once as there is room to prepare, and to hold the hits of."""
        count, dim = self.directions.shape
        backend = self.backend
        room = size = backend.room(self.table, dim)
        first = 0
        while first < max(count, 1):
            whole = first == 0 and count <= size
            directions, tau = (self.directions, self.tau) if whole else self._block(first, first + size)
            found = backend.search(
                self.table, self.like, directions, tau, self.adapt, wanted, self.threads, backend.MOST_HITS
            )
            if found.state:
                if found.state == backend.NOT_FINITE:
                    checks.finite(self.directions, "directions")
                    checks.numbers(self.tau, "tau")
                    raise ValueError("directions have changed while they were asked for")
                size = max(1, min(size, count - first) // 4)
                continue
            yield found
            first += size
            if first < count and size < room:
                size = min(room, 2 * size, max(1, size * backend.MOST_HITS // (2 * max(1, found.hits))))

    def _block(self, first: int, last: int) -> tuple[npt.NDArray[np.float32], Any]:
        """Cut directions [first, last) and their thresholds out of a batch."""
        return self.directions[first:last], self.tau if isinstance(self.tau, float) else self.tau[first:last]
