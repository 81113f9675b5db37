"""FAISS: brute force, early exit, and its approximate indexes, each through its range search where it has one.

FAISS compares strictly, in float32: `strictly_above` gives it the number just below the smallest float32 that is at
least tau. A range search takes one radius, of squared distances. For cosines, vectors are brought to length 1. Of a
single direction, the inverted files share their lists among threads.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.bench.engines.forms import normalised
from halfspace.bench.engines.spec import Engine, EngineSpec, How, Rows, rows_of_each
from halfspace.bench.threads import load_faiss

__all__ = ["SPECS", "radius_of", "strictly_above"]

_LINKS, _EF_CONSTRUCTION = 32, 128
_POINTS_PER_CENTROID = 39
_CODEBOOK, _POINTS_PER_CODE, _ITERATIONS = 256, 16, 10


def strictly_above(tau: float) -> float:
    """Return the number t so that a float32 is > t exactly if it is >= tau."""
    with np.errstate(over="ignore"):
        least = np.float32(tau)
        if float(least) < tau:
            least = np.nextafter(least, np.float32(np.inf))
        return float(np.nextafter(least, np.float32(-np.inf)))


def radius_of(tau: float, metric: str) -> float:
    """Return what a range search takes: a float32 score or squared distance is beyond it exactly if it reaches tau."""
    if metric != "l2":
        return strictly_above(tau)
    return -strictly_above(-tau * tau) if tau >= 0 else 0.0


class _Faiss(Engine):
    """An index of FAISS."""

    many_taus = False

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        super().__init__(vectors, how)
        own = normalised(vectors, how.metric)
        self.index = self.made(load_faiss(), own)
        self.index.add(own)

    def made(self, faiss: Any, vectors: NDArray[np.float32]) -> Any:
        """Return the index, trained and empty."""
        raise NotImplementedError

    def flat(self, faiss: Any, d: int) -> Any:
        """Return an empty index of brute force."""
        return faiss.IndexFlatL2(d) if self.metric == "l2" else faiss.IndexFlatIP(d)

    def kind(self, faiss: Any) -> Any:
        """Return the metric as FAISS numbers it."""
        return faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT

    def parameters(self, faiss: Any) -> Any:
        """Return the setting as FAISS takes it with a query."""
        return None

    @property
    def nbytes(self) -> int:
        """Count what the index would write to a file."""
        faiss, size = load_faiss(), 0

        def write(part: bytes) -> int:
            nonlocal size
            size += len(part)
            return len(part)

        writer = faiss.PyCallbackIOWriter(write, 1 << 20)
        faiss.write_index(self.index, writer)
        del writer  # it holds the last part until it goes
        return size

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        asked, radius = normalised(directions, self.metric), radius_of(float(taus[0]), self.metric)
        parameters = self.parameters(load_faiss())
        return lambda: self.index.range_search(asked, radius, params=parameters)

    def found(self, answer: Any) -> Rows:
        offsets, _, ids = answer
        return offsets.astype(np.int64), ids


class Flat(_Faiss):
    """``IndexFlatIP``, or ``IndexFlatL2``: brute force."""

    def made(self, faiss: Any, vectors: NDArray[np.float32]) -> Any:
        return self.flat(faiss, vectors.shape[1])


class Panorama(_Faiss):
    """``IndexFlatIPPanorama``, or the same of L2: brute force that stops early, on the given or the principal axes.

    Its bounds, and the rotation, round in float32 without slack: it can miss what is on the boundary and `Flat` finds.
    """

    def made(self, faiss: Any, vectors: NDArray[np.float32]) -> Any:
        d = vectors.shape[1]
        make = faiss.IndexFlatL2Panorama if self.metric == "l2" else faiss.IndexFlatIPPanorama
        flat = make(d, self.setting["levels"])
        if self.setting["axes"] == "given":
            return flat
        principal = faiss.PCAMatrix(d, d)
        principal.train(vectors)
        rotation = faiss.LinearTransform(d, d, False)  # PCAMatrix itself would subtract the mean
        faiss.copy_array_to_vector(faiss.vector_to_array(principal.A), rotation.A)
        rotation.is_trained = True
        index = faiss.IndexPreTransform(rotation, flat)
        self.parts = rotation, flat  # the index does not own them
        return index


class InvertedFile(_Faiss):
    """``IndexIVFFlat``: the vectors of the `nprobe` cells whose centres are nearest."""

    def made(self, faiss: Any, vectors: NDArray[np.float32]) -> Any:
        n, d = vectors.shape
        lists = max(1, min(4 * isqrt(n), n // _POINTS_PER_CENTROID))
        self.centres = self.flat(faiss, d)  # the index does not own it
        index = self.of(faiss, d, lists)
        index.cp.min_points_per_centroid = 1  # so that few vectors bring no warning
        index.train(vectors)
        return index

    def of(self, faiss: Any, d: int, lists: int) -> Any:
        """Return the index, untrained."""
        return faiss.IndexIVFFlat(self.centres, d, lists, self.kind(faiss))

    def parameters(self, faiss: Any) -> Any:
        return faiss.SearchParametersIVF(nprobe=self.setting["nprobe"])

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        call, mode = super().ask(directions, taus), 1 if len(directions) == 1 else 0

        def asked() -> Any:
            self.index.parallel_mode = mode
            return call()

        return asked


class ProductQuantizer(InvertedFile):
    """``IndexIVFPQ``: codes of 8 bits for runs of 8 dimensions, or of fewer that divide d, in place of vectors."""

    def of(self, faiss: Any, d: int, lists: int) -> Any:
        run = next(run for run in range(8, 0, -1) if d % run == 0)
        index = faiss.IndexIVFPQ(self.centres, d, lists, d // run, 8, self.kind(faiss))
        index.pq.cp.min_points_per_centroid = 1
        index.pq.cp.max_points_per_centroid = _POINTS_PER_CODE  # training would else take minutes
        index.pq.cp.niter = _ITERATIONS
        return index


class Graph(_Faiss):
    """``IndexHNSWFlat``: a graph of neighbours, searched with a list of `efSearch` candidates."""

    def made(self, faiss: Any, vectors: NDArray[np.float32]) -> Any:
        index = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, self.kind(faiss))
        index.hnsw.efConstruction = _EF_CONSTRUCTION
        return index

    def parameters(self, faiss: Any) -> Any:
        return faiss.SearchParametersHNSW(efSearch=self.setting["efSearch"])


class Hashes(_Faiss):
    """``IndexLSH``: the nearest by signs of random projections, then their float32 scores.

    It has no range search: `factor` times as many candidates as the greatest number of hits are ranked.
    """

    many_taus = True

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        super().__init__(vectors, how)
        self.vectors = normalised(vectors, how.metric)

    def made(self, faiss: Any, vectors: NDArray[np.float32]) -> Any:
        d = vectors.shape[1]
        index = faiss.IndexLSH(d, max(64, 2 * d))
        index.train(vectors)
        return index

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.vectors.nbytes

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        k = max(1, min(len(self.vectors), self.setting["factor"] * self.expected_hits))
        asked, limits = normalised(directions, self.metric), taus.tolist()

        def ranked() -> list[NDArray[np.int64]]:
            _, candidates = self.index.search(asked, k)
            return [
                ids[self.vectors[ids] @ direction >= tau]
                for ids, direction, tau in zip(candidates, asked, limits, strict=True)
            ]

        return ranked

    def found(self, answer: Any) -> Rows:
        return rows_of_each(answer)


def _spec(name: str, make: type[_Faiss], about: str, **more: Any) -> EngineSpec:
    return EngineSpec(name, about, make, needs={"faiss": "faiss-cpu"}, **more)


_NPROBE = tuple({"nprobe": nprobe} for nprobe in (1, 4, 16, 64, 256))
_STRICT = "range_search beyond the float32 next to tau, or to the square of the radius"

SPECS = [
    _spec("faiss-flat", Flat, f"IndexFlatIP or IndexFlatL2, {_STRICT}"),
    _spec(
        "faiss-panorama",
        Panorama,
        f"IndexFlatIPPanorama or of L2, given or principal axes, 8 or 16 levels, bounds without slack, {_STRICT}",
        curve=tuple({"axes": axes, "levels": levels} for axes in ("given", "principal") for levels in (8, 16)),
        at_build=frozenset({"axes", "levels"}),
        least_dim=16,
    ),
    _spec(
        "faiss-ivf",
        InvertedFile,
        f"IndexIVFFlat, 4 sqrt(n) lists of at least {_POINTS_PER_CENTROID} vectors, {_STRICT}",
        exact=False,
        curve=_NPROBE,
    ),
    _spec(
        "faiss-hnsw",
        Graph,
        f"IndexHNSWFlat, M = {_LINKS}, efConstruction = {_EF_CONSTRUCTION}, {_STRICT}",
        exact=False,
        curve=tuple({"efSearch": ef} for ef in (16, 64, 256, 1024)),
    ),
    _spec(
        "faiss-ivfpq",
        ProductQuantizer,
        f"IndexIVFPQ, 8 bits for 8 dimensions, approximate scores, {_STRICT}",
        exact=False,
        curve=_NPROBE,
        least_rows=_CODEBOOK,
    ),
    _spec(
        "faiss-lsh",
        Hashes,
        "IndexLSH, 2 d bits, no range search: ranks factor times the true greatest number of hits, then float32 scores",
        exact=False,
        metrics=("ip", "cosine"),
        curve=tuple({"factor": factor} for factor in (2, 8, 32)),
    ),
]
