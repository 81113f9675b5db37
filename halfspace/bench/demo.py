"""The demo: questions to Python's documentation, each answer proved by integers, counted and timed.

The proof uses none of the library's arithmetic. Vectors and questions are float16, so every coordinate is an integer
times 2**-24, every product an integer times 2**-48, and the sum of the 384 products of two unit vectors fits in an
int64 with room to spare. `exact_dots` computes those integers; `least_dot` finds the smallest one that reaches tau,
with `fractions`. No step rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halfspace.bench.contest import compare
from halfspace.bench.engines import ENGINES, Engine, Rows, build
from halfspace.bench.engines.spec import rows_of
from halfspace.bench.machine import processors, warning
from halfspace.bench.report import duration
from halfspace.cpu.runtime.threads import available
from halfspace.datasets import PyDocs, load_pydocs
from halfspace.explain import Stage

if TYPE_CHECKING:
    from rich.console import Console

    from halfspace import HalfspaceIndex, Hits

__all__ = ["Best", "Question", "Report", "Timing", "exact_dots", "least_dot", "run", "show"]

_HALF = 2**24  # the inverse of the unit of float16
_ROOM = 2**62  # every exact dot product is smaller than this in magnitude


@dataclass(frozen=True)
class Best:
    """One hit: its score, id, name and text."""

    score: float
    id: int
    name: str
    text: str


@dataclass(frozen=True)
class Question:
    """One question, the number of its hits and the best of them, best first."""

    text: str
    hits: int
    best: tuple[Best, ...]


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of one question and of all questions at once, and how many answers are the exact set."""

    name: str
    one_ms: float
    batch_ms: float
    exact_answers: int


@dataclass(frozen=True)
class Report:
    """All that the demo found out. ``wrong`` has a line for each answer that is not exact; it must be empty."""

    tau: float
    vectors: int
    dim: int
    hits: int
    questions: tuple[Question, ...]
    proved: int
    wrong: tuple[str, ...]
    filter: str
    stages: tuple[Stage, ...]
    dot_products: int
    dot_products_dense: int
    bytes_read: int
    bytes_dense: int
    timings: tuple[Timing, ...]
    warning: str | None


def exact_dots(vectors: NDArray[np.float16], directions: NDArray[np.float16]) -> NDArray[np.int64]:
    """Return every dot product exactly, in units of 2**-48.

    Parameters
    ----------
    vectors : ndarray of float16, shape (n, d)
    directions : ndarray of float16, shape (m, d)

    Returns
    -------
    ndarray of int64, shape (m, n)

    Raises
    ------
    ValueError
        If the values are so large that a sum could reach 2**62.
    """
    integers = []
    for array in (vectors, directions):
        if array.dtype != np.float16:
            raise ValueError(f"exact_dots takes float16, not {array.dtype}")
        integers.append((array.astype(np.float64) * _HALF).astype(np.int64))
    bound = vectors.shape[1] * math.prod(int(np.abs(part).max(initial=0)) for part in integers)
    if bound >= _ROOM:
        raise ValueError(f"a sum of {vectors.shape[1]} products could reach {bound} x 2**-48, too large for int64")
    dots: NDArray[np.int64] = integers[1] @ integers[0].T
    return dots


def least_dot(tau: float) -> int:
    """Return the smallest integer s with ``s * 2**-48 >= tau``, held to the range of what `exact_dots` can return."""
    if math.isinf(tau):
        return _ROOM if tau > 0 else -_ROOM
    return max(-_ROOM, min(_ROOM, math.ceil(Fraction(tau) * _HALF**2)))


def _faults(what: str, hits: Hits, dots: NDArray[np.int64], least: int) -> list[str]:
    """Compare one answer, ids and scores, with the exact dot products (n,) of its question."""
    expected = np.flatnonzero(dots >= least)
    if not np.array_equal(hits.ids, expected):
        missing, extra = np.setdiff1d(expected, hits.ids), np.setdiff1d(hits.ids, expected)
        return [f"{what}: {missing.size} hits missing {missing[:5]}, {extra.size} too many {extra[:5]}"]
    # int64 to float32 rounds once, to nearest even; the power of two is exact (no score is subnormal).
    scores = dots[expected].astype(np.float32) * np.float32(1 / _HALF**2)
    off = np.flatnonzero(hits.scores != scores)
    return (
        [f"{what}: {off.size} scores are not the rounded dot product, first at id {expected[off[0]]}"]
        if off.size
        else []
    )


