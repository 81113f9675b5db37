"""Time the index against NumPy's line and FAISS, in one process, with the same threads, in alternating runs.

    python asv_benchmarks/ratios.py [--threads 2] [--keys keys.npz] [--only NAME ...]

Prints medians of ratios, so that a noisy machine is noisy for everyone. The contenders take turns: a pause, in which
the threads of the one before fall asleep, a warm-up, then all queries. tau is the float64 midpoint between the k-th
and the (k+1)-th real score, k = f n; directions are not stored vectors. NumPy gets float32 vectors and a float tau;
FAISS, whose comparison is strict, gets the float32 just below the smallest that is at least tau. Queries return ids
and scores, in order of ids. FAISS is left out where it is not installed.

`--keys` names an .npz with float16 `<layer>_keys` (n, d) and `<layer>_queries` (heads, steps, d); by default the
package's own keys.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from halfspace import HalfspaceIndex
from halfspace.datasets import load_keys, load_pydocs

try:
    import faiss
except ImportError:
    faiss = None

CENTRES = 2000
ROUNDS = 9
PAUSE = 0.1
WARM_UP = 0.05


def clustered(n: int, d: int, seed: int) -> np.ndarray:
    """Unit vectors (n, d) around 2,000 Gaussian centres that all seeds share."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, d), dtype=np.float32)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d), dtype=np.float32)
    x *= 0.7
    x += centres[rng.integers(0, CENTRES, n)]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def midpoint(x: np.ndarray, q: np.ndarray, share: float) -> float:
    """Threshold that `share` of all vectors reach."""
    k = max(1, round(share * len(x)))
    scores = np.concatenate([part.astype(np.float64) @ q.astype(np.float64) for part in np.array_split(x, 16)])
    upper, lower = -np.partition(-scores, (k - 1, k))[k - 1 : k + 1]
    return float((upper + lower) / 2)


def just_below(tau: float) -> float:
    """Largest float32 below the smallest that is at least tau."""
    t = np.float32(tau)
    if float(t) < tau:
        t = np.nextafter(t, np.float32(np.inf))
    return float(np.nextafter(t, np.float32(-np.inf)))


