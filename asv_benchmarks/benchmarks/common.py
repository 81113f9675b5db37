"""What all topics share: how much is measured, data in the folder of `setup_cache`, engines that samples share.

asv forks a process for each combination of parameters, and calls `setup` before every sample. So what takes time is
made once in a process, behind `functools.cache`. NumPy and all that has threads is imported where it is used, not at
the top of a file, which would be before the fork.
"""

import contextlib
import functools
import itertools
import os
from typing import Any, NamedTuple, TypeVar

SMALL = bool(os.environ.get("HALFSPACE_BENCH_SMALL"))
THREADS = int(os.environ.get("HALFSPACE_BENCH_THREADS", "2"))
QUERIES = 8
"""Directions that are asked one after the other."""
T = TypeVar("T")


def grid(full: T, small: T) -> T:
    """Choose what is measured, or what shows that it runs."""
    return small if SMALL else full


EXACT = grid(
    ["halfspace", "halfspace-cells", "faiss-flat", "faiss-panorama", "usearch-exact", "numpy"],
    ["halfspace", "faiss-flat", "numpy"],
)
APPROXIMATE = grid(["faiss-ivf", "faiss-hnsw", "faiss-ivfpq", "faiss-lsh"], ["faiss-hnsw"])


class Timed:
    """How long a `time_` benchmark goes on: up to 60 calls or 0.6 s after the warm-up, at least 5 calls."""

    timeout = 300
    number = 1
    rounds = 1
    repeat = (5, 60, 0.6)
    warmup_time = 0.2


class Data(NamedTuple):
    """Vectors, directions, and the thresholds that shares of the vectors reach."""

    vectors: Any  # float32 (n, d)
    directions: Any  # float32 (m, d)
    taus: dict[float, Any]  # float64 (m,)


def write(kind: str, n: int, d: int, shares: list[float], queries: int = QUERIES) -> None:
    """Make vectors and directions of a kind, and thresholds, and keep them in the folder."""
    import numpy as np

    from halfspace.bench import generate, midpoints

    make = getattr(generate, kind)
    vectors, directions = make(n, d, 1), make(queries, d, 2)
    np.save(f"{kind}-{n}-{d}", vectors)
    np.savez(
        f"{kind}-{n}-{d}",
        directions=directions,
        shares=shares,
        taus=[midpoints(vectors, directions, share) for share in shares],
    )


@functools.cache
def read(kind: str, n: int, d: int) -> Data:
    """Read what `write` wrote."""
    import numpy as np

    with np.load(f"{kind}-{n}-{d}.npz") as rest:
        taus = dict(zip(rest["shares"].tolist(), rest["taus"], strict=True))
        return Data(np.load(f"{kind}-{n}-{d}.npy"), rest["directions"], taus)


def must_suit(name: str, n: int, d: int) -> None:
    """Leave a combination out whose engine cannot run here, or does not suit so many vectors and dimensions."""
    from halfspace.bench import ENGINES

    reason = ENGINES[name].available() or ENGINES[name].why_not(n, d)
    if reason:
        raise NotImplementedError(reason)


def build(name: str, vectors: Any, **setting: Any) -> Any:
    """Build an engine that suits."""
    from halfspace import bench

    must_suit(name, *vectors.shape)
    return bench.build(name, vectors, threads=THREADS, **setting)


@functools.cache
def engine(name: str, kind: str, n: int, d: int, share: float) -> Any:
    """Build an engine over data in the folder, once in a process, whose threads are pinned from then on."""
    from halfspace.bench import pinned

    must_suit(name, n, d)
    found = build(name, read(kind, n, d).vectors)
    found.expected_hits = max(1, round(share * n))
    PINNED.enter_context(pinned(THREADS))
    return found


PINNED = contextlib.ExitStack()
"""Holds the number of threads of a process for good."""


@functools.cache
def queries(name: str, kind: str, n: int, d: int, share: float) -> Any:
    """Single queries of an engine without end: calls without arguments."""
    data = read(kind, n, d)
    asked = engine(name, kind, n, d, share)
    pairs = zip(data.directions, data.taus[share].tolist(), strict=True)
    return itertools.cycle([asked.prepare(direction[None], tau) for direction, tau in pairs])


def contest(engines: list[Any], vectors: Any, directions: Any, share: float) -> dict[str, Any]:
    """Compare engines, one query at a time, by alternating turns: rows by label."""
    from halfspace.bench import compare, exact_hits, midpoints

    taus = midpoints(vectors, directions, share)
    truth = exact_hits(vectors, directions, taus)
    rows = compare(engines, directions, taus, truth, threads=THREADS, rounds=grid(7, 1))
    return {row.label: row for row in rows}


def runnable(names: list[str], vectors: Any) -> list[Any]:
    """Build the engines that can run here."""
    found = []
    for name in names:
        with contextlib.suppress(NotImplementedError):
            found.append(build(name, vectors))
    return found


def packaged(name: str) -> tuple[Any, Any]:
    """Vectors and directions that come with the package, float32."""
    import numpy as np

    from halfspace.datasets import load_keys, load_pydocs

    if name == "docstrings":
        docs = load_pydocs()
        return docs.vectors.astype(np.float32), docs.query_vectors[:: grid(1, 8)].astype(np.float32)
    keys = load_keys()
    queries = keys.queries[:, :: grid(4, 16)].reshape(-1, keys.keys.shape[1])
    return keys.keys.astype(np.float32), queries.astype(np.float32)