def _race(
    engines: Sequence[Engine], directions: NDArray[np.float32], tau: float, truth: Rows, rounds: int, threads: int
) -> tuple[tuple[Timing, ...], str | None]:
    """Time the engines in alternating turns, one question at a time and all at once; judge single answers.

    Returns them with a warning, if other programs were at work.
    """
    asked, least = len(directions), processors(threads)
    one, batch = (compare(engines, directions, tau, truth, rounds=rounds, batch=size) for size in (1, asked))
    timings = tuple(
        Timing(single.name.partition("-")[0], 1e3 * single.median, 1e3 * asked * whole.median, asked - single.wrong)
        for single, whole in zip(one, batch, strict=True)
    )
    waited = max((row.waited for row in [*one, *batch]), default=0.0)
    return timings, warning(threads, min(least, processors(threads)), waited)


def _contenders(vectors: NDArray[np.float32], filter: str, threads: int) -> list[Engine]:
    """Build the engines that race; FAISS where it is installed."""
    names = ["halfspace" if filter == "auto" else f"halfspace-{filter}", "numpy", "faiss-flat"]
    return [build(name, vectors, threads=threads) for name in names if ENGINES[name].available() is None]


def _stage_totals(index: HalfspaceIndex, directions: NDArray[np.float32], tau: float) -> tuple[str, tuple[Stage, ...]]:
    """Explain every question; return the filters that answered and the sums per stage, in order of first appearance."""
    filters: dict[str, None] = {}
    totals: dict[str, list[int]] = {}
    for direction in directions:
        explained = index.explain(direction, tau)
        filters[explained.filter] = None
        for s in explained.stages:
            counts = (s.tested, s.dropped, s.taken, s.left, s.dot_products, s.bytes_read)
            totals[s.name] = [a + int(b) for a, b in zip(totals.get(s.name, [0] * 6), counts, strict=True)]
    return "/".join(filters), tuple(Stage(name, *counts) for name, counts in totals.items())


def _best(docs: PyDocs, hits: Hits, top: int) -> tuple[Best, ...]:
    """Return the best hits of one answer, best first, then by id."""
    scores = np.asarray(hits.scores)
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(
        Best(float(scores[j]), int(i), str(docs.names[i]), str(docs.texts[i]))
        for j, i in zip(order, hits.ids[order], strict=True)
    )


def run(
    tau: float = 0.5, *, top: int = 3, filter: str = "auto", threads: int | None = None, rounds: int = 10
) -> Report:
    """Ask every question, prove every answer, count the work and time it.

    Parameters
    ----------
    tau : float
        The threshold on the score, here the cosine of the angle between question and text.
    top : int
        How many of the best hits of each question to return.
    filter : str
        The filter of the index.
    threads : int, optional
        Threads of the index; None for its default. NumPy and FAISS run with their own defaults.
    rounds : int
        How often each engine has its turn at all questions; 0 for no timing.

    Returns
    -------
    Report
        With ``wrong`` empty if and only if every answer, asked alone and in a batch, is exact in ids and scores.

    Raises
    ------
    ValueError
        If tau is NaN or an argument is one the index refuses.
    """
    from halfspace import HalfspaceIndex

    docs = load_pydocs()
    n, dim = docs.vectors.shape
    vectors, directions = docs.vectors.astype(np.float32), docs.query_vectors.astype(np.float32)
    index = HalfspaceIndex(dim, filter=filter, threads=threads)
    index.insert(vectors)  # ids 0..n-1, the rows
    index.compact()
    batch = list(index.query(directions, tau))
    alone = [index.query(direction, tau) for direction in directions]
    dots, least = exact_dots(docs.vectors, docs.query_vectors), least_dot(tau)
    wrong: list[str] = []
    for j, text in enumerate(docs.query_texts):
        wrong += _faults(f"{text!r} asked alone", alone[j], dots[j], least)
        wrong += _faults(f"{text!r} in a batch", batch[j], dots[j], least)
    places, ids = np.nonzero(dots >= least)
    truth = rows_of(places, ids, len(directions))
    used, stages = _stage_totals(index, directions, tau)
    workers = available() if threads is None else threads
    timings: tuple[Timing, ...] = ()
    warned: str | None = None
    if rounds:
        timings, warned = _race(_contenders(vectors, filter, workers), directions, tau, truth, rounds, workers)
    return Report(
        tau=tau,
        vectors=n,
        dim=dim,
        hits=len(ids),
        questions=tuple(
            Question(str(docs.query_texts[j]), len(hits), _best(docs, hits, top)) for j, hits in enumerate(batch)
        ),
        proved=2 * len(directions) - len(wrong),
        wrong=tuple(wrong),
        filter=used,
        stages=stages,
        dot_products=sum(stage.dot_products for stage in stages),
        dot_products_dense=n * len(directions),
        bytes_read=sum(stage.bytes_read for stage in stages),
        bytes_dense=vectors.nbytes * len(directions),
        timings=timings,
        warning=warned,
    )


