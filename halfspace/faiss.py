"""The face of FAISS's flat indexes, over answers that are decided exactly; FAISS itself is not needed.

>>> from halfspace.faiss import IndexFlatIP
>>> index = IndexFlatIP(2)
>>> index.train([[1, 0]])  # nothing to learn
>>> index.add_with_ids([[1, 0], [0, 1], [3, 4]], [7, 8, 9])
>>> index.reconstruct(9).tolist(), index.reconstruct_n(7, 2).tolist(), index.reconstruct_batch([8, 7]).tolist()
([3.0, 4.0], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]])
>>> index.remove_ids([8])
1
>>> index.reset()
>>> index.ntotal
0
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from math import ceil, floor, inf, nextafter, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.index import HalfspaceIndex
from halfspace.model.formats import as_bits, as_float32, widen32

__all__ = ["IndexFlatIP", "IndexFlatL2"]

_ROWS = 1 << 12
"""Hits whose vectors are looked at together."""


class _IndexFlat(ABC):
    """What both have in common.

    Attributes
    ----------
    index : HalfspaceIndex
        What answers: for all that FAISS has no name for, such as `save`, `explain` or bands.
    d : int
        Number of dimensions.
    is_trained : bool
        True.
    """

    metric_type: int
    is_trained = True
    _metric: str
    _nothing: float
    """What stands for the value of a neighbour that is not there."""

    def __init__(self, d: int, *, filter: str = "auto", dtype: Any = "float32", threads: int | None = None) -> None:
        self._empty = partial(HalfspaceIndex, d, metric=self._metric, filter=filter, dtype=dtype, threads=threads)
        self.index = self._empty()

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return self.index.dim

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return len(self.index)

    def train(self, x: npt.ArrayLike) -> None:
        """Learn nothing from vectors (n, d), whose shape is checked: there is nothing to learn."""
        self._matrix(x)

    def add(self, x: npt.ArrayLike) -> None:
        """Add vectors.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Their ids continue above the largest that was ever used: 0, 1, ... where none were given and none removed.
        """
        self.index.insert(self._matrix(x))

    def add_with_ids(self, x: npt.ArrayLike, ids: npt.ArrayLike) -> None:
        """Add vectors with ids of their own, which no other vector may have.

        Parameters
        ----------
        x : array_like, shape (n, d)
        ids : array_like of int, shape (n,)
        """
        self.index.insert(self._matrix(x), ids)

    def search(self, x: npt.ArrayLike, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find the k nearest of each query.

        Parameters
        ----------
        x : array_like, shape (m, d)
        k : int

        Returns
        -------
        D : ndarray of float32, shape (m, k)
            Products, descending, or squared distances, ascending.
        I : ndarray of int64, shape (m, k)
            Ids; of those that have the same real value, the smallest come first. Where there are fewer than k vectors,
            the rest of a row is -1, and the largest float32 (or, of products, the smallest) in D.
        """
        queries = self._queries(x)
        hits = self.index.search(queries, k)
        there = np.arange(k) < np.diff(hits.offsets)[:, None]
        values, ids = np.full(there.shape, self._nothing, np.float32), np.full(there.shape, -1, np.int64)
        scores: Any = hits.scores
        values[there], ids[there] = self._values(queries, hits.queries, hits.ids, scores), hits.ids
        return values, ids

    def range_search(
        self, x: npt.ArrayLike, thresh: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find all vectors beyond a threshold, strictly: products above it, or squared distances below it.

        Parameters
        ----------
        x : array_like, shape (m, d)
        thresh : float, or array_like of float, shape (m,)
            The threshold in float64, or one for each query.

        Returns
        -------
        lims : ndarray of int64, shape (m + 1,)
            The hits of query i are those from ``lims[i]`` to ``lims[i + 1]``.
        D : ndarray of float32, shape (hits,)
        I : ndarray of int64, shape (hits,)
            Of each query in ascending order.
        """
        queries = self._queries(x)
        edges = checks.as_tau(thresh, len(queries), False, "thresh")
        hits = self.index.query(queries, np.array([self._reaching(edge) for edge in edges.tolist()], np.float64))
        owners, ids = hits.queries, hits.ids
        scores: Any = hits.scores
        beyond = np.ones(ids.size, np.bool_)
        close = np.flatnonzero(self._close(scores, edges[owners]))
        for first in range(0, close.size, _ROWS):
            part = close[first : first + _ROWS]
            beyond[part] = self._beyond(queries[owners[part]], self.reconstruct_batch(ids[part]), edges[owners[part]])
        owners, ids, scores = owners[beyond], ids[beyond], scores[beyond]
        lims = np.searchsorted(owners, np.arange(len(queries) + 1))
        return lims.astype(np.int64), self._values(queries, owners, ids, scores), ids

    def remove_ids(self, x: Any) -> int:
        """Remove vectors; the others keep their ids.

        Parameters
        ----------
        x : array_like of int, shape (n,), or an object with a method ``is_member(id)``
            Ids, or a selector of FAISS. Ids that no vector has are passed over.

        Returns
        -------
        int
            How many were removed.
        """
        present = self.index.ids
        if hasattr(x, "is_member"):
            gone = present[[bool(x.is_member(id)) for id in present.tolist()]]
        else:
            gone = np.intersect1d(present, checks.as_ids(checks.asarray(x, "x"), "x"))
        self.index.delete(gone)
        return gone.size

    def reconstruct(self, key: int) -> npt.NDArray[np.float32]:
        """Return the vector with an id, (d,); KeyError if there is none."""
        vector: npt.NDArray[np.float32] = self.reconstruct_batch([key])[0]
        return vector

    def reconstruct_batch(self, key: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the vectors with these ids, (n, d); KeyError if one is missing."""
        return as_float32(as_bits(self.index.vectors(key)))

    def reconstruct_n(self, n0: int = 0, ni: int = -1) -> npt.NDArray[np.float32]:
        """Return the vectors with the ids from n0 on, (ni, d), by default as many as there are; none may be missing."""
        count = self.ntotal - n0 if ni == -1 else ni
        return self.reconstruct_batch(np.arange(n0, n0 + count))

    def reset(self) -> None:
        """Remove all vectors; ids begin at 0 again."""
        self.index = self._empty()

    def _matrix(self, x: npt.ArrayLike) -> np.ndarray:
        array = checks.asarray(x, "x")
        if array.ndim != 2:
            raise ValueError(f"x must have shape (n, {self.d}), got {array.shape}")
        return array

    def _queries(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Round queries as an index does."""
        array = self._matrix(x)
        checks.real(array, "x")
        with np.errstate(over="ignore"):  # an index refuses what became infinite
            return np.ascontiguousarray(array, np.float32)

    @abstractmethod
    def _reaching(self, edge: float) -> float:
        """Return a threshold of the index that all reach which lie beyond the edge."""

    @abstractmethod
    def _close(self, scores: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Whether hits may lie at the edge, or on its other side, by their scores."""

    @abstractmethod
    def _beyond(
        self, queries: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """Whether pairs of a query and a vector, (n, d) each, lie beyond edges (n,); in integers."""

    @abstractmethod
    def _values(
        self,
        queries: npt.NDArray[np.float32],
        owners: npt.NDArray[np.int64],
        ids: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """Return what FAISS calls distances, of hits (n,) of the queries `owners`."""


class IndexFlatIP(_IndexFlat):
    """``faiss.IndexFlatIP``, exactly: largest inner products, and all that are larger than a threshold.

    Parameters
    ----------
    d : int
        Number of dimensions.
    filter, dtype, threads : optional
        As for `HalfspaceIndex`.

    Notes
    -----
    Products are compared as real numbers; each is returned rounded once to float32. Vectors keep their ids when others
    are removed, as in an ``IndexIDMap`` of FAISS, while its flat indexes count anew.

    Examples
    --------
    >>> from halfspace.faiss import IndexFlatIP
    >>> index = IndexFlatIP(2)
    >>> index.add([[1, 0], [0.5, 0.5], [0, 1]])
    >>> values, ids = index.search([[2, 1]], 2)
    >>> values.tolist(), ids.tolist()
    ([[2.0, 1.5]], [[0, 1]])
    >>> lims, values, ids = index.range_search([[2, 1]], 1.0)
    >>> ids.tolist()
    [0, 1]
    """

    metric_type = 0
    _metric = "ip"
    _nothing = float(np.finfo(np.float32).min)

    def _reaching(self, edge: float) -> float:
        return edge

    def _close(self, scores: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        with np.errstate(over="ignore"):
            at_most = np.nextafter(edges, inf).astype(np.float32)
        return (scores <= at_most) & np.isfinite(edges)

    def _beyond(
        self, queries: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        (left, right), unit = _integers(queries, vectors)
        sums = (left * right).sum(axis=1)
        beyond: npt.NDArray[np.bool_] = (sums > _in_units(edges, unit, floor)).astype(np.bool_)
        return beyond

    def _values(
        self,
        queries: npt.NDArray[np.float32],
        owners: npt.NDArray[np.int64],
        ids: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        return scores


class IndexFlatL2(_IndexFlat):
    """``faiss.IndexFlatL2``, exactly: least distances, and all that are smaller than a threshold; they are squared.

    Parameters
    ----------
    d : int
        Number of dimensions.
    filter, dtype, threads : optional
        As for `HalfspaceIndex`.

    Notes
    -----
    Distances are compared as real numbers. The squares that are returned are summed in float64 and then rounded to
    float32. Vectors keep their ids when others are removed, as in an ``IndexIDMap`` of FAISS, while its flat indexes
    count anew.

    Examples
    --------
    >>> from halfspace.faiss import IndexFlatL2
    >>> index = IndexFlatL2(2)
    >>> index.add([[1, 0], [3, 4], [0, 1]])
    >>> values, ids = index.search([[0, 0]], 3)
    >>> values.tolist(), ids.tolist()
    ([[1.0, 1.0, 25.0]], [[0, 2, 1]])
    >>> lims, values, ids = index.range_search([[0, 0]], 25.0)
    >>> ids.tolist()
    [0, 2]
    """

    metric_type = 1
    _metric = "l2"
    _nothing = float(np.finfo(np.float32).max)

    def _reaching(self, edge: float) -> float:
        if not 0.0 < edge < inf:
            return inf if edge > 0.0 else -1.0
        root = sqrt(edge)
        return root if Fraction(root) ** 2 >= Fraction(edge) else nextafter(root, inf)

    def _close(self, scores: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        with np.errstate(invalid="ignore", over="ignore"):
            least = np.nextafter(np.sqrt(edges), 0.0).astype(np.float32)
        return (scores >= least) & np.isfinite(edges)

    def _beyond(
        self, queries: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        (left, right), unit = _integers(queries, vectors)
        sums = ((left - right) ** 2).sum(axis=1)
        beyond: npt.NDArray[np.bool_] = (sums < _in_units(edges, unit, ceil)).astype(np.bool_)
        return beyond

    def _values(
        self,
        queries: npt.NDArray[np.float32],
        owners: npt.NDArray[np.int64],
        ids: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        squares = np.empty(ids.size, np.float32)
        for first in range(0, ids.size, _ROWS):
            part = slice(first, first + _ROWS)
            apart = widen32(self.reconstruct_batch(ids[part])) - widen32(queries[owners[part]])
            with np.errstate(over="ignore"):
                squares[part] = np.einsum("ij,ij->i", apart, apart)
        return squares


def _in_units(edges: npt.NDArray[np.float64], unit: Fraction, rounding: Callable[[Fraction], int]) -> np.ndarray:
    """Return edges (n,) in squares of a unit, rounded to integers of Python."""
    distinct, owners = np.unique(edges, return_inverse=True)
    return np.array([rounding(Fraction(edge) / unit**2) for edge in distinct.tolist()], object)[owners]


def _integers(*arrays: npt.NDArray[np.float32]) -> tuple[np.ndarray, Fraction]:
    """Return arrays (n, d) as one of whole numbers, and their unit, a power of two.

    The numbers are int64 where a sum of d squares of differences is one, too, and integers of Python elsewhere.
    """
    fractions, exponents = np.frexp(widen32(np.stack(arrays)))
    mantissas = (fractions * 2.0**24).astype(np.int64)
    there = mantissas != 0
    zeros = np.maximum(np.frexp((mantissas & -mantissas).astype(np.float64))[1] - 1, 0)  # at the end of each
    places = exponents - 24 + zeros
    unit = int(places[there].min(initial=1000))
    top = int(exponents[there].max(initial=unit)) - unit
    kind = np.int64 if 2 * (top + 1) + arrays[0].shape[1].bit_length() < 63 else object
    whole = (mantissas >> zeros).astype(kind) << np.where(there, places - unit, 0).astype(kind)
    return whole, Fraction(2) ** unit
