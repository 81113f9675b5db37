"""Queries and batches on an NVIDIA GPU, against CuPy and PyTorch there; left out where there is none.

A call ends when the GPU has done. `asv_benchmarks/experiments/gpu.py` measures more, and writes docs/gpu-report.md.
"""

from .common import Timed, build, grid, must_suit, read, write

ENGINES = grid(["halfspace-gpu", "cupy", "torch"], ["halfspace-gpu"])
KIND, N, D = "clustered", *grid((1_000_000, 128), (2_000, 16))
BATCHES = grid([1, 64], [1])
SHARES = grid([1e-4, 1e-3, 1e-2], [1e-2])


class Query(Timed):
    """So many directions at once, with a threshold each."""

    params = (ENGINES, BATCHES, SHARES)
    param_names = ("engine", "directions", "share")

    def setup_cache(self) -> None:
        from halfspace.bench import ENGINES as known

        if any(known[name].available() is None for name in ENGINES):
            write(KIND, N, D, SHARES, max(BATCHES))

    def setup(self, engine: str, size: int, share: float) -> None:
        if not hasattr(self, "ask"):
            must_suit(engine, N, D)
            data = read(KIND, N, D)
            self.ask = build(engine, data.vectors).prepare(data.directions[:size], data.taus[share][:size])

    def time_query(self, engine: str, size: int, share: float) -> None:
        self.ask()
