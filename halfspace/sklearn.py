"""Neighbours as scikit-learn finds them, decided exactly: estimators for its pipelines."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from joblib import effective_n_jobs
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from halfspace.arguments import checks
from halfspace.index import HalfspaceIndex

__all__ = ["HalfspaceKNeighborsTransformer", "HalfspaceNeighbors", "HalfspaceRadiusTransformer"]

_METRICS = {"l2": "l2", "euclidean": "l2", "cosine": "cosine", "ip": "ip"}
"""The metrics of an index, by the names that estimators take."""
_MODES = ("connectivity", "distance")


class _Fitted(BaseEstimator):
    """What all have in common: an index of the samples, whose ids are their rows."""

    metric: str
    dtype: Any
    n_jobs: int | None

    def fit(self, X: npt.ArrayLike, y: Any = None) -> Self:
        """Store the samples.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        The estimator itself.
        """
        samples = validate_data(self, X)
        metric = _METRICS[checks.one_of(self.metric, "metric", tuple(_METRICS))]
        self.index_ = HalfspaceIndex(samples.shape[1], metric=metric, dtype=self.dtype, threads=self._threads)
        self.index_.insert(samples)
        self.n_samples_fit_ = self._n_features_out = len(samples)
        return self

    @property
    def _threads(self) -> int:
        return int(effective_n_jobs(self.n_jobs))

    def _points(self, X: npt.ArrayLike | None) -> np.ndarray:
        """Return the points that are asked for: those of X, or the samples as they are stored."""
        check_is_fitted(self)
        if X is None:
            return self.index_.vectors(np.arange(self.n_samples_fit_))
        points: np.ndarray = validate_data(self, X, reset=False)
        return points

    def _distances(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        wide = scores.astype(np.float64)
        if self.index_.metric == "cosine":
            return 1.0 - wide
        return -wide if self.index_.metric == "ip" else wide

    def _graph(self, data: Any, ids: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> csr_matrix:
        """Return neighbours as a sparse matrix, the kind of it that all versions of scikit-learn take."""
        return csr_matrix((data, ids, offsets), shape=(len(offsets) - 1, self.n_samples_fit_))


class _RadiusNeighbors(_Fitted):
    """Neighbours within a radius."""

    radius: float

    def radius_neighbors(
        self,
        X: npt.ArrayLike | None = None,
        radius: float | None = None,
        return_distance: bool = True,
        sort_results: bool = False,
    ) -> Any:
        """Find the samples within a radius, the boundary included.

        Parameters
        ----------
        X : array_like, shape (n_queries, n_features), optional
            By default the samples themselves, none of which is its own neighbour.
        radius : float, optional
            By default that of the estimator.
        return_distance : bool
            Whether to return distances, too.
        sort_results : bool
            Whether to order by distance and then by row, instead of by row; only with distances.

        Returns
        -------
        neigh_dist : ndarray of object, shape (n_queries,)
            Arrays of float64, with `return_distance`.
        neigh_ind : ndarray of object, shape (n_queries,)
            Arrays of int64: rows of the samples.
        """
        if sort_results and not return_distance:
            raise ValueError("return_distance must be True if sort_results is True")
        distances, ids, offsets = self._within(X, radius, return_distance, sort_results)
        rows = _rows(ids, offsets)
        return rows if distances is None else (_rows(distances, offsets), rows)

    def radius_neighbors_graph(
        self,
        X: npt.ArrayLike | None = None,
        radius: float | None = None,
        mode: str = "connectivity",
        sort_results: bool = False,
    ) -> csr_matrix:
        """Return the samples within a radius as a graph.

        Parameters
        ----------
        X, radius, sort_results : optional
            As for `radius_neighbors`.
        mode : {"connectivity", "distance"}
            Whether entries are 1, or distances; those that are zero are kept.

        Returns
        -------
        csr_matrix of float64, shape (n_queries, n_samples_fit)
        """
        wanted = checks.one_of(mode, "mode", _MODES) == "distance"
        distances, ids, offsets = self._within(X, radius, wanted, sort_results and wanted)
        return self._graph(np.ones(ids.size) if distances is None else distances, ids, offsets)

    def _within(
        self, X: npt.ArrayLike | None, radius: float | None, wanted: bool, sort: bool
    ) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return distances, if they are wanted, and rows of the hits, and offsets (n_queries + 1,)."""
        points = self._points(X)
        limit = checks.as_tau(self.radius if radius is None else radius, len(points), False, "radius")
        tau = {"l2": limit, "cosine": 1.0 - limit, "ip": -limit}[self.index_.metric]
        hits = self.index_.query(points, tau, scores=wanted, sort=sort, threads=self._threads)
        ids, offsets, queries = hits.ids, hits.offsets, hits.queries
        distances = None
        if hits.scores is not None:  # rounding takes none beyond the radius that it is within
            distances = np.minimum(self._distances(hits.scores), limit[queries])
        if X is None:
            others = ids != queries
            offsets = np.concatenate([[0], np.cumsum(others)])[offsets]
            ids, distances = ids[others], None if distances is None else distances[others]
        return distances, ids, offsets


