"""Time and memory of a batch against its size."""

import functools
from typing import Any, NamedTuple

from .common import EXACT, Timed, engine, grid, read, write

KIND, N, D, SHARE = "clustered", *grid((100_000, 128), (2_000, 16)), 1e-3
BATCHES = grid([1, 16, 256, 1024], [16])


class Threshold(NamedTuple):
    """One threshold for all directions, and the greatest number of hits of any."""

    tau: float
    most: int


class Asked:
    """A batch with one threshold, which about a thousandth of all pairs reach."""

    timeout = 300
    param_names = ("engine", "directions")

    def setup_cache(self) -> Threshold:
        import numpy as np

        from halfspace.bench import exact_hits

        write(KIND, N, D, [SHARE], max(BATCHES))
        data = read(KIND, N, D)
        tau = float(np.median(data.taus[SHARE]))
        offsets, _ = exact_hits(data.vectors, data.directions, tau)
        return Threshold(tau, int(np.diff(offsets).max()))

    def setup(self, threshold: Threshold, name: str, size: int) -> None:
        self.ask = call(threshold, name, size)


class Batch(Asked, Timed):
    """How long it takes."""

    repeat = (3, 20, 1.0)
    params = (EXACT, BATCHES)

    def time_batch(self, threshold: Threshold, name: str, size: int) -> None:
        self.ask()


class Memory(Asked):
    """The peak of a process that asks one."""

    params = (EXACT, [1, BATCHES[-1]])

    def peakmem_batch(self, threshold: Threshold, name: str, size: int) -> None:
        self.ask()


@functools.cache
def call(threshold: Threshold, name: str, size: int) -> Any:
    """Build an engine, and prepare a batch."""
    asked = engine(name, KIND, N, D, SHARE)
    asked.expected_hits = threshold.most
    return asked.prepare(read(KIND, N, D).directions[:size], threshold.tau)
