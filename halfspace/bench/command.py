"""What ``halfspace bench`` does: data, contenders, turns, and what comes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.arguments import checks
from halfspace.bench.contest import REFERENCE, compare
from halfspace.bench.engines import ENGINES, Engine, build, build_curve
from halfspace.bench.engines.spec import Rows, reason_of
from halfspace.bench.machine import processors
from halfspace.bench.plot import draw
from halfspace.bench.report import Report, markdown, share_of, show
from halfspace.bench.threads import pinned
from halfspace.bench.truth import exact_hits, midpoints, recall_and_false, wrong_answers
from halfspace.cpu.runtime.threads import available
from halfspace.datasets import load_keys, load_pydocs
from halfspace.files.binary import read_answers
from halfspace.files.outputs import write_text
from halfspace.files.vectors import STANDARD_INPUT, called, read_vectors
from halfspace.model.metrics import METRICS
from halfspace.terminal import console, print_json, progress, spinner

__all__ = ["OUTPUTS", "PICTURES", "Plan", "Task", "run", "tasks"]

PICTURES = (".svg", ".png", ".pdf")
OUTPUTS = (".md", ".json")

_COMPILED = 40_000
"""Vectors that make every kernel of an index necessary."""


@dataclass(frozen=True)
class Task:
    """Vectors (n, d), directions (m, d), and thresholds (m,) or, without them, the share of the vectors to find.

    ``answers`` are those that came with the vectors, to be compared with the exact ones.
    """

    data: str
    vectors: NDArray[np.float32]
    directions: NDArray[np.float32]
    tau: NDArray[np.float64] | None = None
    share: float = 1.0
    answers: Rows | None = None

    def spread(self, queries: int) -> Task:
        """Keep at most so many directions, evenly spread."""
        m = len(self.directions)
        kept = np.arange(min(queries, m)) * m // min(queries, m)
        tau = None if self.tau is None else self.tau[kept]
        answers = None if self.answers is None else _some(self.answers, kept)
        return replace(self, directions=self.directions[kept], tau=tau, answers=answers)


@dataclass(frozen=True)
class Plan:
    """How to compare.

    Attributes
    ----------
    names : sequence of str, optional
        Engines; by default all but those of single filters.
    queries, batch, rounds : int
        Directions asked, directions in a call, turns.
    threads : int, optional
        Of everyone; all CPUs by default.
    metric : {"ip", "cosine", "l2"}
    """

    names: Sequence[str] | None
    queries: int
    batch: int
    rounds: int
    threads: int | None
    metric: str = "ip"

    def engines(self) -> list[str]:
        """Return the engines to compare, each once."""
        if self.names is not None:
            return list(dict.fromkeys(checks.one_of(name, "engine", tuple(ENGINES)) for name in self.names))
        return [
            name
            for name, spec in ENGINES.items()
            if self.metric in spec.metrics and (not name.startswith("halfspace-") or name == "halfspace-gpu")
        ]


def tasks(
    vectors: str | None,
    directions: str | None,
    taus: Callable[[int], NDArray[np.float64]] | None,
    share: float | None,
    metric: str = "ip",
    first: int | None = None,
    answers: Path | None = None,
) -> list[Task]:
    """Read the files, or take the data in the package where none are given.

    Parameters
    ----------
    vectors, directions : str, optional
        Files, as `halfspace.files.vectors.read_vectors` takes them.
    taus : callable, optional
        Gives the thresholds of m directions.
    share : float, optional
        In place of them.
    metric : {"ip", "cosine", "l2"}
    first : int, optional
        Take so many vectors of their file.
    answers : Path, optional
        A file as `halfspace.files.binary.read_answers` takes it: what is known of the answers.

    Raises
    ------
    ValueError
        If arguments do not go together, or the numbers are none that can be compared.
    """
    checks.one_of(metric, "metric", METRICS)
    if vectors is None:
        if any(option is not None for option in (taus, share, first, answers)):
            raise ValueError("--tau, --share, --first and --answers go with files of vectors and directions")
        docs, keys = load_pydocs(), load_keys()
        asked = docs.query_vectors.astype(np.float32)
        steps = keys.queries.reshape(-1, keys.keys.shape[1])[::8].astype(np.float32)
        name, limit = ("radius", 1.0) if metric == "l2" else ("tau", 0.5)  # the same halfspace of unit vectors
        return [
            Task(f"docstrings, {name} = {limit:g}", docs.vectors.astype(np.float32), asked, np.full(len(asked), limit)),
            Task("attention keys, 1 %", keys.keys.astype(np.float32), steps, share=0.01),
        ]
    if directions is None:
        raise ValueError("give both a file of vectors and one of directions")
    if (taus is None) == (share is None):
        raise ValueError("give one of --tau and --share")
    if vectors == directions == STANDARD_INPUT:
        raise ValueError("only one of the two can come from standard input")
    with progress("reading") as report:
        x = _floats(read_vectors(vectors, report)[:first], called(vectors), metric)
        q = _floats(read_vectors(directions, report), called(directions), metric)
    if x.shape[1] != q.shape[1]:
        raise ValueError(f"{called(directions)}: directions have {q.shape[1]} dimensions, the vectors {x.shape[1]}")
    data = Path(called(vectors)).name
    known = None if answers is None else _known(answers, len(x), len(q), first)
    if taus is not None:
        return [Task(data, x, q, taus(len(q)), answers=known)]
    if share is None or not 0 < share <= 1:
        raise ValueError(f"--share must be above 0 and at most 1, got {share}")
    return [Task(data, x, q, share=share, answers=known)]


def _known(path: Path, n: int, m: int, first: int | None) -> Rows:
    """Read the answers of m directions; of those among more vectors, keep what is among the first n."""
    offsets, ids = read_answers(path)
    if len(offsets) != m + 1:
        raise ValueError(f"{path}: answers of {len(offsets) - 1} directions, where there are {m}")
    if first is not None:
        rows = np.repeat(np.arange(m), np.diff(offsets))[ids < n]
        return np.searchsorted(rows, np.arange(m + 1)), ids[ids < n]
    if ids.size and ids.max() >= n:
        raise ValueError(f"{path}: answers among more vectors than these {n}: one has the id {ids.max()}")
    return offsets, ids


def _some(answers: Rows, kept: NDArray[np.int64]) -> Rows:
    """Return the answers of some directions."""
    offsets, ids = answers
    parts = [ids[offsets[row] : offsets[row + 1]] for row in kept]
    return np.cumsum([0, *map(len, parts)]), np.concatenate(parts)


def run(tasks: Sequence[Task], plan: Plan, plot: Path | None, output: Path | None, as_json: bool) -> None:
    """Compare on each task, show it when it is done, and write what was asked for.

    Parameters
    ----------
    tasks : sequence of Task
    plan : Plan
    plot, output : Path, optional
    as_json : bool
        Print one JSON document and nothing else.
    """
    names = plan.engines()
    workers = available() if plan.threads is None else plan.threads
    reports = []
    for task in tasks:
        reports.append(_report(task.spread(plan.queries), plan, names, workers))
        if not as_json:
            show(reports[-1], console())
    document = {"comparisons": [report.document() for report in reports]}
    if plot is not None:
        with spinner("drawing"):
            draw(reports, plot)
    if output is not None:
        write_text(output, json.dumps(document, indent=1) if output.suffix.lower() == ".json" else markdown(reports))
    if as_json:
        print_json(document)


def _report(task: Task, plan: Plan, names: Sequence[str], threads: int) -> Report:
    """Build all engines, find the exact answers, and compare."""
    left_out: dict[str, str] = {}
    with pinned(threads), spinner(f"{task.data}: exact answers"):
        tau = midpoints(task.vectors, task.directions, task.share, plan.metric) if task.tau is None else task.tau
        truth = exact_hits(task.vectors, task.directions, tau, plan.metric)
    engines = list(_built(task, names, threads, plan.metric, left_out))
    if not engines:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
    before = processors(threads)
    with progress(task.data) as report:
        how: dict[str, Any] = {"threads": threads, "rounds": plan.rounds, "batch": plan.batch}
        rows = compare(engines, task.directions, tau, truth, **how, progress=report)
    least, (n, d) = min(before, processors(threads)), task.vectors.shape
    asked, hits = len(task.directions), len(truth[1])
    how |= {"processors": least, "known": None if task.answers is None else _judged(task.answers, truth, asked)}
    return Report(task.data, plan.metric, n, d, asked, **how, hits=hits, rows=rows, left_out=left_out)


def _judged(answers: Rows, truth: Rows, asked: int) -> str:
    """Say how right the answers are that came with the vectors."""
    (recall, false), wrong = recall_and_false(answers, truth), wrong_answers(answers, truth)
    return (
        f"Of the answers that came with the vectors, {wrong} of {asked} are not the exact set: recall "
        f"{share_of(recall)}, {false:,} false positives."
    )


def _built(task: Task, names: Sequence[str], threads: int, metric: str, left_out: dict[str, str]) -> Iterator[Engine]:
    """Build what can run at each of its settings; note why the others are left out."""
    for name in names:
        reason = ENGINES[name].available() or ENGINES[name].why_not(*task.vectors.shape, metric=metric)
        if reason is None:
            try:
                with spinner(f"{task.data}: building {name}"):
                    if name.startswith(REFERENCE):  # compiles, which is no part of the time of a build
                        few = build(name, task.vectors[:_COMPILED], threads=threads, metric=metric)
                        few.query(task.directions[:1], 0.0)
                    engines = list(build_curve(name, task.vectors, threads=threads, metric=metric))
                yield from engines
            except (RuntimeError, MemoryError) as error:  # what libraries raise of data that they cannot take
                reason = reason_of(error)
        if reason is not None:
            left_out[name] = reason


def _floats(array: NDArray[Any], path: str, metric: str) -> NDArray[np.float32]:
    """Round to float32; refuse what is empty or not finite, and zero vectors, which have no cosine."""
    if 0 in array.shape:
        raise ValueError(f"{path}: holds no vectors, shape {array.shape}")
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(array, np.float32)
    bad = np.flatnonzero(~np.isfinite(rounded).all(axis=1))
    if bad.size:
        raise ValueError(f"{path}: row {bad[0]} is not finite in float32")
    zero = np.flatnonzero(~rounded.any(axis=1))
    if metric == "cosine" and zero.size:
        raise ValueError(f"{path}: row {zero[0]} is zero, which has no cosine")
    return rounded
