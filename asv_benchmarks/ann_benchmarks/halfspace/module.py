"""The engine of ann-benchmarks: the k best, all of them and in their real order."""

import numpy as np

from halfspace import HalfspaceIndex

from ..base.module import BaseANN

METRICS = {"angular": "cosine", "euclidean": "l2"}


class Halfspace(BaseANN):
    """An index of `halfspace`, whose recall is 1."""

    def __init__(self, metric, filter="auto"):
        if metric not in METRICS:
            raise NotImplementedError(f"halfspace has no metric {metric}, but {' and '.join(METRICS)}")
        self._metric = METRICS[metric]
        self._filter = filter
        self._threads = None
        self.name = f"Halfspace({filter=})"

    def fit(self, X):
        """Store the rows of an array (n, d); those that are zero have no angle, and are left out."""
        rows = np.arange(len(X)) if self._metric == "l2" else np.flatnonzero(np.any(X, axis=1))
        self._index = HalfspaceIndex(X.shape[1], metric=self._metric, filter=self._filter)
        self._index.insert(X if rows.size == len(X) else X[rows], rows)
        self._index.compact()

    def set_query_arguments(self, threads):
        """Set the threads of a question; all processors by default."""
        self._threads = threads
        self.name = f"Halfspace(filter={self._filter!r}, {threads=})"

    def query(self, q, n):
        """Return the rows of the n nearest of one vector (d,), nearest first."""
        return self._index.search(self._asked(q[None])[0], n, threads=self._threads).ids

    def batch_query(self, X, n):
        """Find the n nearest of each row of an array (m, d), all at once."""
        self._hits = self._index.search(self._asked(X), n, threads=self._threads)

    def get_batch_results(self):
        """Return what `batch_query` has found: arrays of rows."""
        return [hits.ids for hits in self._hits]

    def done(self):
        """Free the index."""
        self._index = self._hits = None

    def _asked(self, X):
        """Return queries (m, d), and others in place of zero, which has no angle and is as near to all rows."""
        zero = np.flatnonzero(~np.any(X, axis=1)) if self._metric == "cosine" else []
        if len(zero):
            X = X.copy()
            X[zero] = 1
        return X
