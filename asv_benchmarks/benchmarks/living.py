"""An index that lives: inserts in bulk and one by one, queries after them, files, and the first query of a process."""

import functools
import itertools
from pathlib import Path
from typing import Any

from .common import PINNED, THREADS, Timed, grid

BULK, ONE_BY_ONE = grid((500_000, 384), (5_000, 32)), grid((250_000, 32), (2_000, 8))


class Insert:
    """Vectors inserted one by one, beside all at once."""

    timeout = 300
    number = rounds = 1
    repeat = 3
    warmup_time = 0
    params = (["one by one", "at once"],)
    param_names = ("how",)

    def setup(self, how: str) -> None:
        self.index, self.rows = new(ONE_BY_ONE[1]), rows(grid(10_000, 1_000), ONE_BY_ONE[1])

    def time_insert(self, how: str) -> None:
        if how == "at once":
            self.index.insert(self.rows)
        else:
            for row in self.rows:
                self.index.insert(row)


class AfterInserts:
    """A query over an index that grew vector by vector, beside one over a fresh index of the same vectors."""

    timeout = 300
    params = (grid([1e-4, 1e-2], [1e-2]),)
    param_names = ("share",)
    unit = "fresh = 1"

    def setup_cache(self) -> dict[float, float]:
        from halfspace.bench import midpoints

        x, directions = rows(*ONE_BY_ONE), rows(1, ONE_BY_ONE[1], 1)
        living, fresh = new(x.shape[1]), new(x.shape[1])
        for row in x:
            living.insert(row)
        fresh.insert(x)
        found = {}
        for share in self.params[0]:
            tau = midpoints(x, directions, share)
            calls = {
                "living": lambda tau=tau: living.query(directions, tau),
                "fresh": lambda tau=tau: fresh.query(directions, tau),
            }
            found[share] = ratio(calls, "living", "fresh")
        return found

    def track_ratio(self, found: dict[float, float], share: float) -> float:
        return found[share]


class Ties:
    """Vectors on the threshold, beside vectors that are not, with as many hits."""

    timeout = 120
    params = (["integers", "one-hot", "one vector, many times", "integers, frequent score"],)
    param_names = ("ties",)
    unit = "without ties = 1"

    def setup_cache(self) -> dict[str, float]:
        import numpy as np

        from halfspace.bench import midpoints

        n, d = grid((50_000, 128), (2_000, 16))
        rng = np.random.default_rng(0)
        plain, q = rows(n, d), rows(1, d, 1)[0]
        integers, whole = rng.integers(-3, 4, (n, d)).astype(np.float32), rng.integers(-3, 4, d).astype(np.float32)
        same, score = np.repeat(plain[:1], n, axis=0), float(plain[0].astype(np.float64) @ q.astype(np.float64))
        one_hot, ones = np.eye(d, dtype=np.float32)[rng.integers(0, d, n)], np.ones(d, np.float32)
        cases = (
            (np.repeat(integers[:1], n, axis=0), whole, float(integers[0] @ whole)),
            (one_hot, ones, 1.0),
            (same, q, score),
            (integers, whole, 0.0),
        )
        free = new(d)
        free.insert(plain)
        found = {}
        for name, (x, direction, tau) in zip(self.params[0], cases, strict=True):
            tied = new(d)
            tied.insert(x)
            while (hits := tied.count(direction, tau)) == 0:  # a score that was rounded up is reached by none
                tau = float(np.nextafter(tau, -np.inf))
            between = midpoints(plain, q[None], hits / n)[0] if hits < n else -np.inf
            calls = {
                "tied": lambda i=tied, q=direction, tau=tau: i.query(q, tau),
                "free": lambda tau=between: free.query(q, tau),
            }
            found[name] = ratio(calls, "tied", "free")
        return found

    def track_ratio(self, found: dict[str, float], ties: str) -> float:
        return found[ties]


