"""Asking an index for what follows from all pairs: groups, representatives, and how many there are."""

import numpy as np
import numpy.typing as npt

from halfspace import query as asking
from halfspace.arguments import checks
from halfspace.joins.blocks import within_itself
from halfspace.joins.graph import components, greedy
from halfspace.joins.histogram import count_pairs
from halfspace.joins.pairwise import STEPS, Pairwise
from halfspace.model.arrays import host
from halfspace.model.counters import Want
from halfspace.runtime.progress import Meter, Progress

__all__ = ["Joins"]


class Joins(Pairwise):
    """The questions about all pairs of vectors."""

    def groups(
        self,
        tau: float,
        *,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """Group vectors: two are in one group if a chain of pairs that reach tau leads from one to the other.

        Parameters
        ----------
        tau, within, threads, progress
            As for `pairs`.

        Returns
        -------
        ndarray of int64, shape (n,), on the host
            Of each id in `ids` (or within, ascending), the smallest id of its group.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `query`.

        Notes
        -----
        The connected components of the graph of all pairs, exactly; it takes memory for the vectors, not for the pairs.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(1, metric="l2")
        >>> _ = index.insert([[0], [5], [1], [2], [6]])
        >>> index.groups(1.0).tolist()
        [0, 1, 0, 0, 1]
        """
        of, ask = self._rows(within, threads), self._asking(tau, None, threads)
        found = within_itself(of, ask, self._dim, Want.IDS, Meter(progress, STEPS))
        with self._on:
            return components(of.ids, found)

    def representatives(
        self,
        tau: float,
        *,
        priority: npt.ArrayLike | None = None,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """Choose vectors that stand for the others: no two of them reach tau, and every other one does with one.

        Parameters
        ----------
        tau, within, threads, progress
            As for `pairs`.
        priority : array_like of real numbers, shape (n,), optional
            Of each id in `ids` (or within, ascending): those with the highest come first; by default, the smallest ids.

        Returns
        -------
        ndarray of int64, on the host
            The ids that are kept, ascending.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `query`, and if priorities are NaN or do not fit.

        Notes
        -----
        Greedy and exact: in descending order of priority, then of ascending ids, a vector is kept if none that is kept
        before it reaches tau with it. This is deduplication.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(1, metric="l2")
        >>> _ = index.insert([[0], [5], [1], [2], [6]])
        >>> index.representatives(1.0).tolist()
        [0, 1, 3]
        >>> index.representatives(1.0, priority=[0, 0, 9, 0, 1]).tolist()
        [2, 4]
        """
        of, ask = self._rows(within, threads), self._asking(tau, None, threads)
        with self._on:
            ids = of.ids
            order = np.arange(ids.size)
            if priority is not None:
                wanted = host(self._backend.asarray(priority, "priority"))
                if wanted.shape != ids.shape:
                    raise ValueError(f"priority must have shape {ids.shape}, one for each vector, got {wanted.shape}")
                checks.real(wanted, "priority")
                checks.numbers(wanted, "priority")
                order = np.lexsort((order, _descending(wanted)))
            return ids[greedy(of, ids, ask, self._dim, order, Meter(progress, STEPS))]

    def histogram(
        self,
        taus: npt.ArrayLike,
        directions: npt.ArrayLike | None = None,
        *,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """Count how many pairs, or vectors, reach each of some thresholds: to choose one.

        Parameters
        ----------
        taus : array_like of float, shape (t,)
        directions : array_like of real numbers, shape (m, d), optional
            Count the vectors that each direction reaches, instead of the pairs of vectors.
        within, threads, progress : optional
            As for `pairs`.

        Returns
        -------
        ndarray of int64, shape (t,), or (m, t) for directions; on the host
            Exact counts, as `pairs` and `query` would find.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `query`.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(1, metric="l2")
        >>> _ = index.insert([[0], [5], [1], [2], [6]])
        >>> index.histogram([0.5, 1, 2]).tolist()
        [0, 3, 4]
        >>> index.histogram([1, 4], [[0], [6]]).tolist()
        [[2, 3], [2, 3]]
        """
        levels = host(self._backend.asarray(taus, "taus"))
        if levels.ndim != 1:
            raise ValueError(f"taus must have one dimension, got shape {levels.shape}")
        asks = [self._asking(level, None, threads, f"taus[{place}]") for place, level in enumerate(levels)]
        of, meter = self._rows(within, threads), Meter(progress, STEPS)
        with self._on:
            if directions is None:
                return count_pairs(of, asks, self._dim, meter)
            numbers = self._numbers(directions, "directions")
            counts, advance, table = np.zeros((len(numbers), len(asks)), np.int64), meter.over(len(asks)), of.table()
            for place, ask in enumerate(asks):
                counts[:, place] = host(asking.counts(self._backend, ask(table, numbers, Want.COUNT)))
                advance(1)
            meter.finish()
            return counts


def _descending(numbers: np.ndarray) -> np.ndarray:
    """Return what sorts numbers from the highest to the lowest, exactly; equals stay equal."""
    ranks: np.ndarray = -np.unique(numbers, return_inverse=True)[1].ravel()
    return ranks
