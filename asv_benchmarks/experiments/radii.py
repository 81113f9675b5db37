"""How many sets are right whose radius is itself the distance to a stored vector.

    python -m asv_benchmarks.experiments.radii

For each direction the distance to one of its nearest vectors, in float64 or rounded to float32, is a radius. Sets are
compared with those of integers. Beside the library, FAISS and NumPy in float32 stands what many do who have a search
for inner products: a *lift*, one more column of float32 with -|x|^2 / 2, and the threshold (|q|^2 - r^2) / 2. Here the
lift is searched exactly, so that its errors are those of the column alone.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from asv_benchmarks.benchmarks.common import packaged
from halfspace import HalfspaceIndex
from halfspace.bench import ENGINES, build, clustered, exact_hits, gaussian, wrong_answers
from halfspace.bench.engines import Rows
from halfspace.bench.engines.spec import join

NAMES = ("halfspace", "faiss-flat", "numpy", "numpy-direct", "sklearn-brute")
RANKS = (1, 3, 10, 30, 100)
Ask = Callable[[NDArray[np.float32], NDArray[np.float64]], Rows]


def data(questions: int) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Vectors, and as many directions that are not stored."""
    rng = np.random.default_rng(5)
    docs, keys = packaged("docstrings"), packaged("attention keys")
    return {
        "docstrings, d = 384": (docs[0][questions:], docs[0][:questions]),
        "attention keys, d = 128": (keys[0], keys[1][:: len(keys[1]) // questions][:questions]),
        "clustered unit vectors, d = 384": (clustered(20_000, 384, 1), clustered(questions, 384, 2)),
        "Gaussian, d = 3": (gaussian(20_000, 3, 1), gaussian(questions, 3, 2)),
        "around (100, 100, 100), d = 3": (gaussian(20_000, 3, 1) + 100, gaussian(questions, 3, 2) + 100),
        "integers 0 to 255, d = 16": (
            rng.integers(0, 256, (20_000, 16)).astype(np.float32),
            rng.integers(0, 256, (questions, 16)).astype(np.float32),
        ),
    }


def radii(vectors: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float64]:
    """The distance of each direction from one of its nearest vectors, in float64."""
    found = np.empty(len(directions))
    wide = vectors.astype(np.float64)
    for j, direction in enumerate(directions.astype(np.float64)):
        rank = RANKS[j % len(RANKS)]
        found[j] = np.partition(np.linalg.norm(wide - direction, axis=1), rank - 1)[rank - 1]
    return found


def lifted(vectors: NDArray[np.float32]) -> Ask:
    """Search by one more column of float32."""
    squares = (vectors.astype(np.float64) ** 2).sum(axis=1)
    index = HalfspaceIndex(vectors.shape[1] + 1, filter="scan")
    index.insert(np.column_stack([vectors, (-squares / 2).astype(np.float32)]))

    def ask(directions: NDArray[np.float32], limits: NDArray[np.float64]) -> Rows:
        own = (directions.astype(np.float64) ** 2).sum(axis=1)
        asked = np.column_stack([directions, np.ones(len(directions), np.float32)])
        hits = index.query(asked, (own - limits * limits) / 2, scores=False)
        return hits.offsets, hits.ids

    return ask


def one_by_one(ask: Ask) -> Ask:
    """Ask direction by direction."""
    return lambda directions, limits: join([ask(directions[j : j + 1], limits[j : j + 1]) for j in range(len(limits))])


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=60)
    options = parser.parse_args()
    names = [name for name in NAMES if ENGINES[name].available() is None]
    print(f"| right sets of {options.questions} | radius | {' | '.join(names)} | float32 lift |")
    print(f"|---|---|{'---:|' * (len(names) + 1)}", flush=True)
    for title, (vectors, directions) in data(options.questions).items():
        asking: list[Ask] = [build(name, vectors, threads=1, metric="l2").query for name in names]
        asking.append(lifted(vectors))
        distances = radii(vectors, directions)
        for kind, limits in (("float64", distances), ("float32", distances.astype(np.float32).astype(np.float64))):
            truth = exact_hits(vectors, directions, limits, "l2")
            wrong = [wrong_answers(one_by_one(ask)(directions, limits), truth) for ask in asking]
            print(f"| {title} | {kind} | {' | '.join(str(len(limits) - count) for count in wrong)} |", flush=True)


if __name__ == "__main__":
    main()
