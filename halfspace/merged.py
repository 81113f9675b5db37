"""Questions to several indexes, each of which has a part of the vectors; their answers, brought together."""

from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.hits import Hits
from halfspace.index import HalfspaceIndex
from halfspace.joins.asked import Joins
from halfspace.model.metrics import Metric, as_scores
from halfspace.nearest import Answer

__all__ = ["Merged"]


class Merged:
    """Parts that are asked like one index of all vectors; answers are its own, to the bit, on the host."""

    _whole: Joins  # an index of all vectors, on the host
    _threads: int

    def _all(self, kind: str, directions: np.ndarray, *arguments: Any, **options: Any) -> list[Any]:
        """Ask all parts, by the name of a method: numbers (m,), or offsets, ids, scores and totals of each."""
        raise NotImplementedError

    def _vectors(self, ids: npt.NDArray[np.int64]) -> dict[int, np.ndarray]:
        """Return vectors by their ids."""
        return dict(zip(ids.tolist(), self._whole.vectors(ids), strict=True))

    def query(
        self,
        directions: npt.ArrayLike,
        tau: npt.ArrayLike,
        *,
        unless: npt.ArrayLike | None = None,
        scores: bool = True,
        sort: bool = False,
        limit: int | None = None,
    ) -> Hits:
        """Find every vector that reaches tau; as `HalfspaceIndex.query`."""
        numbers, single = self._numbers(directions)
        best = None if limit is None else checks.as_count(limit, "limit", 0)
        scored = scores or sort or best is not None
        ends = None if unless is None else self._limits(unless, numbers, "unless")
        parts = self._all("query", numbers, self._limits(tau, numbers), unless=ends, scores=scored, limit=best)
        found = self._merged(parts, len(numbers), scored)
        if sort or best is not None:
            found = self._by_score(found)
            found = found if best is None else found.cut(best)
            if not sort:
                order = np.lexsort((found.ids, np.repeat(np.arange(len(numbers)), np.diff(found.offsets))))
                found = Answer(found.offsets, found.ids[order], found.scores[order])
        totals = np.zeros(len(numbers), np.int64)
        for part in parts:
            totals += part[3]
        return self._hits(found, totals, single, scores)

    def search(self, directions: npt.ArrayLike, k: int, *, tau: npt.ArrayLike | None = None) -> Hits:
        """Find of each direction the k best vectors; as `HalfspaceIndex.search`."""
        numbers, single = self._numbers(directions)
        most = checks.as_count(k, "k", 0)
        limits = None if tau is None else self._limits(tau, numbers)
        found = self._by_score(self._merged(self._all("search", numbers, most, tau=limits), len(numbers), True))
        found = self._by_real_score(numbers, found, most, limits).cut(most)
        return self._hits(found, np.diff(found.offsets), single, True)

    def count(
        self, directions: npt.ArrayLike, tau: npt.ArrayLike, *, unless: npt.ArrayLike | None = None
    ) -> int | npt.NDArray[np.int64]:
        """Count the vectors that reach tau; as `HalfspaceIndex.count`."""
        numbers, single = self._numbers(directions)
        ends = None if unless is None else self._limits(unless, numbers, "unless")
        parts = self._all("count", numbers, self._limits(tau, numbers), unless=ends)
        counts: npt.NDArray[np.int64] = np.zeros(len(numbers), np.int64) + sum(parts)
        return int(counts[0]) if single else counts

    def _numbers(self, directions: Any) -> tuple[np.ndarray, bool]:
        """Validate directions, before they are sent."""
        given = self._whole._backend.asarray(directions, "directions")
        numbers, single = checks.as_matrix(given, self._whole.dim, "directions")
        rounded = checks.rounded(numbers, np.dtype(np.float32), "directions", self._whole._backend, self._threads)
        if self._whole._metric == Metric.COSINE:
            checks.nonzero(rounded, "directions")
        return rounded, single

    def _limits(self, tau: Any, numbers: np.ndarray, name: str = "tau") -> npt.NDArray[np.float64]:
        return checks.as_tau(tau, len(numbers), False, name)

    def _merged(self, parts: list[Any], count: int, scored: bool) -> Answer:
        """Bring answers of shards together, in order of ids; scores as kernels have them."""
        if not parts:
            return Answer.empty(count)
        owners = np.concatenate([np.repeat(np.arange(count), np.diff(offsets)) for offsets, *_ in parts])
        ids = np.concatenate([part[1] for part in parts])
        scores = np.concatenate([part[2] for part in parts]) if scored else np.zeros(ids.size, np.float32)
        order = np.lexsort((ids, owners))
        offsets = np.searchsorted(owners[order], np.arange(count + 1))
        values = np.negative(scores) if self._whole._metric == Metric.L2 else scores
        return Answer(offsets.astype(np.int64), ids[order], values[order])

    def _by_score(self, found: Answer) -> Answer:
        return Answer(*self._whole._backend.sort_by_score(*found, self._threads))

    def _by_real_score(self, directions: np.ndarray, found: Answer, k: int, tau: Any) -> Answer:
        """Put directions in real order whose scores float32 cannot tell apart: by an index of what was found."""
        offsets, ids, scores = found
        equal = np.flatnonzero(scores[1:] == scores[:-1])
        owners = np.searchsorted(offsets, equal, side="right") - 1
        inside = (equal + 1 < offsets[owners + 1]) & (equal - offsets[owners] < k)
        rows = np.unique(owners[inside])
        if not rows.size:
            return found
        place = self._vectors(np.unique(np.concatenate([ids[offsets[row] : offsets[row + 1]] for row in rows])))
        sets = []
        for row in rows.tolist():
            own = ids[offsets[row] : offsets[row + 1]]
            index = HalfspaceIndex(
                self._whole.dim, metric=self._whole.metric, dtype=self._whole.dtype, filter="scan", threads=1
            )
            index.insert(np.stack([place[id] for id in own.tolist()]), own)
            sets.append(index.search(directions[row], k, tau=None if tau is None else float(tau[row])))
        sizes = np.cumsum([0, *(len(hits) for hits in sets)])
        values = np.concatenate([hits.scores for hits in sets])
        values = np.negative(values) if self._whole._metric == Metric.L2 else values
        return found.replaced(rows, Answer(sizes, np.concatenate([hits.ids for hits in sets]), values))

    def _hits(self, found: Answer, totals: npt.NDArray[np.int64], single: bool, scores: bool) -> Hits:
        values = as_scores(found.scores, self._whole._metric) if scores else None
        last = self._whole._snapshot.next_id
        return Hits(found.ids, values, found.offsets, totals, single=single, columns=last)