def show(report: Report, console: Console, questions: int) -> None:
    """Print a report for people: the first questions with their best hits, the proof, the work and the times."""
    from rich.table import Table
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    asked = len(report.questions)
    line(f"{report.vectors:,} docstrings of Python's standard library, {report.dim} dimensions; {asked} questions")
    line(f"every text with <question, text> >= {report.tau:g}: {report.hits:,} hits\n")
    for question in report.questions[:questions]:
        line(f"{question.text}   ({question.hits} hits)", "bold")
        for hit in question.best:
            text = hit.text if len(hit.text) <= 72 else hit.text[:71].rsplit(" ", 1)[0] + " …"
            line(f"  {hit.score:.4f}  {hit.name}: {text}")
    if asked > questions:
        line(f"... and {asked - questions} more questions (--show {asked} prints them all)", "dim")

    line("\nProof", "bold")
    if report.wrong:
        for fault in report.wrong:
            line(f"  WRONG  {fault}", "red")
    else:
        line(
            f"  {report.proved} of {2 * asked} answers (each question alone and in a batch) are exactly the set that\n"
            "  brute force in integer arithmetic finds, and each score is the real dot product rounded once.",
            "green",
        )

    line(f"\nWork, filter {report.filter!r}, all {asked} questions", "bold")
    table = Table(box=None, pad_edge=True)
    table.add_column("stage")
    for column in ("tested", "dropped", "taken", "left", "dot products", "bytes read"):
        table.add_column(column, justify="right")
    for s in report.stages:
        counts = (s.tested, s.dropped, s.taken, s.left, s.dot_products, s.bytes_read)
        table.add_row(s.name, *(f"{count:,}" for count in counts))
    console.print(table)
    line(
        f"  dot products: {report.dot_products:,} of brute force's {report.dot_products_dense:,}"
        f" ({report.dot_products / report.dot_products_dense:.2%});"
        f" bytes: {report.bytes_read:,} of {report.bytes_dense:,} ({report.bytes_read / report.bytes_dense:.2%})"
    )

    if report.timings:
        line("\nTime, median of warm runs in alternating turns, each library with its own default threads", "bold")
        table = Table(box=None, pad_edge=True)
        table.add_column("")
        for column in ("one question", f"{asked} at once", "exact answers"):
            table.add_column(column, justify="right")
        names = {
            "halfspace": "halfspace query, with scores",
            "numpy": "numpy  flatnonzero(X @ q >= tau)",
            "faiss": "faiss  IndexFlatIP.range_search",
        }
        for t in report.timings:
            table.add_row(
                names[t.name], duration(t.one_ms / 1e3), duration(t.batch_ms / 1e3), f"{t.exact_answers} of {asked}"
            )
        console.print(table)
        if report.warning:
            line(f"  {report.warning}", "bold red")