def alternate(calls: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each call, round by round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            begin = time.perf_counter()
            while time.perf_counter() - begin < WARM_UP:
                call()
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return times


class Report:
    """Rows of medians and ratios."""

    def __init__(self) -> None:
        self.table = Table("work", "halfspace", "NumPy", "FAISS", "NumPy / ours", "FAISS / ours")

    def add(self, work: str, times: dict[str, list[float]], queries: int) -> None:
        """Add the times of one comparison: medians per query, and the median of the ratios of each round."""
        cells = [work]
        for name in ("halfspace", "numpy", "faiss"):
            cells.append(f"{statistics.median(times[name]) / queries * 1e3:.3f} ms" if name in times else "-")
        for name in ("numpy", "faiss"):
            cells.append(f"{median_ratio(times, name, 'halfspace'):.2f}" if name in times else "-")
        self.table.add_row(*cells)


def queries(
    report: Report, name: str, x: np.ndarray, directions: np.ndarray, shares: list[float], threads: int
) -> None:
    """Compare single queries at several shares of hits."""
    index = HalfspaceIndex(x.shape[1], threads=threads)
    index.insert(x)
    flat = None
    if faiss is not None:
        flat = faiss.IndexFlatIP(x.shape[1])
        flat.add(x)
    for share in shares:
        taus = [midpoint(x, q, share) for q in directions]
        floors = [just_below(tau) for tau in taus]
        pairs = list(zip(directions, taus, floors, strict=True))
        calls: dict[str, Callable[[], object]] = {
            "halfspace": lambda p=pairs: [index.query(q, tau) for q, tau, _ in p],
            "numpy": lambda p=pairs: [np.flatnonzero(x @ q >= tau) for q, tau, _ in p],
        }
        if flat is not None:
            calls["faiss"] = lambda p=pairs: [flat.range_search(q[None], floor) for q, _, floor in p]
        report.add(
            f"one query, {name}, n = {len(x):,}, d = {x.shape[1]}, f = {share:.2%}", alternate(calls), len(pairs)
        )


def low_dimensions(report: Report, console: Console, threads: int) -> None:
    """Compare where groups prune: single queries, counts, the growth with n."""
    rng = np.random.default_rng(0)
    for n, d, share in ((2_000_000, 3, 1e-3), (1_000_000, 8, 1e-4)):
        x, q = rng.standard_normal((n, d), dtype=np.float32), rng.standard_normal((4, d), dtype=np.float32)
        queries(report, "Gaussian", x, q, [share], threads)
        if d == 3:
            index = HalfspaceIndex(d, threads=threads)
            index.insert(x)
            pairs = [(direction, midpoint(x, direction, 0.1)) for direction in q]
            calls: dict[str, Callable[[], object]] = {
                "halfspace": lambda p=pairs, i=index: [i.count(q, tau) for q, tau in p],
                "numpy": lambda p=pairs, x=x: [np.count_nonzero(x @ q >= tau) for q, tau in p],
                "query": lambda p=pairs, i=index: [i.query(q, tau) for q, tau in p],
            }
            times = alternate(calls)
            report.add(f"count, Gaussian, n = {n:,}, d = {d}, f = 10%", times, len(pairs))
            console.print(f"query with scores / count, the same: {median_ratio(times, 'query', 'halfspace'):.1f}")
    calls = {}
    for n in (250_000, 4_000_000):
        x, q = rng.standard_normal((n, 3), dtype=np.float32), rng.standard_normal((8, 3), dtype=np.float32)
        index = HalfspaceIndex(3, threads=threads)
        index.insert(x)
        pairs = [(direction, midpoint(x, direction, 1000 / n)) for direction in q]
        calls[f"{n}"] = lambda p=pairs, i=index: [i.query(q, tau) for q, tau in p]
    ratio = median_ratio(alternate(calls), "4000000", "250000")
    console.print(f"one query with 1,000 hits, d = 3: n = 4,000,000 takes {ratio:.2f} times as long as n = 250,000")
    docs = load_pydocs()
    calls = {}
    for filter in ("cells", "groups", "auto"):
        index = HalfspaceIndex(384, filter=filter, threads=threads)
        index.insert(docs.vectors)
        calls[filter] = lambda i=index: [i.query(q, 0.5) for q in docs.query_vectors]
    times = alternate(calls)
    for filter in ("groups", "auto"):
        ratio = median_ratio(times, filter, "cells")
        console.print(f"sentence embeddings, tau = 0.5: filter {filter!r} takes {ratio:.2f} times as long as 'cells'")


def median_ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """Median over rounds of one call's time over another's."""
    return statistics.median([a / b for a, b in zip(times[above], times[below], strict=True)])


def inserts(console: Console, threads: int) -> None:
    """Time a bulk insert, and count the memory beyond the vectors."""
    x = clustered(500_000, 384, 1)
    HalfspaceIndex(384, threads=threads).insert(x[:2000])
    index = HalfspaceIndex(384, threads=threads)
    begin = time.perf_counter()
    index.insert(x)
    console.print(f"insert in bulk, n = 500,000, d = 384: {time.perf_counter() - begin:.2f} s")
    for rows in (100_000, 1_000_000):
        x = np.random.default_rng(0).standard_normal((rows, 128), dtype=np.float32)
        for filter in ("balls", "groups"):
            index = HalfspaceIndex(128, filter=filter, threads=threads)
            begin = time.perf_counter()
            index.insert(x)
            console.print(
                f"the same with filter {filter!r}, n = {rows:,}, d = 128: {time.perf_counter() - begin:.2f} s"
            )
    for d in (128, 384):
        index = HalfspaceIndex(d, threads=threads)
        index.insert(clustered(100_000, d, 1))
        stats = index.stats()
        beyond = stats["bytes_cells"] + stats["bytes_ids"] + stats["bytes_bounds"]
        console.print(f"memory beyond the float32 vectors, d = {d}: {beyond / stats['bytes_vectors']:.1%}")


def ties(console: Console, threads: int) -> None:
    """Time data that lies on the threshold against data that does not, at the same number of hits."""
    n, d = 50_000, 128
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((n, d), dtype=np.float32)
    q = rng.standard_normal(d, dtype=np.float32)
    integer, q_integer = rng.integers(-3, 4, (n, d)).astype(np.float32), rng.integers(-3, 4, d).astype(np.float32)
    one_hot = np.eye(d, dtype=np.float32)[rng.integers(0, d, n)]
    same = np.repeat(plain[:1], n, axis=0)
    exact = float(plain[0].astype(np.float64) @ q.astype(np.float64))
    cases = {
        "all on the boundary, integers": (np.repeat(integer[:1], n, axis=0), q_integer, float(integer[0] @ q_integer)),
        "all on the boundary, one-hot": (one_hot, np.ones(d, np.float32), 1.0),
        "all the same vector, tau its score": (same, q, exact),
        "integers, tau a frequent score": (integer, q_integer, 0.0),
    }
    for name, (x, direction, tau) in cases.items():
        tied, free = HalfspaceIndex(d, threads=threads), HalfspaceIndex(d, threads=threads)
        tied.insert(x)
        free.insert(plain)
        hits = tied.count(direction, tau)
        free_tau = midpoint(plain, q, hits / n) if 0 < hits < n else (-np.inf if hits else np.inf)
        calls = {"free": lambda: free.query(q, free_tau), "tied": lambda: tied.query(direction, tau)}  # noqa: B023
        ratio = median_ratio(alternate(calls), "tied", "free")
        console.print(f"{name} ({hits:,} hits): {ratio:.2f} times the time without ties")


def stream(console: Console, threads: int) -> None:
    """Insert a million vectors one by one, then compare a query with one over a fresh index."""
    n, d = 1_000_000, 32
    x = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    living = HalfspaceIndex(d, threads=threads)
    begin = last = time.perf_counter()
    marks = []
    for i, row in enumerate(x, 1):
        living.insert(row)
        if i in (n // 4, n // 2, n):
            now = time.perf_counter()
            marks.append(f"{i:,} after {now - begin:.1f} s")
            last = now
    console.print(f"one by one, d = {d}: {', '.join(marks)} ({(last - begin) / n * 1e6:.1f} us each)")
    fresh = HalfspaceIndex(d, threads=threads)
    fresh.insert(x)
    q = np.random.default_rng(1).standard_normal(d, dtype=np.float32)
    for share in (1e-4, 1e-2):
        tau = midpoint(x, q, share)
        times = alternate({"fresh": lambda t=tau: fresh.query(q, t), "living": lambda t=tau: living.query(q, t)})
        ratio = median_ratio(times, "living", "fresh")
        console.print(
            f"query after it, f = {share:.2%}, {living.stats()['segments']} segments: {ratio:.2f} times a fresh index"
        )


def opening(console: Console) -> None:
    """Time to load a large index, read and mapped."""
    index = HalfspaceIndex(384)
    index.insert(clustered(500_000, 384, 1))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        begin = time.perf_counter()
        index.save(path)
        console.print(f"save {path.stat().st_size / 1e9:.2f} GB: {time.perf_counter() - begin:.2f} s")
        for mmap in (False, True):
            begin = time.perf_counter()
            HalfspaceIndex.load(path, mmap=mmap)
            console.print(f"load, mmap={mmap}: {(time.perf_counter() - begin) * 1e3:.1f} ms")


def main() -> None:
    """Run what was asked for."""
    work = ("clustered", "keys", "small", "low", "inserts", "ties", "stream", "opening")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--only", nargs="+", choices=work, default=work)
    options = parser.parse_args()
    console = Console(width=140)
    report = Report()
    if faiss is not None:
        faiss.omp_set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        if "clustered" in options.only:
            x, directions = clustered(200_000, 384, 1), clustered(8, 384, 2)
            queries(report, "clustered unit vectors", x, directions, [1e-4, 1e-3, 1e-2], options.threads)
        if "keys" in options.only:
            for name, x, directions in attention_keys(options.keys):
                queries(report, name, x, directions, [1e-3, 1e-2], options.threads)
        if "small" in options.only:
            rng = np.random.default_rng(0)
            for n, d in ((100, 8), (1000, 128), (1000, 768), (2000, 768)):
                x, directions = (
                    rng.standard_normal((n, d), dtype=np.float32),
                    rng.standard_normal((50, d), dtype=np.float32),
                )
                queries(report, "Gaussian", x, directions, [1e-2], options.threads)
        if "low" in options.only:
            low_dimensions(report, console, options.threads)
        if report.table.rows:
            console.print(report.table)
        for name, measure in (("inserts", inserts), ("ties", ties), ("stream", stream)):
            if name in options.only:
                measure(console, options.threads)
        if "opening" in options.only:
            opening(console)


def attention_keys(path: Path | None) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Keys (n, d) and some directions, by layer."""
    if path is None:
        data = load_keys()
        return [
            ("attention keys", data.keys.astype(np.float32), data.queries.reshape(-1, 128)[::32].astype(np.float32))
        ]
    data = np.load(path)
    layers = [name.removesuffix("_keys") for name in data.files if name.endswith("_keys")]
    return [
        (
            f"attention keys, {layer}",
            np.ascontiguousarray(data[f"{layer}_keys"], np.float32),
            data[f"{layer}_queries"].reshape(-1, data[f"{layer}_keys"].shape[1])[::32].astype(np.float32),
        )
        for layer in layers
    ]


if __name__ == "__main__":
    main()