class File:
    """An index saved, loaded with all checksums verified, and mapped."""

    timeout = 300
    number = rounds = 1
    repeat = 3
    warmup_time = 0

    def setup_cache(self) -> str:
        from halfspace.bench import clustered

        index = new(BULK[1])
        index.insert(clustered(*BULK, 1))
        index.save("index")
        return str(Path("index").absolute())

    def setup(self, path: str) -> None:
        self.index = mapped(path)

    def time_save(self, path: str) -> None:
        self.index.save(path + ".again")

    def time_load(self, path: str) -> None:
        load(path, mmap=False)

    def time_map(self, path: str) -> None:
        load(path, mmap=True)

    def track_bytes_per_vector_byte(self, path: str) -> float:
        return Path(path).stat().st_size / (4 * len(self.index) * self.index.dim)


class Process:
    """A new process."""

    timeout = 120

    def timeraw_import(self) -> str:
        return "import halfspace"

    def timeraw_first_query(self) -> str:
        return f"""
        import numpy as np
        from halfspace import HalfspaceIndex
        index = HalfspaceIndex(64, threads={THREADS})
        index.insert(np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32))
        index.query(np.ones(64, np.float32), 10.0)
        """


class Small(Timed):
    """The fixed cost of a call: few vectors, one question at a time; a hundredth of them are hits."""

    params = (grid([100, 300, 1000, 3000], [100]), grid([8, 128, 768], [8]), ["halfspace", "numpy"])
    param_names = ("n", "d", "engine")

    def setup(self, n: int, d: int, engine: str) -> None:
        self.ask = questions(n, d, engine)

    def time_query(self, n: int, d: int, engine: str) -> None:
        next(self.ask)()


class Growth(Timed):
    """Few dimensions, where groups prune: 1,000 hits however many the vectors, and the count of a tenth of them."""

    params = (grid([250_000, 1_000_000, 4_000_000], [5_000]), grid([3, 8], [3]))
    param_names = ("n", "d")

    def setup(self, n: int, d: int) -> None:
        self.index, self.directions, self.taus, self.tenths = grown(n, d)
        self.turn = turns()

    def time_query(self, n: int, d: int) -> None:
        k = next(self.turn)
        self.index.query(self.directions[k], self.taus[k])

    def time_count(self, n: int, d: int) -> None:
        k = next(self.turn)
        self.index.count(self.directions[k], self.tenths[k])


def new(d: int) -> Any:
    """Make an empty index."""
    from halfspace import HalfspaceIndex

    return HalfspaceIndex(d, threads=THREADS)


@functools.cache
def rows(n: int, d: int, seed: int = 0) -> Any:
    """Gaussian vectors."""
    from halfspace.bench import gaussian

    return gaussian(n, d, seed)


@functools.cache
def mapped(path: str) -> Any:
    """Map the index in a file."""
    return load(path, mmap=True)


def load(path: str, mmap: bool) -> Any:
    """Load an index."""
    from halfspace import HalfspaceIndex

    return HalfspaceIndex.load(path, mmap=mmap, threads=THREADS)


@functools.cache
def turns() -> Any:
    """Numbers of directions, in turn."""
    return itertools.cycle(range(8))


@functools.cache
def grown(n: int, d: int) -> tuple[Any, ...]:
    """Index Gaussian vectors; directions, thresholds of 1,000 hits, and those of a tenth of the vectors."""
    from halfspace.bench import midpoints

    x, directions = rows(n, d), rows(8, d, 1)
    index = new(d)
    index.insert(x)
    return index, directions, midpoints(x, directions, 1000 / n), midpoints(x, directions, 0.1)


@functools.cache
def questions(n: int, d: int, engine: str) -> Any:
    """Endless questions of a small set: calls without arguments."""
    import numpy as np

    from halfspace.bench import midpoints, pinned

    PINNED.enter_context(pinned(THREADS))
    x, directions = rows(n, d), rows(8, d, 1)
    pairs = list(zip(directions, midpoints(x, directions, 0.01).tolist(), strict=True))
    if engine == "numpy":
        return itertools.cycle([lambda q=q, tau=tau: np.flatnonzero(x @ q >= tau) for q, tau in pairs])
    index = new(d)
    index.insert(x)
    return itertools.cycle([lambda q=q, tau=tau: index.query(q, tau) for q, tau in pairs])


def ratio(calls: dict[str, Any], above: str, below: str) -> float:
    """Median over rounds, in alternating turns, of one call's time over another's."""
    from halfspace.bench import alternate, median_ratio

    times = alternate(calls, grid(9, 1))
    return median_ratio(times[above], times[below])
