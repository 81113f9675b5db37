"""The work of a query, counted: it does not depend on the machine's moods. And bytes read against time."""

from typing import Any

from .common import THREADS, grid, packaged

FILTERS = ["cells", "groups", "balls", "sweep", "scan"]
SHARES = grid([0.001, 0.01, 0.1], [0.01])
SETS = grid(
    ["attention keys", "docstrings", "clustered, d = 384", "Gaussian, d = 8", "heavy-tailed, d = 64"],
    ["Gaussian, d = 8"],
)
BOUNDS = ("norms", "axes", "high", "low", "chunks", "groups", "rows", "sweep", "gates", "balls")
"""Stages that look at bounds, not at vectors."""


class Count:
    """Means over directions, of `explain`."""

    timeout = 300
    params = (SETS, FILTERS, SHARES)
    param_names = ("data", "filter", "share")

    def setup_cache(self) -> dict[tuple[str, str, float], tuple[float, float, float]]:
        from halfspace.bench import midpoints

        found = {}
        for name in SETS:
            vectors, directions = vectors_of(name)
            taus = {share: midpoints(vectors, directions, share) for share in SHARES}
            for filter in FILTERS:
                index = built(vectors, THREADS, filter=filter)
                for share in SHARES:
                    found[name, filter, share] = counted(index, directions, taus[share])
        return found

    def track_survivors(self, found: dict[Any, Any], *of: Any) -> float:
        """Share of the vectors that no bound has dropped."""
        return found[of][0]

    def track_bytes_read(self, found: dict[Any, Any], *of: Any) -> float:
        """Bytes of vectors, codes and bounds, over those of the float32 vectors."""
        return found[of][1]

    def track_dot_products(self, found: dict[Any, Any], *of: Any) -> float:
        """Dot products over the number of vectors."""
        return found[of][2]

    track_survivors.unit = "share of vectors"
    track_bytes_read.unit = "share of bytes"
    track_dot_products.unit = "share of vectors"


class Roofline:
    """Bytes that a query reads, and its time, over clustered unit vectors, d = 128."""

    timeout = 600
    params = (grid([10_000, 100_000, 1_000_000], [2_000]), FILTERS, grid([1e-4, 1e-2], [1e-2]))
    param_names = ("n", "filter", "share")

    def setup_cache(self) -> dict[tuple[int, str, float], tuple[float, float]]:
        from halfspace.bench import alternate, clustered, midpoints

        sizes, filters, shares = self.params
        directions = clustered(4, 128, 2)
        found = {}
        for n in sizes:
            vectors = clustered(n, 128, 1)
            for filter in filters:
                if n > 100_000 and filter in ("balls", "sweep"):
                    continue  # which take minutes to build
                index = built(vectors, THREADS, filter=filter)
                for share in shares:
                    taus = midpoints(vectors, directions, share)
                    pairs = list(zip(directions, taus.tolist(), strict=True))
                    ask = {"all": lambda i=index, pairs=pairs: [i.query(q, tau) for q, tau in pairs]}
                    seconds = alternate(ask, grid(7, 1))["all"].median / len(pairs)
                    found[n, filter, share] = seconds, counted(index, directions, taus)[1] * vectors.nbytes
        return found

    def setup(self, found: dict[Any, Any], *of: Any) -> None:
        if of not in found:
            raise NotImplementedError("not built")

    def track_seconds(self, found: dict[Any, Any], *of: Any) -> float:
        return found[of][0]

    def track_bytes(self, found: dict[Any, Any], *of: Any) -> float:
        return found[of][1]

    track_seconds.unit = "seconds"
    track_bytes.unit = "bytes"


def track_bandwidth() -> float:
    """Bytes per second that all threads read from memory: the best of reductions of a large array.

    NumPy's sum computes longer than it reads where memory is fast; its maximum does not. A ceiling is the best of all,
    not a median, so no turns are taken.
    """
    import time
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    array = np.ones(grid(1 << 26, 1 << 20))
    parts = np.array_split(array, THREADS)
    seconds = []
    with ThreadPoolExecutor(THREADS) as pool:
        for reduction in (np.sum, np.max) * 5:
            begin = time.perf_counter()
            list(pool.map(reduction, parts))
            seconds.append(time.perf_counter() - begin)
    return array.nbytes / min(seconds)


track_bandwidth.unit = "bytes per second"


def vectors_of(name: str) -> tuple[Any, Any]:
    """Make or load vectors and 16 directions."""
    from halfspace.bench import generate

    if name in ("attention keys", "docstrings"):
        return packaged(name)
    kind, _, d = name.partition(", d = ")
    make, n = {
        "clustered": (generate.clustered, 20_000),
        "Gaussian": (generate.gaussian, 50_000),
        "heavy-tailed": (generate.heavy_tailed, 20_000),
    }[kind]
    return make(grid(n, 2_000), int(d), 1), make(16, int(d), 2)


def built(vectors: Any, threads: int, **options: Any) -> Any:
    """Index vectors as one segment."""
    from halfspace import HalfspaceIndex

    index = HalfspaceIndex(vectors.shape[1], threads=threads, **options)
    index.insert(vectors)
    if index.stats()["tail"]:
        index.compact()
    return index


def counted(index: Any, directions: Any, taus: Any) -> tuple[float, float, float]:
    """Survivors and dot products over the vectors, and bytes over those of the vectors: means over directions."""
    survivors = read = products = 0
    for direction, tau in zip(directions, taus.tolist(), strict=True):
        stages = index.explain(direction, tau).stages
        survivors += len(index) - sum(stage.dropped for stage in stages if stage.name in BOUNDS)
        read += sum(stage.bytes_read for stage in stages)
        products += sum(stage.dot_products for stage in stages)
    asked = len(directions) * len(index)
    return survivors / asked, read / (4 * index.dim * asked), products / asked
