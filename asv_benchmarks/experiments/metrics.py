"""What metrics cost, and how far they go beside other libraries: medians of alternating turns, in one process.

    python -m asv_benchmarks.experiments.metrics --only ratios sentences points

``ratios``
    Times of ``"cosine"`` and ``"l2"`` over those of ``"ip"``: the same unit vectors, so the same sets.
``sentences``
    200,000 clustered unit vectors of 384 dimensions, one point at a time, radius for a share of the vectors.
``points``
    2,000,000 points of 3 dimensions, one at a time and 1,000 at once, against k-d trees.

Every call returns ids; this library's also returns distances. Sets are compared: those that differ from this library's
are counted.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from halfspace.bench import ENGINES, Engine, alternate, build, clustered, gaussian, median_ratio, midpoints, pinned
from halfspace.bench.report import duration

DIRECTIONS = 16
"""Directions that are asked one after the other, or from which a radius is chosen."""


def race(
    title: str,
    engines: dict[str, Engine],
    directions: NDArray[np.float32],
    taus: dict[str, NDArray[np.float64]],
    *,
    batch: int,
    rounds: int,
) -> None:
    """Time engines by turns over all directions, so many at once, and print times, and ratios to the first."""
    calls, answers = {}, {}
    for label, engine in engines.items():
        limits = taus[engine.metric]
        parts = [slice(low, low + batch) for low in range(0, len(directions), batch)]
        asked = [engine.prepare(directions[part], limits[part]) for part in parts]
        calls[label] = lambda asked=asked: [call() for call in asked]
        answers[label] = [np.sort(ids) for ask in asked for ids in split(engine.rows(ask()))]
    times = alternate(calls, rounds)
    first = next(iter(calls))
    print(f"\n{title}: {sum(map(len, answers[first])) / len(directions):,.0f} hits a direction")
    for label, timing in times.items():
        differ = sum(not np.array_equal(*pair) for pair in zip(answers[label], answers[first], strict=True))
        ratio = median_ratio(timing, times[first])
        each = duration(timing.median / len(directions))
        print(f"  {label:28} {each:>10} a direction   x {ratio:6.2f}   {differ} sets differ", flush=True)


def split(rows: tuple[NDArray[np.int64], NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Cut rows into the ids of each direction."""
    offsets, ids = rows
    return np.split(ids, offsets[1:-1])


def ratios(options: argparse.Namespace) -> None:
    """Time the three metrics on the same vectors."""
    ours = "halfspace" if options.device == "cpu" else "halfspace-gpu"
    n = options.vectors or 200_000
    for d in (32, 128, 384):
        vectors, directions = clustered(n, d, 1), clustered(256, d, 2)
        engines = {metric: built(ours, vectors, metric, options) for metric in ("ip", "cosine", "l2")}
        for share in options.shares:
            taus = {metric: midpoints(vectors, directions, share, metric) for metric in engines}
            for batch in (1, 256):
                own = directions[: DIRECTIONS if batch == 1 else batch]
                limits = {metric: tau[: len(own)] for metric, tau in taus.items()}
                title = f"n = {n:,}, d = {d}, {batch} at once, {share:.2%}"
                race(title, engines, own, limits, batch=batch, rounds=options.rounds)


def sentences(options: argparse.Namespace) -> None:
    """Time one point at a time among vectors like those of sentences."""
    n = options.vectors or 200_000
    vectors, directions = clustered(n, 384, 1), clustered(DIRECTIONS, 384, 2)
    names = ["halfspace", "faiss-flat", "numpy"]
    engines = {name: built(name, vectors, "l2", options) for name in names if ENGINES[name].available() is None}
    for share in options.shares:
        taus = {"l2": midpoints(vectors, directions, share, "l2")}
        race(f"n = {n:,}, d = 384, {share:.2%}", engines, directions, taus, batch=1, rounds=options.rounds)


def points(options: argparse.Namespace) -> None:
    """Time one point and many in three dimensions."""
    n = options.vectors or 2_000_000
    vectors, directions = gaussian(n, 3, 1), gaussian(1000, 3, 2)
    names = ["halfspace", "sklearn-kdtree", "scipy-ckdtree"]
    engines = {name: built(name, vectors, "l2", options) for name in names if ENGINES[name].available() is None}
    for share in options.shares:
        radius = float(np.median(midpoints(vectors, directions[:DIRECTIONS], share, "l2")))
        for batch, count in ((1, 8 * DIRECTIONS), (1000, 1000)):
            own = directions[:count]
            title = f"n = {n:,}, d = 3, {batch:,} at once, radius {radius:.3g}"
            race(title, engines, own, {"l2": np.full(count, radius)}, batch=batch, rounds=options.rounds)


def built(name: str, vectors: NDArray[np.float32], metric: str, options: argparse.Namespace) -> Engine:
    """Build an engine, with the filter that was asked for."""
    if name == "halfspace" and options.filter != "auto":
        name = f"halfspace-{options.filter}"
    return build(name, vectors, threads=options.threads, metric=metric)


def main() -> None:
    """Measure what was asked for."""
    parts = {"ratios": ratios, "sentences": sentences, "points": points}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="of the ratios")
    parser.add_argument("--filter", default="auto")
    parser.add_argument("--vectors", type=int, help="fewer, or more")
    parser.add_argument("--shares", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with pinned(options.threads):
        for name in options.only:
            parts[name](options)


if __name__ == "__main__":
    main()
