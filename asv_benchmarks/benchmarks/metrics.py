"""Time of cosines and distances beside inner products: unit vectors, so that all three metrics find the same sets."""

import functools
from typing import Any

from .common import PINNED, THREADS, Timed, grid, must_suit, read, write

KIND, N, D, SHARE = "clustered", *grid((100_000, 128), (2_000, 16)), 1e-3
METRICS = ["ip", "cosine", "l2"]
BATCHES = grid([1, 256], [1, 16])
ENGINES = grid(["halfspace", "halfspace-scan", "faiss-flat", "numpy"], ["halfspace", "numpy"])


class Query(Timed):
    """So many directions at once, with a threshold each; a thousandth of the vectors are hits."""

    params = (ENGINES, METRICS, BATCHES)
    param_names = ("engine", "metric", "directions")

    def setup_cache(self) -> None:
        write(KIND, N, D, [SHARE], max(BATCHES))

    def setup(self, name: str, metric: str, size: int) -> None:
        self.ask = call(name, metric, size)

    def time_query(self, name: str, metric: str, size: int) -> None:
        self.ask()


@functools.cache
def call(name: str, metric: str, size: int) -> Any:
    """Build an engine, and prepare a batch."""
    from halfspace.bench import build, midpoints, pinned

    must_suit(name, N, D)
    data = read(KIND, N, D)
    asked = data.directions[:size]
    engine = build(name, data.vectors, threads=THREADS, metric=metric)
    PINNED.enter_context(pinned(THREADS))
    return engine.prepare(asked, midpoints(data.vectors, asked, SHARE, metric))
