"""Measure what share of the vectors survives each filter, and what rules that promise nothing would miss.

    python -m asv_benchmarks.experiments.survivors [--markdown] [--threads 1]
    python -m asv_benchmarks.experiments.survivors --data vectors.npy --data file.npz:vectors file.npz:queries

Without `--data`: the package's own data and seeded generators. `--data VECTORS [DIRECTIONS]`, which may be repeated,
measures files instead: each of the two is PATH.npy, PATH.fvecs, PATH.bvecs or PATH.npz:ARRAY, and an ARRAY may have
any shape (..., d). Where directions are not given, some of the vectors are taken out and serve as directions.

A row of a table is a data set and a share f of hits: tau is the float64 midpoint between the k-th and the (k+1)-th
real score, k = f n, for each of up to 16 directions that are not stored vectors; figures are means over directions.
They are in percent, and of the library's filters they are counts of `HalfspaceIndex.explain`, so they repeat. A vector
survives a filter if no bound has dropped it: it was taken, or is left to be looked at. Bytes are all that a query
reads, to the scores of its hits, in percent of the float32 vectors.

The last table has two rules that do *not* bound every vector. Both belong to the method of the 2026 paper that this
library starts from; here they are in plain NumPy, over the same groups as the library's balls.

*A threshold for each subspace.* A row is kept if in each subspace s the upper bound of its group reaches tau_s. With
tau_s the least <q_s, x_s> of all hits x no hit is lost, but it takes the answer to say what it is. So it is estimated:
the least <q_s, x_s> / |q_s| is read off the answers of the *other* directions, and the least of these, or their median,
stands for this one's. (The library's gates and sums follow from tau alone.)

*Stopping on centroids.* Each subspace lists its groups by the score <q_s, c_s> of their centroids, and the sweep goes
down all lists in step until the scores of a row sum to less than tau. Vectors lie on both sides of their centroid, so
that sum is no upper bound of what has not been seen.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from asv_benchmarks.benchmarks.work import built
from halfspace import HalfspaceIndex, cpu
from halfspace.bench import clustered, midpoints
from halfspace.datasets import load_keys, load_pydocs
from halfspace.explain import Stage
from halfspace.files.vectors import read_vectors
from halfspace.model.filters.balls import GROUP_SIZE, WIDTH

SHARES = (0.001, 0.01, 0.1)
SUBSPACES = (1, 4, 8, 16, 32)
SIZES = (4, 16)
DIRECTIONS = 16

FILTERS = {"sweep": ("sweep", "sweep gates balls"), "cells": ("norms axes high", "all"), "groups": ("chunks groups",)}
"""Stages of each filter after which survivors are counted."""


class Data(NamedTuple):
    """What is measured."""

    name: str
    vectors: np.ndarray  # float32 (n, d)
    directions: np.ndarray  # float32 (m, d)


class Question(NamedTuple):
    """A halfspace, and the rows that lie in it."""

    direction: np.ndarray  # float32 (d,)
    tau: float
    answer: np.ndarray  # int64 (k,)


# -- data -------------------------------------------------------------------------------------------------------------


def packaged() -> Iterator[Data]:
    """Yield the real data of the package, and generated data."""
    keys, docs = load_keys(), load_pydocs()
    yield choose("attention keys", keys.keys, keys.queries.reshape(-1, keys.queries.shape[-1]))
    yield choose("docstrings", docs.vectors, docs.query_vectors)
    for d in (3, 8, 16):
        rng = np.random.default_rng(d)
        yield choose("Gaussian", rng.standard_normal((50_000, d)), rng.standard_normal((DIRECTIONS, d)))
    yield choose("clustered unit vectors", clustered(20_000, 384, 1), clustered(DIRECTIONS, 384, 2))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 64))
    x *= (1 + rng.pareto(3, (len(x), 1))) / np.linalg.norm(x, axis=1, keepdims=True)
    yield choose("heavy-tailed norms", x, rng.standard_normal((DIRECTIONS, 64)))


def given(vectors: str, directions: str | None = None) -> Data:
    """Read vectors from a file, and directions; without these, take some of the vectors out."""
    x = load(vectors)
    name = vectors.replace("\\", "/").rsplit("/", 1)[-1]
    if directions is not None:
        return choose(name, x, load(directions))
    out = evenly(len(x))
    return choose(name, np.delete(x, out, axis=0), x[out])


def load(place: str) -> np.ndarray:
    """Read an array (..., d) as vectors (n, d)."""
    path, npz, member = place.partition(".npz:")
    if not npz:
        return read_vectors(place)
    with np.load(path + ".npz", allow_pickle=False) as arrays:
        array = arrays[member]
    return array.reshape(-1, array.shape[-1])


def choose(name: str, vectors: np.ndarray, directions: np.ndarray) -> Data:
    """Make a data set with some of the directions."""
    (n, d), (m, e) = vectors.shape, directions.shape
    if d != e or m < 2 or n < 2:
        raise ValueError(f"{name}: vectors {(n, d)} and directions {(m, e)} do not fit, or are too few")
    x = np.ascontiguousarray(vectors, np.float32)
    return Data(f"{name}, n = {n:,}, d = {d}", x, directions[evenly(m)].astype(np.float32))


def evenly(count: int) -> np.ndarray:
    """Choose some of `count` rows."""
    return np.linspace(0, count - 1, min(DIRECTIONS, count)).astype(np.int64)


def ask(data: Data, share: float, threads: int) -> list[Question]:
    """Ask in each direction for the best `share` of the vectors."""
    index = built(data.vectors, threads, filter="scan")
    taus = midpoints(data.vectors, data.directions, share).tolist()
    hits = index.query(data.directions, taus, scores=False)
    return [Question(q, tau, own.ids) for q, tau, own in zip(data.directions, taus, hits, strict=True)]


# -- the filters of the library ---------------------------------------------------------------------------------------


def survivors(stages: dict[str, Stage], names: str) -> int:
    """Count the vectors that none of the named stages has dropped; `stages` lacks those that had nothing to do."""
    if names == "all":
        return stages["verify"].tested
    passed = [stages[name] for name in names.split() if name in stages]
    return sum(stage.taken for stage in passed) + passed[-1].left


def measure(index: HalfspaceIndex, asked: list[Question], points: tuple[str, ...]) -> list[str]:
    """Measure what share of vectors survives the stages of each of `points`, and what share of the bytes is read."""
    counts = []
    for question in asked:
        stages = {stage.name: stage for stage in index.explain(question.direction, question.tau).stages}
        read = sum(stage.bytes_read for stage in stages.values()) / (4 * index.dim)
        counts.append([*(survivors(stages, names) for names in points), read])
    return [percent(share) for share in np.mean(counts, axis=0) / len(index)]


def orders(data: Data, subspaces: int) -> Iterator[Data]:
    """Yield the data with its dimensions in five orders, in two of them rotated to principal axes first."""
    dim = data.vectors.shape[1]
    places = np.arange(dim)
    dealt = np.argsort(
        np.minimum(places % (2 * subspaces), 2 * subspaces - 1 - places % (2 * subspaces)), kind="stable"
    )
    centred = data.vectors.astype(np.float64) - data.vectors.mean(axis=0, dtype=np.float64)
    by_variance = np.argsort(-centred.var(axis=0), kind="stable")
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    for turn in (np.eye(dim), np.eye(dim)[:, by_variance], np.eye(dim)[:, by_variance[dealt]], axes, axes[:, dealt]):
        x, q = data.vectors @ turn, data.directions @ turn
        yield Data(data.name, x.astype(np.float32), q.astype(np.float32))


# -- rules without a promise ------------------------------------------------------------------------------------------


class Groups(NamedTuple):
    """The balls of all subspaces, in float64 and not coded."""

    starts: np.ndarray  # (S,), the first dimension of each subspace
    centroids: np.ndarray  # (groups, d), the dimensions of each subspace from its own groups
    radii: np.ndarray  # (groups, S)
    holders: np.ndarray  # (n, S), the group of each row

    def of_rows(self, marks: np.ndarray) -> np.ndarray:
        """Pass marks (groups, S) of groups on to the rows in them, (n, S)."""
        return np.take_along_axis(marks, self.holders, axis=0)

    def scores(self, x: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Compute <q_s, x_s> of vectors (k, d), as (k, S)."""
        return np.add.reduceat(x * q.astype(np.float64), self.starts, axis=1)

    def lengths(self, q: np.ndarray) -> np.ndarray:
        """Compute |q_s|, (S,)."""
        return np.sqrt(self.scores(q[None], q)[0])

    def gate(self, q: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """Mark the rows (n,) whose group may reach its threshold in each subspace; thresholds (S,)."""
        uppers = self.scores(self.centroids, q) + self.lengths(q) * self.radii
        return self.of_rows(uppers >= thresholds).all(axis=1)

    def sweep(self, q: np.ndarray, tau: float) -> np.ndarray:
        """Mark the rows (n,) that are collected before the scores of centroids sum to less than tau."""
        scores = self.scores(self.centroids, q)
        lists = np.argsort(-scores, axis=0, kind="stable")
        depth = int((np.take_along_axis(scores, lists, axis=0).sum(axis=1) >= tau).sum())  # sums descend
        collected = np.zeros(scores.shape, np.bool_)
        np.put_along_axis(collected, lists[:depth], True, axis=0)
        return self.of_rows(collected).any(axis=1)


def group(vectors: np.ndarray, threads: int) -> Groups:
    """Partition vectors (n, d) as the library does by default."""
    rows, dim = vectors.shape
    subspaces = max(1, round(dim / WIDTH))
    columns = dim * np.arange(subspaces + 1) // subspaces
    members = cpu.partition(vectors, columns, GROUP_SIZE, threads)
    owners, firsts = np.arange(rows) // GROUP_SIZE, np.arange(0, rows, GROUP_SIZE)
    centroids, radii = np.empty((firsts.size, dim)), np.empty((firsts.size, subspaces))
    holders = np.empty((rows, subspaces), np.int64)
    for s, (order, low, high) in enumerate(zip(members, columns[:-1], columns[1:], strict=True)):
        x = vectors[order, low:high].astype(np.float64)
        centroids[:, low:high] = np.add.reduceat(x, firsts) / np.bincount(owners)[:, None]
        x -= centroids[owners, low:high]
        radii[:, s] = np.sqrt(np.maximum.reduceat((x * x).sum(axis=1), firsts))
        holders[order, s] = owners
    return Groups(columns[:-1], centroids, radii, holders)


def unpromised(data: Data, asked: list[Question], groups: Groups) -> list[str]:
    """Measure the rules: the share of vectors that they keep, their recall, and how many answers they leave whole."""
    lengths = np.array([groups.lengths(q) for q in data.directions])
    least = np.array([groups.scores(data.vectors[answer], q).min(axis=0) for q, _, answer in asked])
    least -= 1e-9 * np.abs(least).max()  # far more than float64 rounds
    depths = np.divide(least, lengths, out=np.zeros_like(least), where=lengths > 0)
    kept: list[list[np.ndarray]] = [[], [], [], []]
    for k, (q, tau, _) in enumerate(asked):
        others = np.delete(depths, k, axis=0)
        thresholds = (least[k], lengths[k] * others.min(axis=0), lengths[k] * np.median(others, axis=0))
        rules = [groups.gate(q, own) for own in thresholds] + [groups.sweep(q, tau)]
        for marks, rows in zip(kept, rules, strict=True):
            marks.append(rows)
    cells = []
    for rule, marks in enumerate(kept):
        recalls = [float(rows[answer].mean()) for rows, (_, _, answer) in zip(marks, asked, strict=True)]
        whole = f"{recalls.count(1.0)}/{len(recalls)}"
        shown = [percent(float(np.mean(marks))), f"{100 * np.mean(recalls):.2f}", whole]
        if rule < 3 and groups.starts.size == 1:  # the threshold of the only subspace is tau
            shown = ["-"] * 3
        cells += shown if rule > 0 else shown[:1]
    return cells


# -- tables -----------------------------------------------------------------------------------------------------------

BALLS = [f"S = {subspaces}" for subspaces in SUBSPACES]
OTHERS = ["S", "sweep collects", "its sums leave", "bytes", "high codes leave", "low codes leave", "bytes"]
OTHERS += ["groups leave", "bytes"]
ORDERS = ["S", "as they come", "by variance", "variance balanced", "principal axes", "axes balanced"]
RECALL = ["recall", "whole answers"]
RULES = ["S", "own thresholds", "least of others", *RECALL, "median of others", *RECALL, "centroids", *RECALL]
BALLS_OF = {size: f"Balls in groups of {size}: vectors left (bytes read), %" for size in SIZES}
ORDERED = "Balls in groups of 4, dimensions in other orders: vectors left, %"
STAGED = "Sweep, cells and groups: vectors left and bytes read, %"
UNPROMISED = "Rules without a promise: vectors left and recall, %"
TABLES = dict.fromkeys(BALLS_OF.values(), BALLS) | {ORDERED: ORDERS, STAGED: OTHERS, UNPROMISED: RULES}


def rows_of(data: Data, threads: int, step: Callable[[], object]) -> dict[str, list[list[str]]]:
    """Measure the rows of a data set in each of the tables; `step` is called after each index."""
    dim, groups = data.vectors.shape[1], group(data.vectors, threads)
    asked = [ask(data, share, threads) for share in SHARES]
    tables = {title: [[data.name, percent(share)] for share in SHARES] for title in TABLES}
    for row in tables[ORDERED] + tables[STAGED] + tables[UNPROMISED]:
        row.append(str(groups.starts.size))
    for size, title in BALLS_OF.items():
        for subspaces in SUBSPACES:
            options = {"filter": "balls", "subspaces": subspaces, "group_size": size}
            index = built(data.vectors, threads, **options) if subspaces <= dim else None
            for row, some in zip(tables[title], asked, strict=True):
                row.append("{} ({})".format(*measure(index, some, ("gates balls",))) if index else "-")
            step()
    for own in orders(data, groups.starts.size):
        index = built(own.vectors, threads, filter="balls")
        for row, share in zip(tables[ORDERED], SHARES, strict=True):
            row.append(measure(index, ask(own, share, threads), ("gates balls",))[0])
        step()
    for name, points in FILTERS.items():
        index = built(data.vectors, threads, filter=name)
        for row, some in zip(tables[STAGED], asked, strict=True):
            row += measure(index, some, points)
        step()
    for row, some in zip(tables[UNPROMISED], asked, strict=True):
        row += unpromised(data, some, groups)
    step()
    return tables


def percent(share: float) -> str:
    """Write a share in percent."""
    return f"{100 * share:.3g}"


def show(title: str, columns: list[str], rows: list[list[str]], markdown: bool) -> None:
    """Print a table."""
    if markdown:
        print(f"### {title}\n\n| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}")
        print(*(f"| {' | '.join(row)} |" for row in rows), "", sep="\n")
        return
    table = Table(columns[0], title=title)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for k, row in enumerate(rows, 1):
        table.add_row(*row, end_section=k % len(SHARES) == 0)
    Console().print(table)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", action="append", metavar="FILE", help="vectors, and directions if any")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if any(len(files) > 2 for files in options.data or []):
        parser.error("--data takes a file of vectors and at most one of directions")
    try:
        sets = [given(*files) for files in options.data] if options.data else list(packaged())
    except (OSError, ValueError, KeyError) as error:
        parser.error(str(error))
    parts = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(sets) * (len(SIZES) * len(SUBSPACES) + len(ORDERS) + len(FILTERS)))
        for data in sets:
            progress.update(task, description=data.name)
            parts.append(rows_of(data, options.threads, lambda: progress.advance(task)))
    for title, columns in TABLES.items():
        show(title, ["data", "hits", *columns], [row for tables in parts for row in tables[title]], options.markdown)


if __name__ == "__main__":
    main()
