"""Time of a query against the number of vectors."""

from .common import EXACT, Timed, grid, queries, write

KIND, D, SHARE = "clustered", grid(64, 8), 1e-3
SIZES = grid([1_000, 10_000, 100_000, 1_000_000, 10_000_000], [1_000])


class Query(Timed):
    """One query; a thousandth of the vectors are hits."""

    timeout = 600
    params = (EXACT, SIZES)
    param_names = ("engine", "n")

    def setup_cache(self) -> None:
        for n in SIZES:
            write(KIND, n, D, [SHARE])

    def setup(self, engine: str, n: int) -> None:
        self.queries = queries(engine, KIND, n, D, SHARE)

    def time_query(self, engine: str, n: int) -> None:
        next(self.queries)()
