"""Asking an index for pairs: validate, hand on, and shape what is found."""

from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.contents import Contents
from halfspace.joins.blocks import Ask, Edges, Rows, across, ordered_pairs, within_itself
from halfspace.joins.blocks import blocks as cut_in_blocks
from halfspace.joins.pairs import PairBlocks, Pairs
from halfspace.model.counters import Want
from halfspace.model.filters import AUTO
from halfspace.model.metrics import Metric, as_scores
from halfspace.model.question import Question
from halfspace.model.table import Table
from halfspace.questions import Questions
from halfspace.runtime.interrupts import of_a_handler
from halfspace.runtime.progress import Meter, Progress

__all__ = ["STEPS", "Pairwise"]

STEPS = 1 << 20
"""What all of a join counts as, for progress."""
AT_ONCE = 1 << 20
"""Hits of a block that are held at once: each passes through several copies."""


class Pairwise(Questions):
    """The questions whose answers are pairs of vectors."""

    @overload
    def pairs(
        self,
        tau: float,
        *,
        unless: float | None = None,
        scores: bool = True,
        within: npt.ArrayLike | None = None,
        blocks: Literal[False] = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Pairs: ...
    @overload
    def pairs(
        self,
        tau: float,
        *,
        blocks: Literal[True],
        unless: float | None = None,
        scores: bool = True,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> PairBlocks: ...
    def pairs(
        self,
        tau: float,
        *,
        unless: float | None = None,
        scores: bool = True,
        within: npt.ArrayLike | None = None,
        blocks: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Pairs | PairBlocks:
        """Find every pair of vectors whose score reaches tau.

        Parameters
        ----------
        tau : float
            The threshold, as for `query`: with ``"l2"`` the largest distance.
        unless : float, optional
            A second threshold: leave out pairs that reach it.
        scores : bool
            Whether to return scores.
        within : array_like of int or bool, optional
            Consider only these vectors, as for `query`.
        blocks : bool
            Return an iterable of blocks, in bounded memory whatever the number of pairs, instead of all pairs at once.
        threads : int, optional
            As for `query`.
        progress : callable, optional
            Called as ``progress(done, total)``; an exception from it cancels the join.

        Returns
        -------
        Pairs, or PairBlocks
            Each pair once, the smaller id first; in ascending order, unless in blocks.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `query`.
        MemoryError
            If the pairs do not fit: ask for blocks.

        Notes
        -----
        Exact in real arithmetic on the stored numbers, like `query`, for which the stored vectors are directions. All
        blocks show the state of the index at which they were asked for.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2, metric="cosine")
        >>> _ = index.insert([[1, 0], [3, 4], [2, 0], [4, 3]])
        >>> [tuple(pair) for pair in index.pairs(0.9)]
        [(0, 2, 1.0), (1, 3, 0.9599999785423279)]
        """
        of, ask = self._rows(within, threads), self._asking(tau, unless, threads)
        wanted = Want.SCORES if scores else Want.IDS

        def begin() -> Iterator[Edges]:
            return self._on_device(within_itself(of, ask, self._dim, wanted, Meter(progress, STEPS)))

        return self._found(begin, scores, blocks, (of.snapshot.next_id,) * 2)

    @overload
    def join(
        self,
        other: Any,
        tau: float,
        *,
        unless: float | None = None,
        scores: bool = True,
        within: npt.ArrayLike | None = None,
        blocks: Literal[False] = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Pairs: ...
    @overload
    def join(
        self,
        other: Any,
        tau: float,
        *,
        blocks: Literal[True],
        unless: float | None = None,
        scores: bool = True,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> PairBlocks: ...
    def join(
        self,
        other: Any,
        tau: float,
        *,
        unless: float | None = None,
        scores: bool = True,
        within: npt.ArrayLike | None = None,
        blocks: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Pairs | PairBlocks:
        """Find every pair of a vector of this index and one of another whose score reaches tau.

        Parameters
        ----------
        other : HalfspaceIndex, or array_like of real numbers, shape (m, d)
            Another index on the same device, with the same dimensions and metric; or vectors, rounded to float32, whose
            ids are their rows. An index joined with itself has each pair twice, and each vector with itself: `pairs`
            has neither.
        tau, unless, scores, within, blocks, threads, progress : optional
            As for `pairs`; `within` is about this index.

        Returns
        -------
        Pairs, or PairBlocks
            Ids of this index, then those of the other.

        Raises
        ------
        TypeError, ValueError, KeyError, MemoryError
            As for `pairs`, and if the other index does not fit this one.

        Notes
        -----
        Exact, as `query` is.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0, 1]], ids=[7, 8])
        >>> [tuple(pair) for pair in index.join([[2, 0], [1, 1]], 1.0)]
        [(7, 0, 2.0), (7, 1, 1.0), (8, 1, 1.0)]
        """
        of, ask = self._rows(within, threads), self._asking(tau, unless, threads)
        wanted = Want.SCORES if scores else Want.IDS
        if isinstance(other, Contents):
            for name in ("dim", "metric", "device"):
                if getattr(other, name) != getattr(self, name):
                    raise ValueError(
                        f"other has {name}={getattr(other, name)!r}, and this index {getattr(self, name)!r}"
                    )
            theirs = Rows.of(other._backend, other._snapshot, None, of.threads)
            size, last = theirs.size, theirs.snapshot.next_id
        else:
            with self._on:
                numbers = self._numbers(other, "other")
                if self._metric == Metric.COSINE:
                    checks.nonzero(numbers, "other")
            size = last = len(numbers)

        def given() -> Iterator[tuple[Any, Any]]:
            if isinstance(other, Contents):
                yield from ((block.ids, block.directions) for block in cut_in_blocks(theirs, self._dim))
            else:
                step = max(1, self._backend.room(of.snapshot.table, self._dim, loose=True))
                for first in range(0, size, step):
                    part = numbers[first : first + step]
                    yield self._backend.xp.arange(first, first + len(part)), part

        def begin() -> Iterator[Edges]:
            meter = Meter(progress, STEPS)
            yield from self._on_device(across(of, given(), ask, wanted, meter.over(size)))
            meter.finish()

        return self._found(begin, scores, blocks, (of.snapshot.next_id, last))

    def _rows(self, within: Any, threads: int | None) -> Rows:
        with self._on:
            return Rows.of(self._backend, self._snapshot, within, self._workers(threads))

    def _numbers(self, given: Any, name: str) -> Any:
        """Validate vectors (m, d) or (d,), and round them to float32 (m, d)."""
        numbers, _ = checks.as_matrix(self._backend.asarray(given, name), self._dim, name)
        return checks.rounded(numbers, np.dtype(np.float32), name, self._backend, self._threads)

    def _asking(self, tau: Any, unless: Any, threads: int | None, name: str = "tau") -> Ask:
        """Validate thresholds, and return what makes a question of directions."""
        with self._on:
            level = self._thresholds(tau, 1, True, name)
            end = None if unless is None else self._thresholds(unless, 1, True, "unless")
        workers, backend = self._workers(threads), self._backend
        most = min(backend.MOST_HITS, AT_ONCE)

        def ask(table: Table, directions: Any, wanted: Want) -> Question:
            def each(limit: Any) -> Any:
                return backend.xp.zeros(len(directions), np.float64) + limit

            how = self._filter == AUTO, workers, wanted, most
            last = None if end is None else each(end)
            return Question(table, self._like, directions, each(level), *how, last, self._metric)

        return ask

    def _on_device(self, edges: Iterator[Edges]) -> Iterator[Edges]:
        """Make the device the current one for each step, not between them."""
        while True:
            with self._on:
                found = next(edges, None)
            if found is None:
                return
            yield found

    def _found(self, begin: Any, scores: bool, in_blocks: bool, shape: tuple[int, int]) -> Pairs | PairBlocks:
        """Return pairs as they are wanted."""

        def make(edges: Edges) -> Pairs:
            one, other, values = edges
            return Pairs(one, other, as_scores(values, self._metric) if scores else None, shape=shape)

        with self._on:
            xp = self._backend.xp
            none = xp.empty(0, np.int64), xp.empty(0, np.int64), xp.empty(0, np.float32)
            if in_blocks:
                return PairBlocks(begin, make, none)
            try:
                held = [none, *begin()]
                return make(ordered_pairs(tuple(map(xp.concatenate, zip(*held, strict=True)))))
            except MemoryError as error:
                if of_a_handler(error):
                    raise
                raise MemoryError(
                    "no memory for all pairs: take them by blocks=True, which can be written to Parquet as they come; "
                    "histogram() tells how many there are"
                ) from error
