"""How often float32 gives a set that is wrong in real arithmetic, and one set for a query, another in a batch.

Thresholds are round numbers, as people choose them, or scores of stored vectors, as people copy them: rounded to
float64, or to float32 as FAISS prints them. A set is wrong if a vector is in it whose real score is below the
threshold, or is not in it whose real score reaches it.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from .common import THREADS, grid, packaged, runnable

SETS = grid(["docstrings", "attention keys"], ["docstrings"])
ENGINES = ["halfspace", "faiss-flat", "numpy"]
THRESHOLDS = ["round numbers", "a score, float64", "a score, float32"]
RANKS = grid([1, 3, 10, 30, 100], [1])
"""Ranks whose scores are thresholds."""
BATCH = grid(128_000, 0)
"""Numbers in a batch, at least: from so many on FAISS computes in another way."""


class Wrong:
    """Shares of the answers, a set each."""

    timeout = 600
    params = (SETS, ENGINES, THRESHOLDS)
    param_names = ("data", "engine", "thresholds")
    unit = "share of answers"

    def setup_cache(self) -> dict[tuple[str, str, str], dict[str, float]]:
        return {(data, engine, kind): own for data in SETS for (engine, kind), own in census(*packaged(data)).items()}

    def track_wrong_one_by_one(self, found: dict[Any, Any], *of: str) -> float:
        return found[of]["one by one"]

    def track_wrong_in_batch(self, found: dict[Any, Any], *of: str) -> float:
        return found[of]["batch"]

    def track_differ(self, found: dict[Any, Any], *of: str) -> float:
        """Answers of which the batch says otherwise than the single query."""
        return found[of]["differ"]

    def track_answers(self, found: dict[Any, Any], *of: str) -> float:
        return found[of]["answers"]

    track_answers.unit = "answers"


def census(vectors: Any, directions: Any) -> dict[tuple[str, str], dict[str, float]]:
    """Ask each engine at each threshold, one by one and in a batch."""
    import numpy as np

    from halfspace.bench import exact_hits, pinned

    engines = runnable(ENGINES, vectors)
    together = np.tile(directions, (-(-BATCH // directions.size) or 1, 1))
    counts: dict[tuple[str, str], dict[str, float]] = {}
    with pinned(THREADS):
        for kind, tau, asked in thresholds(vectors, directions):
            truth = split(exact_hits(vectors, directions[asked], tau))
            for engine in engines:
                single = [split(engine.query(directions[[k]], tau))[0] for k in asked]
                batch = split(engine.query(together, tau))
                own = counts.setdefault(
                    (engine.name, kind), dict.fromkeys(("one by one", "batch", "differ", "answers"), 0)
                )
                for k, alone, real in zip(asked, single, truth, strict=True):
                    own["one by one"] += alone != real
                    own["batch"] += batch[k] != real
                    own["differ"] += alone != batch[k]
                    own["answers"] += 1
    for own in counts.values():
        for name in ("one by one", "batch", "differ"):
            own[name] /= own["answers"]
    return counts


def thresholds(vectors: Any, directions: Any) -> Iterator[tuple[str, float, list[int]]]:
    """Yield kinds of threshold, thresholds, and the directions whose answers count."""
    import numpy as np

    everyone = list(range(len(directions)))
    scores = -np.sort(-(directions.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)
    if np.abs(vectors[0] @ vectors[0] - 1) < 1e-3:  # unit vectors
        chosen = grid(np.arange(30, 61), np.array([30, 50])) / 100
    else:
        low, high = np.percentile(scores, [99, 99.9])
        chosen = np.unique(np.linspace(low, high, 31).round())
    for tau in chosen.tolist():
        yield THRESHOLDS[0], tau, everyone
    for k in everyone:
        for rank in RANKS:
            score = nearest(vectors, directions[k], scores[k, rank - 1])
            yield THRESHOLDS[1], score, [k]
            yield THRESHOLDS[2], float(np.float32(score)), [k]


def nearest(vectors: Any, direction: Any, score: float) -> float:
    """Real score, rounded to float64 once, of the vector whose computed score it is."""
    from math import fsum

    import numpy as np

    computed = vectors.astype(np.float64) @ direction.astype(np.float64)
    row = int(np.abs(computed - score).argmin())
    return fsum((vectors[row].astype(np.float64) * direction.astype(np.float64)).tolist())


def split(answer: tuple[Any, Any]) -> list[frozenset[int]]:
    """Sets of the ids of each direction."""
    offsets, ids = answer
    return [frozenset(ids[a:b].tolist()) for a, b in itertools.pairwise(offsets)]
