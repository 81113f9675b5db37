"""NumPy's line, usearch's exact search and scikit-learn's ball tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.bench.engines.spec import Engine, EngineSpec, Rows, rows_of

__all__ = ["SPECS"]

_SCORES = 64_000_000
"""Bytes of scores that NumPy holds at once."""
_BEYOND = 1e150
"""More than any score of float32 numbers."""


class Numpy(Engine):
    """The line that everybody writes: ``np.flatnonzero(X @ q >= tau)``, in float32, without scores.

    A batch is a matrix product of some directions at a time.
    """

    def __init__(self, vectors: NDArray[np.float32], threads: int, dtype: str, setting: Mapping[str, Any]) -> None:
        super().__init__(vectors, threads, dtype, setting)
        self.vectors = vectors

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        x, m = self.vectors, len(directions)
        if m == 1:
            direction, tau = directions[0], float(taus[0])
            return lambda: np.flatnonzero(x @ direction >= tau)
        step = max(1, _SCORES // (4 * len(x)))
        with np.errstate(over="ignore"):
            limits = taus.astype(np.float32)[:, None]  # to which NumPy rounds a Python float that meets float32

        def blocks() -> tuple[NDArray[np.int64], int]:
            found = []
            for first in range(0, m, step):
                block = slice(first, first + step)
                # np.nonzero of two dimensions would give the same, in twice the time
                found.append(np.flatnonzero(directions[block] @ x.T >= limits[block]) + first * len(x))
            return np.concatenate(found), m

        return blocks

    def found(self, answer: Any) -> Rows:
        if isinstance(answer, np.ndarray):
            return rows_of(np.zeros(len(answer), np.int64), answer, 1)
        flat, m = answer
        places, ids = np.divmod(flat, len(self.vectors))
        return rows_of(places, ids, m)


class UsearchExact(Engine):
    """``usearch.index.search(..., exact=True)``: it has no range search, so the best are ranked, then compared.

    Its distance is one less the inner product, in float32.
    """

    def __init__(self, vectors: NDArray[np.float32], threads: int, dtype: str, setting: Mapping[str, Any]) -> None:
        from usearch.index import MetricKind, search

        super().__init__(vectors, threads, dtype, setting)
        self.vectors = vectors
        self.threads = threads
        self.search, self.metric = search, MetricKind.IP

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        k = max(1, min(len(self.vectors), self.expected_hits))
        most = 1 - taus[:, None]

        def ranked() -> tuple[Any, Any]:
            best = self.search(self.vectors, directions, k, self.metric, exact=True, threads=self.threads)
            return np.atleast_2d(best.keys), np.atleast_2d(best.distances) <= most  # one direction has no rows

        return ranked

    def found(self, answer: Any) -> Rows:
        keys, near = answer
        return rows_of(np.nonzero(near)[0], keys[near].astype(np.int64), len(keys))


class BallTree(Engine):
    """scikit-learn's ``BallTree``, one thread, through a reduction of inner products to distances.

    With M the largest norm, x becomes (x, sqrt(M^2 - |x|^2)), of norm M, and q becomes (M q / |q|, 0): then the squared
    distance is 2 M^2 - 2 M <q, x> / |q|, and <q, x> >= tau is a ball. The radius is wider by more than float64 rounds,
    so that the tree loses none, and float64 scores of what it finds are compared with tau.
    """

    def __init__(self, vectors: NDArray[np.float32], threads: int, dtype: str, setting: Mapping[str, Any]) -> None:
        from sklearn.neighbors import BallTree as Tree

        super().__init__(vectors, threads, dtype, setting)
        self.vectors = vectors.astype(np.float64)
        squares = np.einsum("ij,ij->i", self.vectors, self.vectors)
        self.square = float(squares.max()) or 1.0
        self.tree = Tree(np.column_stack([self.vectors, np.sqrt(self.square - squares)]))

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes + sum(np.asarray(part).nbytes for part in self.tree.get_arrays())

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        wide = directions.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1)
        safe = np.where(lengths > 0, lengths, 1.0)
        slack = 16 * (wide.shape[1] + 8) * np.finfo(np.float64).eps * self.square
        finite = np.clip(taus, -_BEYOND, _BEYOND)
        squares = 2 * self.square - 2 * np.sqrt(self.square) * finite / safe
        radii = np.sqrt(np.maximum(squares + slack + 4 * np.finfo(np.float64).eps * np.abs(squares), 0))
        radii[lengths == 0] = np.inf
        centres = np.column_stack([wide * (np.sqrt(self.square) / safe)[:, None], np.zeros(len(wide))])

        def balls() -> list[NDArray[np.int64]]:
            candidates = self.tree.query_radius(centres, radii)
            return [
                ids[self.vectors[ids] @ direction >= tau]
                for ids, direction, tau in zip(candidates, wide, taus, strict=True)
            ]

        return balls

    def found(self, answer: Any) -> Rows:
        places = np.repeat(np.arange(len(answer)), [len(ids) for ids in answer])
        return rows_of(places, np.concatenate(answer), len(answer))


SPECS = [
    EngineSpec(
        "usearch-exact",
        "search(..., exact=True), no range search: ranks the true greatest number of hits, then compares its distances",
        UsearchExact,
        needs={"usearch": "usearch"},
    ),
    EngineSpec("numpy", "np.flatnonzero(X @ q >= tau) in float32, ids alone; batches in blocks of 64 MB", Numpy),
    EngineSpec(
        "sklearn-balltree",
        "BallTree.query_radius of vectors brought to one norm by a further dimension, float64, one thread",
        BallTree,
        needs={"sklearn": "scikit-learn"},
        most_dim=16,
    ),
]
