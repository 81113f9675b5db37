"""Time and memory to build an index, and its bytes."""

from .common import APPROXIMATE, EXACT, build, grid, read, write

KIND, N, D = "clustered", *grid((50_000, 128), (2_000, 16))
ENGINES = [*EXACT, *grid(["halfspace-groups", "halfspace-balls"], []), *APPROXIMATE]


class Build:
    """An index of all vectors at once."""

    timeout = 300
    number = rounds = min_run_count = 1
    repeat = (1, 5, 2.0)
    warmup_time = 0
    params = ENGINES
    param_names = ("engine",)

    def setup_cache(self) -> None:
        write(KIND, N, D, [])

    def setup(self, engine: str) -> None:
        data = read(KIND, N, D)
        self.vectors = data.vectors
        build(engine, data.vectors[:1000])  # compiles, or says why not

    def time_build(self, engine: str) -> None:
        build(engine, self.vectors)

    def peakmem_build(self, engine: str) -> None:
        build(engine, self.vectors)

    def track_bytes(self, engine: str) -> float:
        """Bytes of the index, the vectors with it, over those of the float32 vectors."""
        return build(engine, self.vectors).nbytes / self.vectors.nbytes

    track_bytes.unit = "vectors = 1"
