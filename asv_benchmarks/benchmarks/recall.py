"""Approximate engines: recall, false positives and time at several settings, in turns with the exact ones."""

from typing import Any

from .common import APPROXIMATE, build, contest, grid, runnable
from .share import drawn

SHARES = grid({"clustered": 1e-3, "attention keys": 1e-2}, {"clustered": 1e-2})
"""Hits of each data set."""
CURVES = {
    "faiss-ivf": ("nprobe", grid([1, 4, 16, 64, 256], [1])),
    "faiss-hnsw": ("efSearch", grid([16, 64, 256, 1024], [16])),
    "faiss-ivfpq": ("nprobe", [1, 4, 16, 64, 256]),
    "faiss-lsh": ("factor", [2, 8, 32]),
}
SETTINGS = [f"{name} {key}={value}" for name in APPROXIMATE for key, values in [CURVES[name]] for value in values]
BESIDE = ["halfspace", "faiss-flat", "numpy"]


class Curve:
    """All settings of each approximate engine in one process, in alternating turns, against exact arithmetic."""

    timeout = 900
    params = ([*SHARES], [*SETTINGS, *BESIDE])
    param_names = ("data", "engine")

    def setup_cache(self) -> dict[tuple[str, str], dict[str, float]]:
        found = {}
        for name in SHARES:
            vectors, directions = drawn(name)
            engines = runnable(BESIDE, vectors)
            for approximate in APPROXIMATE:
                key, values = CURVES[approximate]
                try:
                    made = build(approximate, vectors, **{key: values[0]})
                except NotImplementedError:
                    continue
                engines += [made.tuned(**{key: value}) for value in values]
            for label, row in contest(engines, vectors, directions, SHARES[name]).items():
                found[name, label] = {
                    "recall": row.recall,
                    "false positives": row.false_positives,
                    "seconds": row.median,
                    "ratio": row.ratio,
                }
        return found

    def setup(self, found: dict[Any, Any], *of: str) -> None:
        if of not in found:
            raise NotImplementedError("does not run here")

    def track_recall(self, found: dict[Any, Any], *of: str) -> float:
        """Share of the true hits that it finds."""
        return found[of]["recall"]

    def track_false_positives(self, found: dict[Any, Any], *of: str) -> float:
        """Vectors that it returns and that are no hits, of all directions."""
        return found[of]["false positives"]

    def track_milliseconds(self, found: dict[Any, Any], *of: str) -> float:
        return 1e3 * found[of]["seconds"]

    def track_ratio(self, found: dict[Any, Any], *of: str) -> float:
        """Median over rounds of its time over that of `halfspace`."""
        return found[of]["ratio"]

    track_recall.unit = "share of hits"
    track_false_positives.unit = "vectors"
    track_milliseconds.unit = "ms"
    track_ratio.unit = "halfspace = 1"
