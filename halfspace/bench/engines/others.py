"""NumPy's lines, and usearch's exact search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.bench.engines.forms import halves, least_products, normalised
from halfspace.bench.engines.spec import Engine, EngineSpec, How, Rows, rows_of, rows_of_each

__all__ = ["SPECS"]

_SCORES = 64_000_000
"""Bytes of scores that NumPy holds at once."""


class Numpy(Engine):
    """The line that everybody writes: ``np.flatnonzero(X @ q >= tau)``, in float32, without scores.

    A batch is a matrix product of some directions at a time. For cosines all are of length 1; for distances, |x|^2 / 2
    is subtracted from products.
    """

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        super().__init__(vectors, how)
        self.vectors, self.halves = normalised(vectors, how.metric), halves(vectors, how.metric)

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes + (0 if self.halves is None else self.halves.nbytes)

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        x, subtracted, m = self.vectors, self.halves, len(directions)
        asked, least = normalised(directions, self.metric), least_products(directions, taus, self.metric)
        if m == 1:
            direction, tau = asked[0], float(least[0])
            if subtracted is not None:
                return lambda: np.flatnonzero(x @ direction - subtracted >= tau)
            return lambda: np.flatnonzero(x @ direction >= tau)
        step = max(1, _SCORES // (4 * len(x)))
        with np.errstate(over="ignore"):
            limits = least.astype(np.float32)[:, None]  # to which NumPy rounds a Python float that meets float32

        def blocks() -> tuple[NDArray[np.int64], int]:
            found = []
            for first in range(0, m, step):
                block = slice(first, first + step)
                products = asked[block] @ x.T
                if subtracted is not None:
                    products -= subtracted
                # np.nonzero of two dimensions would give the same, in twice the time
                found.append(np.flatnonzero(products >= limits[block]) + first * len(x))
            return np.concatenate(found), m

        return blocks

    def found(self, answer: Any) -> Rows:
        if isinstance(answer, np.ndarray):
            return rows_of(np.zeros(len(answer), np.int64), answer, 1)
        flat, m = answer
        places, ids = np.divmod(flat, len(self.vectors))
        return rows_of(places, ids, m)


class NumpyDirect(Engine):
    """The other lines that people write, in float32, direction by direction.

    ``np.flatnonzero(np.linalg.norm(X - q, axis=1) <= radius)``, and for cosines
    ``np.flatnonzero(X @ q / (lengths * np.linalg.norm(q)) >= tau)``.
    """

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        super().__init__(vectors, how)
        self.vectors, self.lengths = vectors, np.linalg.norm(vectors, axis=1)

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes + (self.lengths.nbytes if self.metric == "cosine" else 0)

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        x, lengths, pairs = self.vectors, self.lengths, list(zip(directions, taus.tolist(), strict=True))
        if self.metric == "cosine":
            return lambda: [np.flatnonzero(x @ q / (lengths * np.linalg.norm(q)) >= tau) for q, tau in pairs]
        return lambda: [np.flatnonzero(np.linalg.norm(x - q, axis=1) <= radius) for q, radius in pairs]

    def found(self, answer: Any) -> Rows:
        return rows_of_each(answer)


class UsearchExact(Engine):
    """``usearch.index.search(..., exact=True)``: it has no range search, so the best are ranked, then compared.

    Its distance is one less the inner product or the cosine, or the square of the distance, in float32.
    """

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        from usearch.index import MetricKind, search

        super().__init__(vectors, how)
        self.vectors = vectors
        self.threads = how.threads
        self.search = search
        self.kind = {"ip": MetricKind.IP, "cosine": MetricKind.Cos, "l2": MetricKind.L2sq}[how.metric]

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        k = max(1, min(len(self.vectors), self.expected_hits))
        most = (taus * np.abs(taus) if self.metric == "l2" else 1 - taus)[:, None]

        def ranked() -> tuple[Any, Any]:
            best = self.search(self.vectors, directions, k, self.kind, exact=True, threads=self.threads)
            return np.atleast_2d(best.keys), np.atleast_2d(best.distances) <= most  # one direction has no rows

        return ranked

    def found(self, answer: Any) -> Rows:
        keys, near = answer
        return rows_of(np.nonzero(near)[0], keys[near].astype(np.int64), len(keys))


SPECS = [
    EngineSpec(
        "usearch-exact",
        "search(..., exact=True), no range search: ranks the true greatest number of hits, then compares its distances",
        UsearchExact,
        needs={"usearch": "usearch"},
    ),
    EngineSpec(
        "numpy",
        "np.flatnonzero(X @ q >= tau) in float32, ids alone; batches in blocks of 64 MB; X of length 1 for cosines, "
        "X @ q - |x|^2 / 2 for distances",
        Numpy,
    ),
    EngineSpec(
        "numpy-direct",
        "np.linalg.norm(X - q, axis=1) <= radius, or X @ q / (|x| |q|) >= tau, in float32, ids alone",
        NumpyDirect,
        metrics=("cosine", "l2"),
    ),
]
