"""What all comparisons share: data, thresholds, contenders, turns, floors and the table of rows."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from math import floor, log10
from typing import Any

import numpy as np
from numba import njit
from rich import box
from rich.console import Console
from rich.table import Table

from halfspace import HalfspaceIndex
from halfspace.cpu._simd import GROUP, TILE, matrix_begin, matrix_dot, matrix_end

try:
    import faiss
except ImportError:
    faiss = None

CENTRES = 2000
PAUSE = 0.1
WARM_UP = 0.05
LONG = 0.5
"""Seconds of a call that needs no warm-up."""

RIVALS = ("NumPy", "FAISS", "Panorama")
COLUMNS = (
    "work (ms per query)",
    "halfspace",
    *RIVALS,
    *(f"{rival} / ours" for rival in RIVALS),
    "floor",
    "ours / floor",
)

Calls = dict[str, Callable[[], object]]
Times = dict[str, list[float]]


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


def common_midpoints(x: np.ndarray, q: np.ndarray, shares: list[float]) -> list[float]:
    """Thresholds, one for all directions, that a share of all pairs reaches, by float32 scores."""
    scores = (q @ x.T).ravel()
    ranks = [scores.size - max(1, round(share * scores.size)) for share in shares]
    scores.partition(sorted({place for rank in ranks for place in (rank - 1, rank)}))
    return [(float(scores[rank - 1]) + float(scores[rank])) / 2 for rank in ranks]


def just_below(tau: float) -> float:
    """Largest float32 below the smallest that is at least tau."""
    t = np.float32(tau)
    if float(t) < tau:
        t = np.nextafter(t, np.float32(np.inf))
    return float(np.nextafter(t, np.float32(-np.inf)))


def index_of(x: np.ndarray, threads: int, **settings: Any) -> HalfspaceIndex:
    """Our index of x, inserted in bulk."""
    index = HalfspaceIndex(x.shape[1], threads=threads, **settings)
    index.insert(x)
    return index


def faiss_flat(x: np.ndarray) -> dict[str, Any]:
    """FAISS's plain index of x by name; none where FAISS is not installed."""
    if faiss is None:
        return {}
    flat = faiss.IndexFlatIP(x.shape[1])
    flat.add(x)
    return {"FAISS": flat}


def faiss_panoramas(x: np.ndarray) -> dict[str, Any]:
    """FAISS's indexes with early exit by name: 8 and 16 levels, plain and rotated to principal axes."""
    if faiss is None:
        return {}
    d = x.shape[1]
    principal = faiss.PCAMatrix(d, d)
    principal.train(x)
    indexes = {}
    for levels in (8, 16):
        rotation = faiss.LinearTransform(d, d, False)  # PCAMatrix itself would subtract the mean
        faiss.copy_array_to_vector(faiss.vector_to_array(principal.A), rotation.A)
        rotation.is_trained = True
        indexes[f"Panorama plain {levels}"] = faiss.IndexFlatIPPanorama(d, levels)
        indexes[f"Panorama rotated {levels}"] = faiss.IndexPreTransform(rotation, faiss.IndexFlatIPPanorama(d, levels))
    for index in indexes.values():
        index.add(x)
    return indexes


def alternate(calls: Calls, rounds: int) -> Times:
    """Seconds of each call, round by round."""
    times: Times = {name: [] for name in calls}
    lengths = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        call()
        lengths[name] = time.perf_counter() - begin
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            begin = time.perf_counter()
            while lengths[name] < LONG and time.perf_counter() - begin < WARM_UP:
                call()
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return times


def median_ratio(times: Times, above: str, below: str) -> float:
    """Median over rounds of one call's time over another's."""
    return statistics.median([a / b for a, b in zip(times[above], times[below], strict=True)])


