"""Time of a query against the share of the vectors that are hits; and all engines against `halfspace`, in turns."""

from typing import Any

import numpy as np

from .common import EXACT, QUERIES, Timed, contest, grid, packaged, queries, runnable, write

KIND, N, D = "clustered", *grid((100_000, 128), (2_000, 16))
SHARES = grid([1e-4, 1e-3, 1e-2, 1e-1], [1e-2])
FILTERS = grid(["halfspace-groups", "halfspace-balls", "halfspace-sweep", "halfspace-scan"], ["halfspace-scan"])
ENGINES = [*EXACT, *FILTERS]
TAKING_TURNS = [*EXACT, *grid(["halfspace-groups", "halfspace-scan"], [])]
SETS = grid(["clustered", "heavy-tailed", "docstrings", "attention keys"], ["clustered"])


class Query(Timed):
    """One query."""

    params = (ENGINES, SHARES)
    param_names = ("engine", "share")

    def setup_cache(self) -> None:
        write(KIND, N, D, SHARES)

    def setup(self, engine: str, share: float) -> None:
        self.queries = queries(engine, KIND, N, D, share)

    def time_query(self, engine: str, share: float) -> None:
        next(self.queries)()


class Shaping(Timed):
    """Queries of one direction and of a batch whose hits are many: all by id, all by score, or the best alone."""

    params = (("by id", "by score", "best 10"), (1, 16))
    param_names = ("order", "directions")

    def setup(self, order: str, directions: int) -> None:
        from halfspace import HalfspaceIndex
        from halfspace.bench import clustered

        self.index = HalfspaceIndex(D)
        self.index.insert(clustered(N, D, 1))
        self.index.compact()
        self.directions = clustered(directions, D, 2)
        self.options = {"by id": {}, "by score": {"sort": True}, "best 10": {"limit": 10}}[order]

    def time_query(self, order: str, directions: int) -> None:
        """All vectors are hits."""
        self.index.query(self.directions, -np.inf, **self.options)


class Turns:
    """Single queries of all engines in one process, in alternating turns, against exact arithmetic."""

    timeout = 600
    params = (SETS, TAKING_TURNS, SHARES)
    param_names = ("data", "engine", "share")

    def setup_cache(self) -> dict[Any, Any]:
        found = {}
        for name in SETS:
            vectors, directions = drawn(name)
            engines = runnable(TAKING_TURNS, vectors)
            for share in SHARES:
                for row in contest(engines, vectors, directions, share).values():
                    found[name, row.name, share] = {"ratio": row.ratio, "seconds": row.median, "wrong": row.wrong}
        return found

    def setup(self, found: dict[Any, Any], *of: Any) -> None:
        if of not in found:
            raise NotImplementedError("does not run here")

    def track_ratio(self, found: dict[Any, Any], *of: Any) -> float:
        """Median over rounds of its time over that of `halfspace`."""
        return found[of]["ratio"]

    def track_milliseconds(self, found: dict[Any, Any], *of: Any) -> float:
        return 1e3 * found[of]["seconds"]

    def track_wrong(self, found: dict[Any, Any], *of: Any) -> float:
        """Answers that are not the exact set."""
        return found[of]["wrong"]

    track_ratio.unit = "halfspace = 1"
    track_milliseconds.unit = "ms"
    track_wrong.unit = "answers"


def drawn(name: str) -> tuple[Any, Any]:
    """Vectors, and some directions."""
    from halfspace.bench import clustered, heavy_tailed

    made = {"clustered": clustered, "heavy-tailed": heavy_tailed}.get(name)
    if made is not None:
        return made(N, D, 1), made(QUERIES, D, 2)
    vectors, directions = packaged(name)
    return vectors, directions[:: len(directions) // QUERIES]
