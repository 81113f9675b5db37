"""What is not a contest: inserts, ties, a stream of vectors, files."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from contest import Contest, clustered, index_of, median_ratio, midpoint

from halfspace import HalfspaceIndex


def inserts(contest: Contest) -> None:
    """Time a bulk insert, and count the memory beyond the vectors."""
    x = clustered(contest.size(500_000), 384, 1)
    HalfspaceIndex(384, threads=contest.threads).insert(x[:2000])
    index = HalfspaceIndex(384, threads=contest.threads)
    begin = time.perf_counter()
    index.insert(x)
    contest.console.print(f"insert in bulk, n = {len(x):,}, d = 384: {time.perf_counter() - begin:.2f} s")
    for rows in (contest.size(100_000), contest.size(1_000_000)):
        x = np.random.default_rng(0).standard_normal((rows, 128), dtype=np.float32)
        for filter in ("balls", "groups"):
            index = HalfspaceIndex(128, filter=filter, threads=contest.threads)
            begin = time.perf_counter()
            index.insert(x)
            contest.console.print(
                f"the same with filter {filter!r}, n = {rows:,}, d = 128: {time.perf_counter() - begin:.2f} s"
            )
    for d in (128, 384):
        stats = index_of(clustered(contest.size(100_000), d, 1), contest.threads).stats()
        beyond = stats["bytes_cells"] + stats["bytes_ids"] + stats["bytes_bounds"]
        contest.console.print(f"memory beyond the float32 vectors, d = {d}: {beyond / stats['bytes_vectors']:.1%}")


def ties(contest: Contest) -> None:
    """Time data that lies on the threshold against data that does not, at the same number of hits."""
    n, d = contest.size(50_000), 128
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
        tied, free = index_of(x, contest.threads), index_of(plain, contest.threads)
        hits = tied.count(direction, tau)
        free_tau = midpoint(plain, q, hits / n) if 0 < hits < n else (-np.inf if hits else np.inf)
        calls = {"free": lambda: free.query(q, free_tau), "tied": lambda: tied.query(direction, tau)}  # noqa: B023
        ratio = median_ratio(contest.alternate(calls), "tied", "free")
        contest.console.print(f"{name} ({hits:,} hits): {ratio:.2f} times the time without ties")


def stream(contest: Contest) -> None:
    """Insert a million vectors one by one, then compare a query with one over a fresh index."""
    n, d = contest.size(1_000_000), 32
    x = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    living = HalfspaceIndex(d, threads=contest.threads)
    begin = last = time.perf_counter()
    marks = []
    for i, row in enumerate(x, 1):
        living.insert(row)
        if i in (n // 4, n // 2, n):
            now = time.perf_counter()
            marks.append(f"{i:,} after {now - begin:.1f} s")
            last = now
    contest.console.print(f"one by one, d = {d}: {', '.join(marks)} ({(last - begin) / n * 1e6:.1f} us each)")
    fresh = index_of(x, contest.threads)
    q = np.random.default_rng(1).standard_normal(d, dtype=np.float32)
    for share in (1e-4, 1e-2):
        tau = midpoint(x, q, share)
        times = contest.alternate(
            {"fresh": lambda t=tau: fresh.query(q, t), "living": lambda t=tau: living.query(q, t)}
        )
        ratio = median_ratio(times, "living", "fresh")
        contest.console.print(
            f"query after it, f = {share:.2%}, {living.stats()['segments']} segments: {ratio:.2f} times a fresh index"
        )


def opening(contest: Contest) -> None:
    """Time to load a large index, read and mapped."""
    index = index_of(clustered(contest.size(500_000), 384, 1), contest.threads)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        begin = time.perf_counter()
        index.save(path)
        contest.console.print(f"save {path.stat().st_size / 1e9:.2f} GB: {time.perf_counter() - begin:.2f} s")
        for mmap in (False, True):
            begin = time.perf_counter()
            HalfspaceIndex.load(path, mmap=mmap)
            contest.console.print(f"load, mmap={mmap}: {(time.perf_counter() - begin) * 1e3:.1f} ms")
