"""A comparison: alternating turns in one process, medians and quartiles, answers judged against the exact ones."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from halfspace.bench.engines import ENGINES, Engine, Rows
from halfspace.bench.engines.spec import join
from halfspace.bench.threads import pinned
from halfspace.bench.truth import recall_and_false, wrong_answers

__all__ = ["REFERENCE", "Row", "Timing", "alternate", "compare", "median_ratio", "pinned", "reference_among"]

REFERENCE = "halfspace"
"""The engine that ratios are to, and the beginning of the names of its kind."""
_PAUSE = 0.05
"""Seconds in which threads that the one before left spinning go to sleep."""
_WARM_UP = 0.05
_LONG = 0.5
"""Seconds of a call that needs no warm-up."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Timing:
    """Seconds of a call, round by round, and how long all threads of the process ran meanwhile.

    Examples
    --------
    >>> timing = Timing((1.0, 2.0, 4.0))
    >>> timing.median, timing.quartiles
    (2.0, (1.5, 3.0))
    """

    samples: tuple[float, ...]
    ran: tuple[float, ...] = ()

    @property
    def waited(self) -> float:
        """The share of the time in which not one thread ran, in the median over rounds; 0 where that is not known."""
        parts = [max(0.0, 1 - own / seconds) for own, seconds in zip(self.ran, self.samples, strict=False)]
        return statistics.median(parts) if parts else 0.0

    @property
    def median(self) -> float:
        """The median over rounds."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile over rounds."""
        low, high = np.quantile(self.samples, (0.25, 0.75))
        return float(low), float(high)


def alternate(
    calls: Mapping[str, Callable[[], object]], rounds: int, progress: Progress | None = None
) -> dict[str, Timing]:
    """Time calls in alternating turns: in each round, each has a pause, a warm-up unless it is long, and is timed once.

    Parameters
    ----------
    calls : mapping of callables
    rounds : int
        At least 1.
    progress : callable, optional
        Called with how many turns are done, and of how many.

    Examples
    --------
    >>> timings = alternate({"sum": lambda: sum(range(99)), "max": lambda: max(range(99))}, rounds=3)
    >>> len(timings["sum"].samples)
    3
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    ran: dict[str, list[float]] = {name: [] for name in calls}
    lengths = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        call()
        lengths[name] = time.perf_counter() - begin
    for turn in range(rounds):
        for place, (name, call) in enumerate(calls.items()):
            time.sleep(_PAUSE)
            begin = time.perf_counter()
            while lengths[name] < _LONG and time.perf_counter() - begin < _WARM_UP:
                call()
            begin, own = time.perf_counter(), time.process_time()
            call()
            times[name].append(time.perf_counter() - begin)
            ran[name].append(time.process_time() - own)
            if progress:
                progress(turn * len(calls) + place + 1, rounds * len(calls))
    return {name: Timing(tuple(samples), tuple(ran[name])) for name, samples in times.items()}


def median_ratio(above: Timing, below: Timing) -> float:
    """Return the median over rounds of one call's time over another's.

    Examples
    --------
    >>> median_ratio(Timing((2.0, 4.0, 9.0)), Timing((1.0, 2.0, 3.0)))
    2.0
    """
    return statistics.median(a / b for a, b in zip(above.samples, below.samples, strict=True))


def reference_among(names: Iterable[str]) -> str | None:
    """Return the engine that ratios are to: halfspace, else the first of its kind, None where there is none."""
    ours = [name for name in names if name.startswith(REFERENCE)]
    return REFERENCE if REFERENCE in ours else next(iter(ours), None)


@dataclass(frozen=True)
class Row:
    """One engine at one setting in a comparison.

    Attributes
    ----------
    label, name, setting
        As of the `Engine`.
    exact : bool
        Whether it is meant to find all, as of the `EngineSpec`.
    build_seconds : float
    nbytes : int
    median, low, high : float
        Seconds per query: median and quartiles over rounds.
    ratio : float or None
        Median over rounds of its time over that of halfspace, or the first of its kind; None without any.
    recall : float
        Share of all true hits that it found.
    false_positives : int
    wrong : int
        Directions whose answer is not the exact set.
    directions : int
    hits : int
        What it found, for all directions.
    waited : float
        The share of its time in which it had no processor, as of `Timing`; 0 of an engine on a GPU.
    """

    label: str
    name: str
    setting: dict[str, Any]
    exact: bool
    build_seconds: float
    nbytes: int
    median: float
    low: float
    high: float
    ratio: float | None
    recall: float
    false_positives: int
    wrong: int
    directions: int
    hits: int
    waited: float = 0.0


def compare(
    engines: Iterable[Engine],
    directions: ArrayLike,
    tau: ArrayLike,
    truth: Rows,
    *,
    threads: int | None = None,
    rounds: int = 9,
    batch: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """Compare engines over the same vectors on the same questions.

    Parameters
    ----------
    engines : iterable of Engine
        With different labels.
    directions : array_like of float32, shape (m, d)
        At least one.
    tau : array_like of float64, scalar or shape (m,)
    truth : tuple of ndarray
        The exact answers, of `halfspace.bench.exact_hits`.
    threads : int, optional
        Of everyone: those that the engines were built with. Without it, each library uses as many as it likes.
    rounds : int
        Turns of each engine.
    batch : int
        Directions in a call.
    progress : callable, optional
        Called with how many turns are done, and of how many.

    Returns
    -------
    list of Row
        In the order of the engines.

    Notes
    -----
    A turn asks all directions. What is timed is the call of the library: thresholds and parameters are brought into
    its form before, and answers into rows after.
    """
    asked = np.ascontiguousarray(directions, np.float32)
    taus = np.broadcast_to(np.asarray(tau, np.float64), len(asked))
    most = int(np.diff(truth[0]).max())
    contenders = {engine.label: engine for engine in engines}
    questions, answers = {}, {}
    with contextlib.nullcontext() if threads is None else pinned(threads):
        for label, engine in contenders.items():
            engine.expected_hits = most
            questions[label] = _all(engine, asked, taus, batch)
            answers[label] = join([engine.rows(part) for part in questions[label]()])
        timings = alternate(questions, rounds, progress)
    ours = reference_among(timings)
    reference = None if ours is None else timings[ours]
    return [
        _row(engine, timings[label], reference, answers[label], truth, len(asked))
        for label, engine in contenders.items()
    ]


def _all(engine: Engine, directions: Any, taus: Any, batch: int) -> Callable[[], list[Any]]:
    """Return a call that asks all directions, so many at a time."""
    parts = [slice(low, low + batch) for low in range(0, len(directions), batch)]
    calls = [engine.prepare(directions[part], taus[part]) for part in parts]
    return lambda: [call() for call in calls]


def _row(engine: Engine, timing: Timing, reference: Timing | None, found: Rows, truth: Rows, queries: int) -> Row:
    recall, false_positives = recall_and_false(found, truth)
    low, high = timing.quartiles
    return Row(
        label=engine.label,
        name=engine.name,
        setting=engine.setting,
        exact=ENGINES[engine.name].exact,
        build_seconds=engine.build_seconds,
        nbytes=engine.nbytes,
        median=timing.median / queries,
        low=low / queries,
        high=high / queries,
        ratio=None if reference is None else median_ratio(timing, reference),
        recall=recall,
        false_positives=false_positives,
        wrong=wrong_answers(found, truth),
        directions=queries,
        hits=len(found[1]),
        waited=timing.waited if ENGINES[engine.name].device == "cpu" else 0.0,
    )
