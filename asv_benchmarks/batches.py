"""Many queries at once: against FAISS and blocked NumPy, the multiply-adds of all pairs, and the memory they take."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from contest import Contest, Report, common_midpoints, faiss_flat, faiss_panoramas, index_of, just_below

from halfspace import HalfspaceIndex

SCORES = 64_000_000
"""Bytes of scores that NumPy holds at once."""


def blocked(x: np.ndarray, q: np.ndarray, tau: float) -> list[tuple[np.ndarray, ...]]:
    """Hits (rows of the block, rows of x) of one block of directions after the other, by NumPy.

    `np.nonzero` of two dimensions would give the same, in twice the time.
    """
    step = max(1, SCORES // (4 * len(x)))
    parts = (q[first : first + step] @ x.T for first in range(0, len(q), step))
    return [np.divmod(np.flatnonzero(part >= tau), len(x)) for part in parts]


def compare(
    contest: Contest,
    name: str,
    x: np.ndarray,
    index: HalfspaceIndex,
    rivals: dict[str, Any],
    directions: np.ndarray,
    tau: float,
    rounds: int | None = None,
) -> None:
    """Add a row of a batch with one threshold; the floor is a multiply-add of int8 for each number of each pair."""
    calls = {
        "halfspace": lambda: index.query(directions, tau),
        "NumPy": lambda: blocked(x, directions, tau),
    }
    for rival_name, rival in rivals.items():
        calls[rival_name] = lambda rival=rival: rival.range_search(directions, just_below(tau))
    times = contest.alternate(calls, rounds)
    m, (n, d) = len(directions), x.shape
    share = index.count(directions, tau).sum() / (m * n)
    work = f"{name}, {m:,} x {n:,}, d = {d}, f = {100 * share:.2g}%"
    contest.add(work, times, m, contest.integer_peak and n * d / contest.integer_peak)


def batch(contest: Contest, path: Path) -> None:
    """Compare over sentence embeddings."""
    with np.load(path) as data:
        x, directions = data["vectors"][: contest.size(50_000)], data["directions"]
    index, rivals = index_of(x, contest.threads), faiss_flat(x) | faiss_panoramas(x)
    for tau in (0.4, 0.6, 0.8):
        compare(contest, f"sentences, tau = {tau}", x, index, rivals, directions, tau, 5)


def factors(contest: Contest, path: Path) -> None:
    """Compare over a recommender's factors: more of them, drawn around the file's, and all pairs of the file."""
    with np.load(path) as data:
        items, users = data["items"].astype(np.float32), data["users"].astype(np.float32)
    rng = np.random.default_rng(0)
    x = np.resize(items, (contest.size(1_000_000), items.shape[1]))
    x += 0.05 * items.std() * rng.standard_normal(x.shape, dtype=np.float32)
    directions = users[rng.integers(0, len(users), 4096)]
    directions += 0.1 * users.std() * rng.standard_normal(directions.shape, dtype=np.float32)
    (tau,) = common_midpoints(x[::8], directions[:1024], [1e-4])
    compare(contest, "factors and noise", x, index_of(x, contest.threads), faiss_flat(x), directions, tau, 3)
    x = items[: contest.size(len(items))]
    index, rivals = index_of(x, contest.threads), faiss_flat(x)
    for tau in common_midpoints(x, users, [1e-5, 1e-4, 1e-3]):
        compare(contest, "factors", x, index, rivals, users, tau)


def high_water() -> int:
    """Peak bytes of resident memory of this process since the kernel's mark was reset (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def excess(n: int, d: int, m: int, hits: int, threads: int) -> tuple[float, int, int]:
    """Hits per query of a batch, the bytes of its answer, and the bytes that it took at most beyond them."""
    rng = np.random.default_rng(0)
    index = index_of(rng.standard_normal((n, d), dtype=np.float32), threads)
    directions = rng.standard_normal((m, d), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    tau = NormalDist().inv_cdf(1 - hits / n)
    index.query(directions[:16], tau)
    Path("/proc/self/clear_refs").write_text("5")  # resets the mark to what is resident now
    before = high_water()
    answer = index.query(directions, tau)
    peak = high_water()
    size = sum(part.nbytes for part in (answer.ids, answer.scores, answer.offsets, answer.totals))
    return answer.ids.size / m, size, peak - before - size


def memory(contest: Contest) -> None:
    """Measure, each in a process of its own, what batches take beyond the index and the answer."""
    n, d, m = contest.size(200_000), 64, contest.size(10_000)
    report = Report("memory of a batch, Gaussian", "hits per query", "answer, MB", "beyond, MB")
    for hits in (100, 2000):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found, size, beyond = pool.submit(excess, n, d, m, hits, contest.threads).result()
        report.add(f"m = {m:,}, n = {n:,}, d = {d}", f"{found:,.0f}", f"{size / 1e6:.1f}", f"{beyond / 1e6:.1f}")
    report.show(contest.console, contest.markdown)
