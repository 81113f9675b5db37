"""Time of a query against the number of dimensions: Gaussian vectors of few, clustered unit vectors of many."""

from .common import EXACT, Timed, grid, queries, write

SHARE = 1e-3
LOW, N_LOW = grid(([2, 4, 8, 16], 200_000), ([2], 2_000))
HIGH, N_HIGH = grid(([16, 64, 128, 384, 768, 1536], 50_000), ([32], 2_000))


class Low(Timed):
    """One query among Gaussian vectors; a thousandth are hits."""

    params = ([*EXACT, *grid(["halfspace-groups", "sklearn-balltree"], [])], LOW)
    param_names = ("engine", "d")

    def setup_cache(self) -> None:
        for d in LOW:
            write("gaussian", N_LOW, d, [SHARE])

    def setup(self, engine: str, d: int) -> None:
        self.queries = queries(engine, "gaussian", N_LOW, d, SHARE)

    def time_query(self, engine: str, d: int) -> None:
        next(self.queries)()


class High(Timed):
    """One query among clustered unit vectors; a thousandth are hits."""

    params = (EXACT, HIGH)
    param_names = ("engine", "d")

    def setup_cache(self) -> None:
        for d in HIGH:
            write("clustered", N_HIGH, d, [SHARE])

    def setup(self, engine: str, d: int) -> None:
        self.queries = queries(engine, "clustered", N_HIGH, d, SHARE)

    def time_query(self, engine: str, d: int) -> None:
        next(self.queries)()
