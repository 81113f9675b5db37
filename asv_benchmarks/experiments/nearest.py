"""The k best beside other exact engines: medians of alternating turns in one process, and recall in exact arithmetic.

    python -m asv_benchmarks.experiments.nearest --only one batches packaged ties

``one``
    400,000 clustered unit vectors of 384 dimensions, one query at a time.
``batches``
    100,000 of 128 and of 384 dimensions, 1,024 queries at once.
``packaged``
    The attention keys and the sentences in the package, one query at a time.
``ties``
    Small integers, whose products are often equal, and vectors that differ in last bits, whose products round alike.
``gpu``
    1,000,000 of 128 dimensions on a GPU, 64 queries at once, beside a product of matrices and ``topk`` of PyTorch.

An engine is asked for ids and scores. The last columns have the share of the k best that it finds, ties by id, and how
many of its rows are right and in their real order; products are compared as fractions.
"""

import argparse
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asv_benchmarks.benchmarks.common import packaged
from halfspace import HalfspaceIndex
from halfspace.bench import alternate, clustered, median_ratio, pinned
from halfspace.bench.contest import Timing
from halfspace.bench.report import duration
from halfspace.bench.threads import load_faiss

DIRECTIONS = 16
"""Queries that are asked one after the other, and whose answers are compared with exact ones."""
ROWS = 1 << 14
"""Vectors that are widened to float64 at once."""
SCORES = 1 << 24
"""Scores that NumPy and PyTorch hold at once."""
Ask = Callable[[NDArray[np.float32]], Any]
"""What takes queries (m, d) and returns ids (m, k)."""


class Line(NamedTuple):
    """A line of the table."""

    work: str
    label: str
    seconds: float  # for a query, the median
    ratio: float  # to the first line, the median of those of each turn
    recall: float
    right: int  # rows of `asked`
    asked: int


def ours(vectors: NDArray[np.float32], k: int, threads: int) -> Ask:
    """Search with this library."""
    index = HalfspaceIndex(vectors.shape[1], threads=threads)
    index.insert(vectors)
    index.compact()
    return lambda queries: index.search(queries, k).ids.reshape(-1, k)


def of_faiss(vectors: NDArray[np.float32], k: int, threads: int) -> Ask:
    """Search with ``IndexFlatIP``."""
    index = load_faiss().IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda queries: index.search(queries, k)[1]


def of_usearch(vectors: NDArray[np.float32], k: int, threads: int) -> Ask:
    """Search exactly with usearch."""
    from usearch.index import MetricKind, search

    find = partial(search, exact=True, threads=threads)
    return lambda queries: np.atleast_2d(find(vectors, queries, k, MetricKind.IP).keys)


def of_numpy(vectors: NDArray[np.float32], k: int, threads: int) -> Ask:
    """Multiply blocks of queries, and select with ``argpartition``."""

    def best(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        scores = queries @ vectors.T
        ids = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, ids, 1), axis=1, kind="stable")
        return np.take_along_axis(ids, order, 1)

    return lambda queries: np.concatenate([best(part) for part in blocks(queries, len(vectors))])


