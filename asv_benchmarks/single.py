"""One query at a time: against NumPy's line, FAISS and its early exit, and the bytes that must be read."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from contest import (
    Contest,
    Report,
    clustered,
    faiss_flat,
    faiss_panoramas,
    index_of,
    just_below,
    median_ratio,
    midpoint,
)

from halfspace import HalfspaceIndex
from halfspace.datasets import load_keys, load_pydocs


def compare(
    contest: Contest,
    work: str,
    x: np.ndarray,
    index: HalfspaceIndex,
    rivals: dict[str, Any],
    directions: np.ndarray,
    taus: list[float],
) -> None:
    """Add a row of queries with a threshold each; the floor is reading the bytes that `explain` counts."""
    asked = list(zip(directions, taus, map(just_below, taus), strict=True))
    calls = {
        "halfspace": lambda: [index.query(q, tau) for q, tau, _ in asked],
        "NumPy": lambda: [np.flatnonzero(x @ q >= tau) for q, tau, _ in asked],
    }
    for name, rival in rivals.items():
        calls[name] = lambda rival=rival: [rival.range_search(q[None], floor) for q, _, floor in asked]
    times = contest.alternate(calls)
    read = statistics.fmean(sum(stage.bytes_read for stage in index.explain(q, tau).stages) for q, tau, _ in asked)
    contest.add(work, times, len(asked), read / contest.bandwidth)


def compare_shares(contest: Contest, name: str, x: np.ndarray, directions: np.ndarray, shares: list[float]) -> None:
    """Add a row for each share of hits, which every direction has."""
    index, rivals = index_of(x, contest.threads), faiss_flat(x)
    for share in shares:
        work = f"{name}, n = {len(x):,}, d = {x.shape[1]}, f = {share:.2%}"
        compare(contest, work, x, index, rivals, directions, [midpoint(x, q, share) for q in directions])


def clustered_vectors(contest: Contest) -> None:
    """Compare where codes do not fit the caches."""
    x, directions = clustered(contest.size(400_000), 384, 1), clustered(8, 384, 2)
    compare_shares(contest, "clustered unit vectors", x, directions, [1e-4, 1e-3, 1e-2])


def sentences(contest: Contest, path: Path) -> None:
    """Compare over sentence embeddings at thresholds that a user would choose."""
    with np.load(path) as data:
        x, directions = data["vectors"][: contest.size(50_000)], data["directions"][::32]
    index, rivals = index_of(x, contest.threads), faiss_flat(x) | faiss_panoramas(x)
    for tau in (0.4, 0.6, 0.8):
        hits = index.count(directions, tau).mean()
        work = f"sentences, n = {len(x):,}, d = {x.shape[1]}, tau = {tau} ({hits:.4g} hits)"
        compare(contest, work, x, index, rivals, directions, [tau] * len(directions))


def keys(contest: Contest, path: Path | None) -> None:
    """Compare over attention keys: the package's own, or each layer of a file."""
    if path is None:
        data = load_keys()
        layers = {"attention keys": (data.keys, data.queries)}
    else:
        with np.load(path) as data:
            names = [name.removesuffix("_keys") for name in data.files if name.endswith("_keys")]
            layers = {f"attention keys, {name}": (data[f"{name}_keys"], data[f"{name}_queries"]) for name in names}
    for name, (vectors, queries) in layers.items():
        directions = queries.reshape(-1, vectors.shape[1])[::32].astype(np.float32)
        compare_shares(contest, name, vectors.astype(np.float32), directions, [1e-3, 1e-2])


def small(contest: Contest) -> None:
    """Compare where the fixed cost of a call counts, with NumPy alone: in microseconds, f = 1 %."""
    report = Report("one query, Gaussian", "halfspace, us", "NumPy, us", "ours - NumPy, us")
    rng = np.random.default_rng(0)
    for n in (100, 300, 1000, 2000):
        for d in (8, 32, 128, 384, 768):
            x, directions = (rng.standard_normal((rows, d), dtype=np.float32) for rows in (n, 50))
            index = index_of(x, contest.threads)
            asked = [(q, midpoint(x, q, 1e-2)) for q in directions]
            calls = {
                "ours": lambda asked=asked, index=index: [index.query(q, tau) for q, tau in asked],
                "NumPy": lambda asked=asked, x=x: [np.flatnonzero(x @ q >= tau) for q, tau in asked],
            }
            times = {name: np.array(seconds) * 1e6 / len(asked) for name, seconds in contest.alternate(calls).items()}
            cells = (times["ours"], times["NumPy"], times["ours"] - times["NumPy"])
            report.add(f"n = {n:,}, d = {d}", *(f"{np.median(values):.1f}" for values in cells))
    report.show(contest.console, contest.markdown)


def low_dimensions(contest: Contest) -> None:
    """Compare where groups prune: single queries, counts, the growth with n."""
    rng = np.random.default_rng(0)
    for n, d, share in ((contest.size(2_000_000), 3, 1e-3), (contest.size(1_000_000), 8, 1e-4)):
        x, q = rng.standard_normal((n, d), dtype=np.float32), rng.standard_normal((4, d), dtype=np.float32)
        compare_shares(contest, "Gaussian", x, q, [share])
        if d == 3:
            index = index_of(x, contest.threads)
            pairs = [(direction, midpoint(x, direction, 0.1)) for direction in q]
            calls = {
                "halfspace": lambda p=pairs, i=index: [i.count(q, tau) for q, tau in p],
                "NumPy": lambda p=pairs, x=x: [np.count_nonzero(x @ q >= tau) for q, tau in p],
                "query": lambda p=pairs, i=index: [i.query(q, tau) for q, tau in p],
            }
            times = contest.alternate(calls)
            contest.add(f"count, Gaussian, n = {n:,}, d = {d}, f = 10%", times, len(pairs), None)
            contest.console.print(
                f"query with scores / count, the same: {median_ratio(times, 'query', 'halfspace'):.1f}"
            )
    calls = {}
    sizes = contest.size(250_000), contest.size(4_000_000)
    for n in sizes:
        x, q = rng.standard_normal((n, 3), dtype=np.float32), rng.standard_normal((8, 3), dtype=np.float32)
        index = index_of(x, contest.threads)
        pairs = [(direction, midpoint(x, direction, 1000 / n)) for direction in q]
        calls[f"{n:,}"] = lambda p=pairs, i=index: [i.query(q, tau) for q, tau in p]
    few, many = calls
    ratio = median_ratio(contest.alternate(calls), many, few)
    contest.console.print(f"one query with 1,000 hits, d = 3: n = {many} takes {ratio:.2f} times as long as n = {few}")
    docs = load_pydocs()
    calls = {}
    for filter in ("cells", "groups", "auto"):
        index = index_of(docs.vectors, contest.threads, filter=filter)
        calls[filter] = lambda i=index: [i.query(q, 0.5) for q in docs.query_vectors]
    times = contest.alternate(calls)
    for filter in ("groups", "auto"):
        ratio = median_ratio(times, filter, "cells")
        contest.console.print(f"docstrings, tau = 0.5: filter {filter!r} takes {ratio:.2f} times as long as 'cells'")