def bandwidth(threads: int) -> float:
    """Bytes per second that threads read from memory: the best of reductions of a large array.

    NumPy's sum computes longer than it reads where memory is fast; its maximum does not.
    """
    array = np.ones(1 << 26)
    parts = np.array_split(array, threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for reduction in (np.sum, np.max) * 5:
            begin = time.perf_counter()
            list(pool.map(reduction, parts))
            seconds.append(time.perf_counter() - begin)
    return array.nbytes / min(seconds)


@njit(nogil=True)
def _multiply(tile, digits, products, times):
    matrix_begin()
    for _ in range(times):
        matrix_dot(tile.ctypes.data, digits.ctypes.data, digits.shape[1] // TILE, products.ctypes.data)
    matrix_end()


def integer_peak(threads: int) -> float:
    """Multiply-adds of int8 per second of the kernel of batches, on one tile of codes that stays in cache."""
    dim, times = 384, 20_000
    tile, digits = np.zeros((TILE, dim), np.uint8), np.zeros((GROUP, dim), np.int8)
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(10):
            products = [np.empty((GROUP, TILE), np.int32) for _ in range(threads)]
            begin = time.perf_counter()
            list(pool.map(lambda part: _multiply(tile, digits, part, times), products))
            rates.append(threads * times * TILE * GROUP * dim / (time.perf_counter() - begin))
    return max(rates)


def milliseconds(seconds: float) -> str:
    """Three digits of a time."""
    value = seconds * 1e3
    return f"{value:.{max(0, 2 - floor(log10(value)))}f}"


class Report:
    """Rows under a heading."""

    def __init__(self, *columns: str) -> None:
        self.columns = columns
        self.rows: list[tuple[str, ...]] = []

    def add(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(cells)

    def show(self, console: Console, markdown: bool) -> None:
        """Print the rows, where there are any."""
        if not self.rows:
            return
        if markdown:
            for cells in (self.columns, ("---",) * len(self.columns), *self.rows):
                print(f"| {' | '.join(cells)} |")
            return
        table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
        for column in self.columns:
            table.add_column(column, no_wrap=column in (self.columns[0], "Panorama"))
        for cells in self.rows:
            table.add_row(*cells)
        console.print(table)


class Contest:
    """How all are measured, and the rows so far.

    threads : of everyone; rounds : turns of each contender; shrink : divides the numbers of vectors
    """

    def __init__(self, threads: int, rounds: int, shrink: int, console: Console, markdown: bool) -> None:
        self.threads = threads
        self.rounds = rounds
        self.shrink = shrink
        self.console = console
        self.markdown = markdown
        self.report = Report(*COLUMNS)
        if faiss is not None:
            faiss.omp_set_num_threads(threads)

    def size(self, n: int) -> int:
        """Number of vectors to take in place of n."""
        return n // self.shrink

    @cached_property
    def bandwidth(self) -> float:
        """Bytes per second that memory gives."""
        return bandwidth(self.threads)

    @cached_property
    def integer_peak(self) -> float:
        """Multiply-adds of int8 per second."""
        return integer_peak(self.threads)

    def alternate(self, calls: Calls, rounds: int | None = None) -> Times:
        """Seconds of each call, round by round; at most `rounds` of them."""
        return alternate(calls, min(self.rounds, rounds or self.rounds))

    def add(self, work: str, times: Times, queries: int, least: float | None) -> None:
        """Add a row: medians per query, medians of the ratios of each round, and the floor in seconds per query."""
        medians = {name: statistics.median(seconds) / queries for name, seconds in times.items()}
        shown, ratios = [], []
        for rival in RIVALS:
            name = min((name for name in times if name.startswith(rival)), key=medians.__getitem__, default=None)
            shown.append("-" if name is None else milliseconds(medians[name]) + name.removeprefix(rival))
            ratios.append("-" if name is None else f"{median_ratio(times, name, 'halfspace'):.2f}")
        ours = medians["halfspace"]
        floors = ("-", "-") if least is None else (milliseconds(least), f"{ours / least:.2f}")
        self.report.add(work, milliseconds(ours), *shown, *ratios, *floors)

    def show(self) -> None:
        """Print the rows so far, and begin anew."""
        self.report.show(self.console, self.markdown)
        self.report = Report(*COLUMNS)