class _KNeighbors(_Fitted):
    """The nearest neighbours."""

    n_neighbors: int

    def kneighbors(
        self, X: npt.ArrayLike | None = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Find the nearest samples.

        Parameters
        ----------
        X : array_like, shape (n_queries, n_features), optional
            By default the samples themselves, none of which is its own neighbour.
        n_neighbors : int, optional
            By default that of the estimator.
        return_distance : bool
            Whether to return distances, too.

        Returns
        -------
        neigh_dist : ndarray of float64, shape (n_queries, n_neighbors)
            With `return_distance`; ascending.
        neigh_ind : ndarray of int64, shape (n_queries, n_neighbors)
            Rows of the samples; of those at the same real distance, the first ones, in their order.
        """
        k = checks.as_count(self.n_neighbors if n_neighbors is None else n_neighbors, "n_neighbors", 1)
        points = self._points(X)
        own, most = X is None, self.n_samples_fit_
        if k + own > most:
            limit = "n_neighbors < n_samples_fit" if own else "n_neighbors <= n_samples_fit"
            counts = f"n_neighbors = {k}, n_samples_fit = {most}, n_samples = {len(points)}"
            raise ValueError(f"Expected {limit}, but {counts}")
        hits = self.index_.search(points, k + own, threads=self._threads)
        scores: Any = hits.scores
        ids, distances = hits.ids.reshape(-1, k + own), self._distances(scores).reshape(-1, k + own)
        if own:  # who is not among its own nearest leaves the last of them out
            others = ids != np.arange(most)[:, None]
            others[others.all(axis=1), -1] = False
            ids, distances = ids[others].reshape(-1, k), distances[others].reshape(-1, k)
        return (distances, ids) if return_distance else ids

    def kneighbors_graph(
        self, X: npt.ArrayLike | None = None, n_neighbors: int | None = None, mode: str = "connectivity"
    ) -> csr_matrix:
        """Return the nearest samples as a graph.

        Parameters
        ----------
        X, n_neighbors : optional
            As for `kneighbors`.
        mode : {"connectivity", "distance"}
            Whether entries are 1, or distances; those that are zero are kept.

        Returns
        -------
        csr_matrix of float64, shape (n_queries, n_samples_fit)
        """
        checks.one_of(mode, "mode", _MODES)
        distances, ids = self.kneighbors(X, n_neighbors)
        data = np.ones(ids.size) if mode == "connectivity" else distances.ravel()
        return self._graph(data, ids.ravel(), np.arange(len(ids) + 1) * ids.shape[1])


class HalfspaceNeighbors(_RadiusNeighbors, _KNeighbors):
    """Neighbours like those of ``sklearn.neighbors.NearestNeighbors``, decided in real arithmetic.

    Parameters
    ----------
    metric : {"l2", "euclidean", "cosine", "ip"}
        ``"l2"`` and ``"euclidean"`` are the Euclidean distance. ``"cosine"`` is 1 minus the cosine, which zero samples
        do not have: they are refused. ``"ip"`` is the negative inner product, so that a radius of -tau means the
        products of at least tau.
    radius : float
        Of neighbourhoods, for the methods that take none. A neighbour's real distance is at most the radius; of
        ``"cosine"``, its real cosine is at least ``1.0 - radius``, a difference in float64 (without rounding from 0.5
        to 2).
    n_neighbors : int
        How many, for the methods that take no number.
    dtype : {"float32", "float16", "bfloat16"}
        What samples are stored in.
    n_jobs : int, optional
        Threads: None means 1 unless joblib says otherwise, and -1 means all processors.

    Attributes
    ----------
    index_ : HalfspaceIndex
        What answers. Ids are the rows of the samples.
    n_samples_fit_, n_features_in_ : int
        How many samples, and of how many dimensions.
    feature_names_in_ : ndarray of str, shape (n_features,)
        Where all names of features are text.

    Notes
    -----
    **Numbers are rounded**, to nearest: samples to `dtype`, float32 by default, and the points of a question to
    float32. What is exact is the answer for the rounded ones. Distances are rounded to float32 as well (of cosines, the
    cosine is), none of them beyond the radius that it is within, and are returned in float64.

    Examples
    --------
    >>> from halfspace.sklearn import HalfspaceNeighbors
    >>> neighbors = HalfspaceNeighbors(radius=1.5).fit([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    >>> distances, rows = neighbors.radius_neighbors([[0.0, 0.0]])
    >>> distances[0].tolist(), rows[0].tolist()
    ([0.0, 1.0], [0, 1])
    >>> neighbors.kneighbors(n_neighbors=1, return_distance=False).tolist()
    [[1], [0], [1]]
    >>> neighbors.kneighbors_graph(n_neighbors=1).nnz, neighbors.radius_neighbors_graph().nnz
    (3, 2)
    """

    def __init__(
        self,
        *,
        metric: str = "l2",
        radius: float = 1.0,
        n_neighbors: int = 5,
        dtype: Any = "float32",
        n_jobs: int | None = None,
    ) -> None:
        self.metric = metric
        self.radius = radius
        self.n_neighbors = n_neighbors
        self.dtype = dtype
        self.n_jobs = n_jobs


class HalfspaceRadiusTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _RadiusNeighbors):
    """Samples as the graph of their neighbours within a radius: ``RadiusNeighborsTransformer``, exactly.

    What follows in a pipeline takes the graph for its distances, with ``metric="precomputed"``.

    Parameters
    ----------
    mode : {"distance", "connectivity"}
        Whether entries are distances, or 1.
    metric, radius, dtype, n_jobs : optional
        As for `HalfspaceNeighbors`; so are the attributes, and what is rounded.

    Examples
    --------
    >>> from sklearn.cluster import DBSCAN
    >>> from sklearn.pipeline import make_pipeline
    >>> from halfspace.sklearn import HalfspaceRadiusTransformer
    >>> graph = HalfspaceRadiusTransformer(radius=1.0)
    >>> clusters = make_pipeline(graph, DBSCAN(eps=1.0, min_samples=2, metric="precomputed"))
    >>> clusters.fit_predict([[0.0, 0.0], [0.5, 0.5], [5.0, 5.0]]).tolist()
    [0, 0, -1]
    >>> graph.fit([[0.0, 0.0], [0.5, 0.5]]).transform([[0.0, 0.0]]).nnz
    2
    >>> len(graph.radius_neighbors([[9.0, 9.0]], return_distance=False)[0]), graph.radius_neighbors_graph().nnz
    (0, 2)
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        metric: str = "l2",
        radius: float = 1.0,
        dtype: Any = "float32",
        n_jobs: int | None = None,
    ) -> None:
        self.mode = mode
        self.metric = metric
        self.radius = radius
        self.dtype = dtype
        self.n_jobs = n_jobs

    def transform(self, X: npt.ArrayLike) -> csr_matrix:
        """Return the neighbours of points as a graph, in order of their distances.

        Parameters
        ----------
        X : array_like, shape (n_queries, n_features)
            A sample is its own neighbour, at distance 0.

        Returns
        -------
        csr_matrix of float64, shape (n_queries, n_samples_fit)
        """
        return self.radius_neighbors_graph(X, mode=self.mode, sort_results=True)


class HalfspaceKNeighborsTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _KNeighbors):
    """Samples as the graph of their nearest neighbours: ``KNeighborsTransformer``, exactly.

    Parameters
    ----------
    mode : {"distance", "connectivity"}
        Whether entries are distances, or 1.
    n_neighbors : int
        How many; one more with distances, since a sample is its own neighbour.
    metric, dtype, n_jobs : optional
        As for `HalfspaceNeighbors`; so are the attributes, and what is rounded.

    Examples
    --------
    >>> from halfspace.sklearn import HalfspaceKNeighborsTransformer
    >>> graph = HalfspaceKNeighborsTransformer(n_neighbors=1)
    >>> graph.fit_transform([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]).toarray().tolist()
    [[0.0, 5.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    >>> graph.fit([[0.0, 0.0], [3.0, 4.0]]).transform([[0.0, 1.0]]).nnz
    2
    >>> graph.kneighbors([[0.0, 1.0]], return_distance=False).tolist(), graph.kneighbors_graph().nnz
    ([[0]], 2)
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        metric: str = "l2",
        n_neighbors: int = 5,
        dtype: Any = "float32",
        n_jobs: int | None = None,
    ) -> None:
        self.mode = mode
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.dtype = dtype
        self.n_jobs = n_jobs

    def transform(self, X: npt.ArrayLike) -> csr_matrix:
        """Return the nearest neighbours of points as a graph, in order of their distances.

        Parameters
        ----------
        X : array_like, shape (n_queries, n_features)

        Returns
        -------
        csr_matrix of float64, shape (n_queries, n_samples_fit)
        """
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"), self.mode)


def _rows(values: np.ndarray, offsets: npt.NDArray[np.int64]) -> np.ndarray:
    """Return the parts of an array as an array of objects, (n_queries,)."""
    parts = np.empty(len(offsets) - 1, object)
    parts[:] = np.split(values, offsets[1:-1])
    return parts
