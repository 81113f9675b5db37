"""Asking an index: validate a question, hand it on, and shape the answer."""

from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace import nearest
from halfspace import query as asking
from halfspace.arguments import checks
from halfspace.contents import Contents
from halfspace.explain import Explanation
from halfspace.files import mapped
from halfspace.hits import Hits
from halfspace.model.counters import Want
from halfspace.model.filters import AUTO
from halfspace.model.metrics import Metric, as_scores, as_threshold
from halfspace.model.question import Question
from halfspace.state.restrict import restrict
from halfspace.state.snapshot import MAX_ID, Snapshot

__all__ = ["Questions"]

_FLOAT32 = np.dtype(np.float32)
AHEAD = 8
"""Directions of a batch that tell how many of the vectors that are mapped will be read."""


class Questions(Contents):
    """The questions that an index answers."""

    _like: np.ndarray  # an empty array in the stored format

    def query(
        self,
        directions: npt.ArrayLike,
        tau: npt.ArrayLike,
        *,
        unless: npt.ArrayLike | None = None,
        scores: bool = True,
        sort: bool = False,
        within: npt.ArrayLike | None = None,
        limit: int | None = None,
        threads: int | None = None,
        out: Hits | None = None,
    ) -> Hits:
        """Find every vector whose inner product or cosine is at least tau, or whose distance is at most tau.

        Parameters
        ----------
        directions : array_like of real numbers, shape (d,) or (m, d)
            One direction q or a batch, rounded to float32; whatever `insert` takes. With ``"cosine"`` none may be zero;
            with ``"l2"`` they are points.
        tau : array_like of float, scalar or shape (m,)
            The threshold, or one for each direction; the boundary belongs to the answer. ``-inf`` returns all, ``inf``
            none. With ``"l2"`` it is a radius, a distance and not its square: ``inf`` returns all, a negative one none.
        unless : array_like of float, scalar or shape (m,), optional
            A second threshold, of a band: leave out what reaches it, so that ``tau <= <q, x> < unless``, and with
            ``"l2"`` ``unless < |x - q| <= tau``. Bands that share an edge have no vector in common and miss none.
        scores : bool
            Whether to return dot products, cosines or distances; without them, balls that lie wholly inside are taken
            unread.
        sort : bool
            Order hits by score, the best first, then by id, instead of by id. The best score is the largest; of
            distances it is the smallest.
        within : array_like of int or bool, optional
            Consider only these ids, or the ids at which a mask is true; a mask covers ids 0 to the largest in the
            index.
        limit : int, optional
            Keep only so many hits of each direction, the best by score and then by id; `Hits.totals` still counts all.
        threads : int, optional
            Threads for this call; the index's by default. The answer does not depend on it.
        out : Hits, optional
            A `Hits` made by `preallocate`, on a GPU: filled without synchronisation.

        Returns
        -------
        Hits
            Ids and scores, on the index's device: of the hits, for one direction; of each direction's hits, for a
            batch.

        Raises
        ------
        ValueError
            If shapes do not fit, a direction is not finite in float32, or with ``"cosine"`` zero, or tau is NaN (the
            error names the row).
        TypeError
            If directions or tau are not real numbers, or ids not integers; and as for `insert`.
        KeyError
            If `within` names an id that is not in the index.

        Notes
        -----
        Exact in real arithmetic on the stored numbers, the float32 direction and the float64 tau; a score is the real
        dot product, cosine or distance, rounded once to the nearest float32. So it may round below tau, or beyond a
        radius, and as a threshold of its own it may exclude its vector: `halfspace.threshold_of` gives the threshold
        that does not. A float32 unit vector's product with itself may be 0.99999997; its cosine is 1. See
        ``docs/exactness.md``.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> [(hit.id, hit.score) for hit in index.query([1, 0], 0.5)]
        [(0, 1.0), (1, 0.5)]
        >>> [hit.id for hit in index.query([1, 0], 0.5, unless=1.0)]
        [1]

        The vectors within 45 degrees of (1, 1), whatever their lengths, and what lies within 0.75 of (1, 0):

        >>> cone, ball = HalfspaceIndex(2, metric="cosine"), HalfspaceIndex(2, metric="l2")
        >>> _ = cone.insert([[9, 0], [0.5, 0.5], [-1, 1]]), ball.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> [hit.id for hit in cone.query([1, 1], 0.7)]
        [0, 1]
        >>> [(hit.id, round(hit.score, 4)) for hit in ball.query([1, 0], 0.75, sort=True)]
        [(0, 0.0), (1, 0.7071)]
        """
        best = None if limit is None else min(checks.as_count(limit, "limit", 0), MAX_ID)
        snapshot = self._snapshot
        with self._on:
            if out is not None:
                if unless is not None:
                    raise ValueError("out takes no unless: a band is the difference of two answers")
                self._backend.may_fill(out, directions, tau, within)
            wanted = Want.SCORES if scores or sort or best is not None else Want.IDS
            question, single = self._asked(snapshot, directions, tau, unless, within, wanted, threads)
            if out is not None:
                shape: dict[str, Any] = {"sort": sort, "limit": best, "single": single, "columns": snapshot.next_id}
                filled: Hits = self._backend.fill(out, question, scores=scores, **shape)
                return filled
            as_they_come = best is None and not sort  # nothing compares scores after the search
            if as_they_come and self._metric == Metric.L2:
                question = question._replace(as_users=True)
            if best is None:
                found = asking.rows(self._backend, question, sort, None)
            else:
                available = _available(snapshot, question, within)
                found = nearest.limited(self._backend, snapshot, question, sort, best, available)
            offsets, ids, values, totals = found
            snapshot.builder.remember(question.directions, question.tau)
            if not as_they_come:
                values = as_scores(values, self._metric)
            return Hits(ids, values if scores else None, offsets, totals, single=single, columns=snapshot.next_id)

    def count(
        self,
        directions: npt.ArrayLike,
        tau: npt.ArrayLike,
        *,
        unless: npt.ArrayLike | None = None,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> int | npt.NDArray[np.int64]:
        """Count the vectors that reach tau; arguments, errors and guarantee are those of `query`, for every metric.

        Returns
        -------
        int, or ndarray of int64 of shape (m,), on the index's device, for a batch

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> index.count([1, 0], 0.5), index.count([[1, 0], [1, 1]], [0.5, 1.0]).tolist()
        (2, [2, 3])
        """
        snapshot = self._snapshot
        with self._on:
            question, single = self._asked(snapshot, directions, tau, unless, within, Want.COUNT, threads)
            counts = (asking.total if single else asking.counts)(self._backend, question)
            snapshot.builder.remember(question.directions, question.tau)
            return counts

    def search(
        self,
        directions: npt.ArrayLike,
        k: int,
        *,
        tau: npt.ArrayLike | None = None,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> Hits:
        """Find of each direction the k best vectors: the largest dot products or cosines, the smallest distances.

        Parameters
        ----------
        directions : array_like of real numbers, shape (d,) or (m, d)
            As for `query`.
        k : int
            How many; there are fewer where there are fewer vectors, or fewer that reach tau.
        tau : array_like of float, scalar or shape (m,), optional
            A threshold that they must reach, too; with ``"l2"``, a radius.
        within, threads : optional
            As for `query`.

        Returns
        -------
        Hits
            On the index's device, the best first, in the order of real scores, and then of ids. `Hits.totals` are
            their numbers.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `query`, and if k is no integer of at least 0.

        Notes
        -----
        Exact in real arithmetic, like `query`: vectors whose scores round to the same float32 are told apart by their
        real scores, in integers, which takes some 50 us for each of them. It is a range query: a sample suggests a
        threshold, and where fewer than k vectors reach it, it is lowered.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1], [1, 0]])
        >>> [(hit.id, hit.score) for hit in index.search([2, 1], 3)]
        [(0, 2.0), (3, 2.0), (1, 1.5)]
        """
        most = min(checks.as_count(k, "k", 0), MAX_ID - 1)
        snapshot = self._snapshot
        with self._on:
            lowest = self._loosest if tau is None else tau
            question, single = self._asked(snapshot, directions, lowest, None, within, Want.SCORES, threads)
            available = _available(snapshot, question, within)
            offsets, ids, values, totals = nearest.nearest(self._backend, snapshot, question, most, available)
            scores = as_scores(values, self._metric)
            return Hits(ids, scores, offsets, totals, single=single, columns=snapshot.next_id)

    def explain(self, direction: npt.ArrayLike, tau: float | None = None, *, k: int | None = None) -> Explanation:
        """Answer one query or search, with scores, and count what each stage tested, decided and read.

        Parameters
        ----------
        direction : array_like of real numbers, shape (d,)
        tau : float, optional
            The threshold, as for `query`: with ``"l2"``, a radius; with `k`, as for `search`.
        k : int, optional
            Explain ``search(direction, k, tau=tau)``. A search may be several range queries, with lower thresholds each
            time; the counts are of all of them together.

        Returns
        -------
        Explanation
            The counts; they depend on the index, the direction, tau and k alone, so they repeat. Stages are the same
            for every metric, but ``"norms"`` tests inner products alone.

        Raises
        ------
        TypeError
            If neither tau nor k is given; and as for `query` and `search`.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> index.explain([1, 0], 0.5).hits, index.explain([1, 0], k=1).hits
        (2, 1)
        """
        if tau is None and k is None:
            raise TypeError("explain needs tau, the threshold of a query, or k, of a search")
        most = None if k is None else min(checks.as_count(k, "k", 0), MAX_ID - 1)
        snapshot = self._snapshot
        with self._on:
            limit = self._loosest if tau is None else tau
            question, single = self._asked(snapshot, direction, limit, None, None, Want.EXPLAINED, 1)
            if not single:
                raise ValueError(f"explain takes one direction of shape ({self._dim},), got {len(question.directions)}")
            before = mapped.bytes_from_disk() if self._stored else None
            if most is None:
                counted = asking.work(self._backend, question)
                snapshot.builder.remember(question.directions, question.tau)
            else:
                counted = nearest.work(self._backend, snapshot, question, most, snapshot.live)
            after = None if before is None else mapped.bytes_from_disk()
            explained = Explanation.of(self._filter, *counted, snapshot.segments)
            return explained if before is None or after is None else replace(explained, from_disk=after - before)

    def _asked(
        self,
        snapshot: Snapshot,
        directions: Any,
        tau: Any,
        unless: Any,
        within: Any,
        wanted: Want,
        threads: int | None,
    ) -> tuple[Question, bool]:
        """Validate a question; returns it, and whether it has a single direction."""
        backend = self._backend
        numbers, single = checks.as_matrix(backend.asarray(directions, "directions"), self._dim, "directions")
        thresholds = self._thresholds(tau, len(numbers), single, "tau")
        ends = None if unless is None else self._thresholds(unless, len(numbers), single, "unless")
        table = restrict(snapshot, within)
        ready = numbers.dtype == _FLOAT32 and backend.is_kernel_ready(numbers)
        if not ready:  # of those that are, kernels find what is not finite
            numbers = checks.rounded(numbers, _FLOAT32, "directions", backend, self._threads)
        how = self._filter == AUTO, self._workers(threads), wanted, backend.MOST_HITS
        question = Question(table, self._like, numbers, thresholds, *how, ends, self._metric)
        if self._stored:
            self._announce(snapshot, question)
        return question, single

    def _announce(self, snapshot: Snapshot, question: Question) -> None:
        """Tell the system, of vectors that are mapped, whether few of them will be read or many."""
        bits, count = snapshot.sample, len(question.directions)
        if not (count and bits.size and isinstance(bits, np.ndarray)):
            return
        share = mapped.sparse_share(bits.itemsize * bits.shape[1]) / count
        sparse, rank = True, max(1, ceil(share * len(bits)))
        if rank <= len(bits):
            some = question.part(0, AHEAD)
            sparse = 2 * int((self._backend.guess(some, bits, rank) <= some.tau).sum()) >= len(some.directions)
        mapped.expect(snapshot.segments, sparse)

    def _workers(self, threads: int | None) -> int:
        return self._threads if threads is None else checks.as_count(threads, "threads", 1)

    def _thresholds(self, given: Any, count: int, single: bool, name: str) -> Any:
        """Validate thresholds, and turn them into those of kernels."""
        return as_threshold(self._backend.as_tau(given, count, single, name), self._metric)

    @property
    def _loosest(self) -> float:
        """What everything reaches."""
        return np.inf if self._metric == Metric.L2 else -np.inf


def _available(snapshot: Snapshot, question: Question, within: Any) -> int:
    """Count the vectors that may be found."""
    return snapshot.live if within is None else question.table.allowed
