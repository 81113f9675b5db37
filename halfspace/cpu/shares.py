"""Sharing hits among threads: how many each takes at once, and rows so long that all threads take parts of one."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.emit import Found
from halfspace.cpu.radix import RADIX, RADIX_BITS, bounds, pick, scatter, tally
from halfspace.cpu.runtime import threads as _threads

__all__ = ["RUN", "LongRow", "Plan", "empty", "no_memory", "room", "runs"]

FEW = 1 << 15
"""Hits below which another thread, which has to wake up, costs more than it saves."""
RUN = 1 << 18
"""Hits that a kernel takes at once, if they are not of one row."""
SHARED = 1 << 17
"""Hits of one row below which threads that share it cost more than they save."""
LONG = 1 << 20
"""Hits of one row that a kernel orders: a few hundredths of a second."""


class Plan(NamedTuple):
    """How threads share the work on so many hits."""

    threads: int
    run: int  # hits that a thread takes at once
    most: int  # hits of a row that one thread takes

    @classmethod
    def of(cls, hits: int, threads: int) -> "Plan":
        """Plan for so many hits."""
        threads = max(1, min(threads, hits // FEW))
        share = hits // threads
        return cls(threads, max(FEW, min(RUN, share // 4)), LONG if threads == 1 else max(SHARED, min(LONG, share)))


def no_memory(hits: int) -> MemoryError:
    """Make the error for hits that do not fit."""
    return MemoryError(f"no memory for {hits:,} hits: a higher tau or a limit keeps fewer")


def empty(hits: int, dtype: Any) -> npt.NDArray[Any]:
    """Make an array."""
    try:
        return np.empty(hits, dtype)
    except MemoryError as error:
        raise no_memory(hits) from error


def room(hits: int, scored: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Make arrays of ids and scores, the latter of none if they are not wanted."""
    return empty(hits, np.int64), empty(hits if scored else 0, np.float32)


def runs(parts: list[Found], run: int) -> list[Found]:
    """Cut parts of an answer into runs of at most so many hits."""
    return [
        Found(*(column[first : first + run] for column in part))
        for part in parts
        for first in range(0, part.ids.size, run)
    ]


class LongRow:
    """The hits of one direction, or some of them, span by span; `in_order` says whether their values ascend."""

    def __init__(self, ids: Any, scores: Any, by_score: bool, plan: Plan) -> None:
        self.ids, self.scores = ids, scores
        self._by_score, self._threads = by_score, plan.threads
        spans = _threads.spans(ids.size, max(plan.threads, -(-ids.size // RUN)))
        self._spans = [slice(*span) for span in spans]
        each: list[tuple[int, int, bool]] = self._run(lambda k: bounds(*self._span(k), by_score))
        self.in_order = all(own[2] for own in each)
        for before, after in pairwise(each):
            self.in_order &= before[1] <= after[0]
        self._lowest, highest = min(own[0] for own in each), max(own[1] for own in each)
        self.is_equal = self._lowest == highest
        self._shift = max(0, (highest - self._lowest).bit_length() - RADIX_BITS)

    def _span(self, k: int) -> tuple[Any, Any]:
        return self.ids[self._spans[k]], self.scores[self._spans[k]]

    def _run(self, function: Any) -> list[Any]:
        return _threads.run(function, range(len(self._spans)), self._threads)

    def tallied(self) -> npt.NDArray[np.int64]:
        """Count the hits of each span that have each highest digit (spans, RADIX)."""
        counts = np.zeros((len(self._spans), RADIX), np.int64)
        self._run(lambda k: tally(*self._span(k), self._by_score, self._lowest, self._shift, counts[k]))
        return counts

    def divide(self) -> npt.NDArray[np.int64]:
        """Put hits in buckets by their highest digit, in place; returns where the buckets start."""
        counts = self.tallied().T.ravel()  # by bucket, then by span
        starts = (counts.cumsum() - counts).reshape(RADIX, len(self._spans)).T.copy()
        first: npt.NDArray[np.int64] = starts[0].copy()
        spare: Any = room(self.ids.size, self.scores.size > 0)
        self._run(lambda k: scatter(*self._span(k), self._by_score, self._lowest, self._shift, starts[k], *spare))

        def bring_back(k: int) -> None:
            for column, own in zip(self._span(k), spare, strict=True):
                column[:] = own[self._spans[k]]

        self._run(bring_back)
        return first

    def bucket_of(self, wanted: int) -> tuple[Any, Any, int]:
        """Take the hits of the bucket that the `wanted`-th hit from the best lies in, and tell its place among them."""
        counts = self.tallied()
        ends = counts.sum(axis=0).cumsum()
        digit = int(np.searchsorted(ends, wanted))
        own = counts[:, digit]
        last = own.cumsum()
        ids, scores = room(int(last[-1]), True)

        def take(k: int) -> None:
            to = slice(int(last[k] - own[k]), int(last[k]))
            pick(*self._span(k), self._by_score, self._lowest, self._shift, digit, ids[to], scores[to])

        self._run(take)
        return ids, scores, wanted - int(ends[digit] - own.sum())
