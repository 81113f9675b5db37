"""One query at a time beside brute force: medians of alternating turns, in one process.

    python -m asv_benchmarks.experiments.single --only clustered radius points --threads 1
    python -m asv_benchmarks.experiments.single --only keys --keys keys.npz:layer2_keys keys.npz:layer2_queries
    python -m asv_benchmarks.experiments.single --only sentences --sentences texts.npz:vectors texts.npz:directions

``clustered``
    400,000 clustered unit vectors of 384 dimensions; FAISS beside it.
``radius``
    200,000 of them, and distances.
``points``
    2,000,000 Gaussian points of 3 dimensions.
``keys``
    The attention keys of a file, or those in the package.
``sentences``
    The sentences of a file, or those in the package, beside Panorama, too, with each of its settings.

Thresholds are real scores' midpoints, that a share of the vectors reaches, or those that are given. FAISS returns
scores, and so does ``halfspace``; NumPy returns ids alone. Sets are counted that differ from the first line's.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from asv_benchmarks.benchmarks.common import packaged
from asv_benchmarks.experiments.metrics import Line, race
from halfspace.bench import ENGINES, Engine, build, clustered, gaussian, midpoints, pinned
from halfspace.bench.report import duration

DIRECTIONS = 16
"""Queries of a turn."""
SHARES = (1e-4, 1e-3, 1e-2)
TAUS = (0.4, 0.6, 0.8)


def shares(
    work: str,
    vectors: NDArray[np.float32],
    directions: NDArray[np.float32],
    names: tuple[str, ...],
    options: argparse.Namespace,
    metric: str = "ip",
) -> Iterator[Line]:
    """Time engines at thresholds that some shares of the vectors reach."""
    engines = {name: build(name, vectors, threads=options.threads, metric=metric) for name in names}
    for share in options.shares:
        taus = {metric: midpoints(vectors, directions, share, metric)}
        yield from race(work, engines, directions, taus, batch=1, rounds=options.rounds)


def clustered_vectors(options: argparse.Namespace) -> Iterator[Line]:
    """Time one query among unit vectors that lie around centres."""
    n = options.vectors or 400_000
    given = clustered(n, 384, 1), clustered(DIRECTIONS, 384, 2)
    yield from shares(f"clustered, n = {n:,}, d = 384", *given, ("halfspace", "faiss-flat"), options)


def radius(options: argparse.Namespace) -> Iterator[Line]:
    """Time one radius among the same vectors."""
    n = options.vectors or 200_000
    given = clustered(n, 384, 1), clustered(DIRECTIONS, 384, 2)
    yield from shares(f"distances, n = {n:,}, d = 384", *given, ("halfspace", "faiss-flat"), options, "l2")


def points(options: argparse.Namespace) -> Iterator[Line]:
    """Time one query in three dimensions."""
    n = options.vectors or 2_000_000
    given = gaussian(n, 3, 1), gaussian(DIRECTIONS, 3, 2)
    yield from shares(f"points, n = {n:,}, d = 3", *given, ("halfspace", "faiss-flat", "numpy"), options)


def keys(options: argparse.Namespace) -> Iterator[Line]:
    """Time one query among the keys of attention."""
    vectors, directions = loaded(options.keys, "keys", options)
    work = f"attention keys, n = {len(vectors):,}, d = {vectors.shape[1]}"
    yield from shares(work, vectors, directions, ("halfspace", "faiss-flat", "numpy"), options)


def sentences(options: argparse.Namespace) -> Iterator[Line]:
    """Time one query among sentences, beside early exits on principal axes."""
    vectors, directions = loaded(options.sentences, "docstrings", options)
    engines: dict[str, Engine] = {
        name: build(name, vectors, threads=options.threads) for name in ("halfspace", "faiss-flat", "numpy")
    }
    for setting in ENGINES["faiss-panorama"].curve:
        engine = build("faiss-panorama", vectors, threads=options.threads, **setting)
        engines[engine.label] = engine
    for tau in options.taus:
        taus = {"ip": np.full(len(directions), tau)}
        work = f"sentences, n = {len(vectors):,}, d = {vectors.shape[1]}, tau = {tau:g}"
        yield from race(work, engines, directions, taus, batch=1, rounds=options.rounds)


def read(path: str) -> NDArray[np.float32]:
    """Read the rows of an array (..., d): PATH.npy, or PATH.npz:ARRAY."""
    file, _, member = path.partition(":")
    array = np.load(file)[member] if member else np.load(file)
    return array.reshape(-1, array.shape[-1]).astype(np.float32)


def loaded(
    given: list[str] | None, name: str, options: argparse.Namespace
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read vectors and directions, or take those in the package."""
    vectors, asked = map(read, given) if given else packaged(name)
    step = max(1, len(asked) // DIRECTIONS)
    directions = np.ascontiguousarray(asked[::step][:DIRECTIONS], np.float32)
    return np.ascontiguousarray(vectors[: options.vectors], np.float32), directions


PARTS = {"clustered": clustered_vectors, "radius": radius, "points": points, "keys": keys, "sentences": sentences}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--keys", nargs=2, metavar=("VECTORS", "DIRECTIONS"))
    parser.add_argument("--sentences", nargs=2, metavar=("VECTORS", "DIRECTIONS"))
    parser.add_argument("--vectors", type=int, help="fewer, or more")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--taus", type=float, nargs="+", default=TAUS)
    parser.add_argument("--threads", type=int, default=1, help="of each library")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("| work | library | hits | a query | over the first | sets that differ |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    with pinned(options.threads):
        for name in options.only:
            for line in PARTS[name](options):
                cells = f"{line.hits:,.0f} | {duration(line.seconds)} | {line.ratio:.2f} | {line.differ}"
                print(f"| {line.work} | {line.label} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
