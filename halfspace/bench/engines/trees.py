"""Radius searches in float64: the trees of scikit-learn and SciPy, and scikit-learn's brute force.

A cosine of at least tau is a distance of at most sqrt(2 - 2 tau) between vectors of length 1. scikit-learn's brute
force has cosines of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.bench.engines.forms import normalised
from halfspace.bench.engines.spec import Engine, EngineSpec, How, Rows, rows_of_each

__all__ = ["SPECS"]

_BEYOND = 1e150
"""More than any score of float32 numbers."""
_NODE = 72
"""Bytes of a node of SciPy's tree."""


class _Tree(Engine):
    """A tree over vectors, in float64."""

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        super().__init__(vectors, how)
        self.threads = how.threads
        self.tree = self.made(normalised(vectors.astype(np.float64), how.metric))

    def made(self, points: NDArray[np.float64]) -> Any:
        """Return the tree."""
        raise NotImplementedError

    def near(self, centres: NDArray[np.float64], radii: NDArray[np.float64]) -> Callable[[], Any]:
        """Return a call that finds what lies in balls."""
        return lambda: self.tree.query_radius(centres, radii)

    @property
    def nbytes(self) -> int:
        return sum(np.asarray(part).nbytes for part in self.tree.get_arrays())

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        radii = np.sqrt(np.maximum(2 - 2 * taus, 0)) if self.metric == "cosine" else taus.copy()
        return self.near(normalised(directions.astype(np.float64), self.metric), radii)

    def found(self, answer: Any) -> Rows:
        return rows_of_each(answer)


class BallTree(_Tree):
    """scikit-learn's ``BallTree``, one thread."""

    def made(self, points: NDArray[np.float64]) -> Any:
        from sklearn.neighbors import BallTree as Tree

        return Tree(points)


class KDTree(_Tree):
    """scikit-learn's ``KDTree``, one thread."""

    def made(self, points: NDArray[np.float64]) -> Any:
        from sklearn.neighbors import KDTree as Tree

        return Tree(points)


class CKDTree(_Tree):
    """SciPy's ``cKDTree``; a batch is shared among threads."""

    def made(self, points: NDArray[np.float64]) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(points)

    def near(self, centres: NDArray[np.float64], radii: NDArray[np.float64]) -> Callable[[], Any]:
        return lambda: self.tree.query_ball_point(centres, radii, workers=self.threads, return_sorted=False)

    @property
    def nbytes(self) -> int:
        return int(self.tree.data.nbytes + self.tree.indices.nbytes + _NODE * self.tree.size)


class Brute(Engine):
    """scikit-learn's ``NearestNeighbors(algorithm="brute")``, on float32."""

    many_taus = False

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        from sklearn.neighbors import NearestNeighbors

        super().__init__(vectors, how)
        self.vectors = vectors
        kind = "cosine" if how.metric == "cosine" else "euclidean"
        self.search = NearestNeighbors(algorithm="brute", metric=kind, n_jobs=how.threads).fit(vectors)

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        radius = 1 - float(taus[0]) if self.metric == "cosine" else float(taus[0])
        return lambda: self.search.radius_neighbors(directions, radius, return_distance=False)

    def found(self, answer: Any) -> Rows:
        return rows_of_each(answer)


class Reduced(Engine):
    """scikit-learn's ``BallTree``, one thread, through a reduction of inner products to distances.

    With M the largest norm, x becomes (x, sqrt(M^2 - |x|^2)), of norm M, and q becomes (M q / |q|, 0): then the squared
    distance is 2 M^2 - 2 M <q, x> / |q|, and <q, x> >= tau is a ball. The radius is wider by more than float64 rounds,
    so that the tree loses none, and float64 scores of what it finds are compared with tau.
    """

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        from sklearn.neighbors import BallTree

        super().__init__(vectors, how)
        self.vectors = vectors.astype(np.float64)
        squares = np.einsum("ij,ij->i", self.vectors, self.vectors)
        self.square = float(squares.max()) or 1.0
        self.tree = BallTree(np.column_stack([self.vectors, np.sqrt(self.square - squares)]))

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
        return rows_of_each(answer)


def _ball_tree(vectors: NDArray[np.float32], how: How) -> Engine:
    return (Reduced if how.metric == "ip" else BallTree)(vectors, how)


_DISTANCES = ("cosine", "l2")
_SKLEARN = {"sklearn": "scikit-learn"}

SPECS = [
    EngineSpec(
        "sklearn-balltree",
        "BallTree.query_radius in float64, one thread; for inner products, vectors brought to one norm by a further "
        "dimension",
        _ball_tree,
        needs=_SKLEARN,
        most_dim=16,
    ),
    EngineSpec(
        "sklearn-kdtree",
        "KDTree.query_radius in float64, one thread",
        KDTree,
        metrics=_DISTANCES,
        needs=_SKLEARN,
        most_dim=16,
    ),
    EngineSpec(
        "sklearn-brute",
        "NearestNeighbors(algorithm='brute').radius_neighbors",
        Brute,
        metrics=_DISTANCES,
        needs=_SKLEARN,
    ),
    EngineSpec(
        "scipy-ckdtree",
        "cKDTree.query_ball_point in float64",
        CKDTree,
        metrics=_DISTANCES,
        needs={"scipy": "scipy"},
        most_dim=16,
    ),
]
