"""What metrics cost, and how far they go beside other libraries: medians of alternating turns, in one process.

    python -m asv_benchmarks.experiments.metrics --only ratios sentences points

``ratios``
    Times of ``"cosine"`` and ``"l2"`` over those of ``"ip"``: the same unit vectors, about the same sets.
``sentences``
    200,000 clustered unit vectors of 384 dimensions, one point at a time.
``points``
    2,000,000 uniform points of 3 dimensions, one at a time and 1,000 at once, against k-d trees.

Thresholds that about a share of the vectors reaches come from a sample. FAISS returns distances, and so does
``halfspace``; the others, and ``halfspace, ids``, return ids alone. Sets are counted that differ from the first line's.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halfspace.bench import ENGINES, Engine, alternate, build, clustered, median_ratio, midpoints, pinned
from halfspace.bench.engines.ours import Halfspace
from halfspace.bench.report import duration

DIRECTIONS = 16
"""Directions that are asked one after the other, or from which a radius is chosen."""
SAMPLE = 1 << 16


class Line(NamedTuple):
    """A line of the table."""

    work: str
    label: str
    hits: float  # of a direction
    seconds: float  # for a direction, the median
    ratio: float  # to the first line of the same work, the median of those of each turn
    differ: int | None  # sets that differ from those of the first line, where both have one metric


class IdsAlone(Halfspace):
    """The same index, asked for ids without scores."""

    scores = False


def ids_alone(engine: Halfspace) -> IdsAlone:
    """See an index as one that is asked for ids."""
    found = object.__new__(IdsAlone)
    found.__dict__.update(engine.__dict__)
    return found


def race(
    work: str,
    engines: dict[str, Engine],
    directions: NDArray[np.float32],
    taus: dict[str, NDArray[np.float64]],
    *,
    batch: int,
    rounds: int,
) -> Iterator[Line]:
    """Time engines by turns over all directions, so many at once."""
    calls, answers, m = {}, {}, len(directions)
    for label, engine in engines.items():
        limits = taus[engine.metric]
        parts = [slice(low, low + batch) for low in range(0, m, batch)]
        asked = [engine.prepare(directions[part], limits[part]) for part in parts]
        calls[label] = lambda asked=asked: [call() for call in asked]
        answers[label] = [np.sort(ids) for ask in asked for ids in split(engine.rows(ask()))]
    times = alternate(calls, rounds)
    first = next(iter(engines))
    for label, timing in times.items():
        own, theirs = answers[label], answers[first]
        same = engines[label].metric == engines[first].metric
        differ = sum(not np.array_equal(*pair) for pair in zip(own, theirs, strict=True)) if same else None
        yield Line(work, label, sum(map(len, own)) / m, timing.median / m, median_ratio(timing, times[first]), differ)


def split(rows: tuple[NDArray[np.int64], NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Cut rows into the ids of each direction."""
    offsets, ids = rows
    return np.split(ids, offsets[1:-1])


def thresholds(
    vectors: NDArray[np.float32], directions: NDArray[np.float32], share: float, metric: str
) -> NDArray[np.float64]:
    """Thresholds that about a share of the vectors reaches."""
    return midpoints(vectors[:: max(1, len(vectors) // SAMPLE)], directions, share, metric)


def ratios(options: argparse.Namespace) -> Iterator[Line]:
    """Time the three metrics on the same vectors."""
    ours = "halfspace" if options.device == "cpu" else "halfspace-gpu"
    n = options.vectors or 100_000
    for d in (32, 128, 384):
        vectors, directions = clustered(n, d, 1), clustered(256, d, 2)
        engines = {metric: built(ours, vectors, metric, options) for metric in ("ip", "cosine", "l2")}
        for share in options.shares:
            taus = {metric: thresholds(vectors, directions, share, metric) for metric in engines}
            for batch in (1, 256):
                own = directions[: DIRECTIONS if batch == 1 else batch]
                work = f"n = {n:,}, d = {d}, {batch} at once"
                yield from race(work, engines, own, taus, batch=batch, rounds=options.rounds)


def sentences(options: argparse.Namespace) -> Iterator[Line]:
    """Time one point at a time among vectors like those of sentences."""
    n = options.vectors or 200_000
    vectors, directions = clustered(n, 384, 1), clustered(DIRECTIONS, 384, 2)
    engines = among(["halfspace", "faiss-flat", "numpy"], vectors, options)
    for share in options.shares:
        taus = {"l2": thresholds(vectors, directions, share, "l2")}
        yield from race(f"n = {n:,}, d = 384, one at a time", engines, directions, taus, batch=1, rounds=options.rounds)


def points(options: argparse.Namespace) -> Iterator[Line]:
    """Time one point and many in three dimensions, with one radius."""
    n = options.vectors or 2_000_000
    rng = np.random.default_rng(1)
    vectors, directions = rng.random((n, 3), np.float32), rng.random((1000, 3), np.float32)
    engines = among(["halfspace", "sklearn-kdtree", "scipy-ckdtree"], vectors, options)
    own = engines["halfspace"]
    assert isinstance(own, Halfspace)
    engines = {"halfspace": own, "halfspace, ids": ids_alone(own), **engines}
    for share in options.shares:
        radius = np.full(1000, np.median(thresholds(vectors, directions[:DIRECTIONS], share, "l2")))
        for batch, count in ((1, 8 * DIRECTIONS), (1000, 1000)):
            work = f"n = {n:,}, d = 3, {f'{batch:,} at once' if batch > 1 else 'one at a time'}"
            yield from race(work, engines, directions[:count], {"l2": radius}, batch=batch, rounds=options.rounds)


def among(names: list[str], vectors: NDArray[np.float32], options: argparse.Namespace) -> dict[str, Engine]:
    """Build the engines of distances that can run here."""
    return {name: built(name, vectors, "l2", options) for name in names if ENGINES[name].available() is None}


def built(name: str, vectors: NDArray[np.float32], metric: str, options: argparse.Namespace) -> Engine:
    """Build an engine, with the filter that was asked for."""
    if name == "halfspace" and options.filter != "auto":
        name = f"halfspace-{options.filter}"
    return build(name, vectors, threads=options.threads, metric=metric)


PARTS = {"ratios": ratios, "sentences": sentences, "points": points}


def parsed(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="of the ratios")
    parser.add_argument("--filter", default="auto")
    parser.add_argument("--vectors", type=int, help="fewer, or more")
    parser.add_argument("--shares", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--threads", type=int, default=1, help="of each library; scikit-learn's tree has one")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args(given)


def main() -> None:
    """Print a table in Markdown."""
    options = parsed()
    print("| work | library | hits | a direction | over the first | sets that differ |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    with pinned(options.threads):
        for name in options.only:
            for line in PARTS[name](options):
                cells = f"{line.hits:,.0f} | {duration(line.seconds)} | {line.ratio:.2f}"
                differ = "" if line.differ is None else line.differ
                print(f"| {line.work} | {line.label} | {cells} | {differ} |", flush=True)


if __name__ == "__main__":
    main()