def of_torch(vectors: NDArray[np.float32], k: int, threads: int) -> Ask:
    """Multiply blocks of queries, and select with ``topk``."""
    import torch

    torch.set_num_threads(threads)
    stored = torch.from_numpy(vectors).T

    def best(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = torch.topk(torch.from_numpy(queries) @ stored, k).indices.numpy()
        return found

    return lambda queries: np.concatenate([best(part) for part in blocks(queries, len(vectors))])


def blocks(queries: NDArray[np.float32], n: int) -> list[NDArray[np.float32]]:
    """Cut queries so that scores take little memory."""
    size = max(1, SCORES // n)
    return [queries[low : low + size] for low in range(0, len(queries), size)]


def exactly(vectors: NDArray[np.float32], query: NDArray[np.float32], k: int) -> list[int]:
    """Find the k best by their products as fractions, ties by id."""
    wide = query.astype(np.float64)
    parts = [vectors[low : low + ROWS].astype(np.float64) for low in range(0, len(vectors), ROWS)]
    scores = np.concatenate([part @ wide for part in parts])
    longest = max(float(np.linalg.norm(part, axis=1).max()) for part in parts)
    slack = 2.0**-50 * len(wide) * longest * float(np.linalg.norm(wide))
    close = np.flatnonzero(scores >= np.partition(scores, -k)[-k] - slack)
    q = [Fraction(number) for number in wide.tolist()]
    real = {row: sum(map(Fraction.__mul__, map(Fraction, vectors[row].tolist()), q)) for row in close.tolist()}
    return sorted(real, key=lambda row: (-real[row], row))[:k]


def race(
    work: str, vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, batch: int, how: argparse.Namespace
) -> Iterator[Line]:
    """Time engines by turns over all queries, so many at once, and compare what they find."""
    makers = {"halfspace": ours, "faiss-flat": of_faiss, "usearch-exact": of_usearch, "numpy": of_numpy}
    makers |= {"torch": of_torch}
    asking = {label: make(vectors, k, how.threads) for label, make in makers.items() if label in how.engines}
    parts = [queries[low : low + batch] for low in range(0, len(queries), batch)]
    calls = {label: lambda ask=ask: [ask(part) for part in parts] for label, ask in asking.items()}
    yield from judged(work, vectors, queries, k, calls, alternate(calls, how.rounds))


def judged(
    work: str,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    calls: dict[str, Callable[[], list[Any]]],
    times: dict[str, Timing],
) -> Iterator[Line]:
    """Compare what engines find with the exact answers to the first queries."""
    truth = [exactly(vectors, query, k) for query in queries[:DIRECTIONS]]
    first = times[next(iter(times))]
    for label, timing in times.items():
        pairs = list(zip(np.concatenate(calls[label]()).tolist(), truth, strict=False))
        recall = float(np.mean([len(set(own) & set(best)) / k for own, best in pairs]))
        right = sum(own == best for own, best in pairs)
        yield Line(work, label, timing.median / len(queries), median_ratio(timing, first), recall, right, len(truth))


def one(how: argparse.Namespace) -> Iterator[Line]:
    """Ask one query at a time among many vectors."""
    n = how.vectors or 400_000
    work = f"n = {n:,}, d = 384, k = 10, one at a time"
    yield from race(work, clustered(n, 384, 1), clustered(DIRECTIONS, 384, 2), 10, 1, how)


def batches(how: argparse.Namespace) -> Iterator[Line]:
    """Ask 1,024 queries at once."""
    n = how.vectors or 100_000
    for d in (128, 384):
        work = f"n = {n:,}, d = {d}, k = 10, 1,024 at once"
        yield from race(work, clustered(n, d, 1), clustered(1024, d, 2), 10, 1024, how)


def of_package(how: argparse.Namespace) -> Iterator[Line]:
    """Ask one query at a time of the data in the package."""
    for name in ("attention keys", "docstrings"):
        vectors, queries = packaged(name)[:2]
        step = max(1, len(queries) // DIRECTIONS)
        own = np.ascontiguousarray(queries[::step][:DIRECTIONS])
        for k in (10, 100):
            work = f"{name}, n = {len(vectors):,}, d = {vectors.shape[1]}, k = {k}, one at a time"
            yield from race(work, np.ascontiguousarray(vectors), own, k, 1, how)


def ties(how: argparse.Namespace) -> Iterator[Line]:
    """Ask one query at a time where float32 cannot tell which are the best."""
    n, rng = how.vectors or 20_000, np.random.default_rng(3)
    small = rng.integers(0, 3, (n + DIRECTIONS, 16)).astype(np.float32)
    yield from race(f"integers 0 to 2, n = {n:,}, d = 16, k = 10", small[DIRECTIONS:], small[:DIRECTIONS], 10, 1, how)
    near = np.repeat(clustered(max(1, n // 20), 128, 1), 20, axis=0)
    near += near * (rng.integers(-1, 2, near.shape) * 2.0**-23).astype(np.float32)
    work = f"20 of each, apart by last bits, n = {len(near):,}, d = 128, k = 10"
    yield from race(work, near, clustered(DIRECTIONS, 128, 2), 10, 1, how)


def on_gpu(how: argparse.Namespace) -> Iterator[Line]:
    """Ask 64 queries at once of an index on a GPU; the host waits for each answer."""
    import torch

    n, k = how.vectors or 1_000_000, 10
    vectors, queries = clustered(n, 128, 1), clustered(64, 128, 2)
    stored, asked = torch.from_numpy(vectors).cuda(), torch.from_numpy(queries).cuda()
    index = HalfspaceIndex(128, device="gpu")
    index.insert(stored)
    index.compact()

    def mine() -> list[Any]:
        return [index.search(asked, k).ids.get().reshape(-1, k)]

    def theirs() -> list[Any]:
        return [torch.topk(asked @ stored.T, k).indices.cpu().numpy()]

    calls: dict[str, Callable[[], list[Any]]] = {"halfspace, GPU": mine, "torch, GPU": theirs}
    work = f"n = {n:,}, d = 128, k = {k}, 64 at once"
    yield from judged(work, vectors, queries, k, calls, alternate(calls, how.rounds))


PARTS = {"one": one, "batches": batches, "packaged": of_package, "ties": ties, "gpu": on_gpu}
ENGINES = ("halfspace", "faiss-flat", "usearch-exact", "numpy", "torch")


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=["one", "batches", "packaged", "ties"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--vectors", type=int, help="fewer, or more, where they are made")
    parser.add_argument("--threads", type=int, default=2, help="of each library")
    parser.add_argument("--rounds", type=int, default=9)
    how = parser.parse_args()
    print("| work | library | a query | over the first | recall | rows in real order |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    with pinned(how.threads):
        for name in how.only:
            for line in PARTS[name](how):
                cells = (
                    f"{duration(line.seconds)} | {line.ratio:.2f} | {line.recall:.4f} | {line.right} of {line.asked}"
                )
                print(f"| {line.work} | {line.label} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
