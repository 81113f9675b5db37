"""Asking the stages: prepare the directions, search, collect, order and cut."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.backend import Backend
from halfspace.model.arrays import host
from halfspace.model.counters import STAGES, State, Want
from halfspace.model.metrics import Metric
from halfspace.model.question import Question
from halfspace.runtime.interrupts import of_a_handler

__all__ = ["Rows", "answers", "counts", "parts", "refuse", "rows", "shaped", "total", "work"]

Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Offsets (m + 1,), ids and scores of the hits, and their true numbers (m,)."""


class NoMemoryForHits(MemoryError):
    """There is no memory for the hits; the message says how many there are, and what helps."""


def rows(backend: Backend, question: Question, sort: bool, limit: int | None) -> Rows:
    """Find the hits."""

    def shape(found: Any, which: slice) -> Any:
        if limit is not None:
            own = backend.best(found, limit, question.threads, sort)
        else:
            own = backend.collect(found, question.threads)
            if sort:
                offsets, ids, scores = own
                own = backend.sort_by_score(offsets, ids, scores, question.threads)
        return *own, found.counts

    remedy = "" if limit is not None else ", or keep the best of each direction by limit="
    return shaped(backend, question, shape, remedy)


def shaped(backend: Backend, question: Question, shape: Callable[[Any, slice], Any], remedy: str = "") -> Rows:
    """Search, and shape what is found: of a block of directions, which are these, into rows."""
    try:
        whole: Any = None
        for which, found in parts(backend, question):
            block = shape(found, which)
            whole = block if whole is None else backend.joined(whole, block)
        hits: Rows = whole
        return hits
    except MemoryError as error:
        if of_a_handler(error) or isinstance(error, NoMemoryForHits):  # a search within this one has said it
            raise
        fewer = "lower the radius" if question.metric == Metric.L2 else "raise tau"
        why = f" ({error})" if str(error) else ""
        try:
            all_hits = f"the {total(backend, question._replace(wanted=Want.COUNT)):,} hits"
        except MemoryError:
            all_hits = "all hits"
        raise NoMemoryForHits(
            f"no memory for {all_hits}: {fewer}, ask count() for their number alone{remedy}{why}"
        ) from error


def total(backend: Backend, question: Question) -> int:
    """Count the hits of all directions together."""
    return sum(found.hits for found in answers(backend, question))


def counts(backend: Backend, question: Question) -> npt.NDArray[np.int64]:
    """Count the hits (m,)."""
    blocks = [found.counts for found in answers(backend, question)]
    counted: npt.NDArray[np.int64] = blocks[0] if len(blocks) == 1 else backend.xp.concatenate(blocks)
    return counted


def work(backend: Backend, question: Question) -> tuple[int, list[tuple[Any, ...]]]:
    """Count the hits with scores, and what each stage did: its name, then the columns of its counters."""
    hits = 0
    counted = np.zeros(())
    for found in answers(backend, question):
        hits += found.hits
        counted = counted + host(found.work)
    return hits, [(name, *map(int, row)) for name, row in zip(STAGES, counted, strict=True)]


def _band(backend: Backend, question: Question) -> tuple[Any, int]:
    """Find what reaches one threshold but not the other, as the difference of two exact answers.

    Returns it, and how many hits were held for it.
    """
    question = question._replace(loose=False)  # hits of both answers are compared in order
    found = backend.search(question._replace(unless=None))
    if found.state:
        return found, 0
    least = backend.higher(question.tau, question.unless)  # so that the second answer is part of the first
    others = question.wanted if question.wanted == Want.COUNT else Want.IDS
    beyond = backend.search(question._replace(tau=least, unless=None, wanted=others))
    return beyond if beyond.state else backend.without(found, beyond, question.threads), found.hits


def answers(backend: Backend, question: Question) -> Iterator[Any]:
    """Search block by block: as many directions at once as there is room to prepare, and to hold the hits of."""
    return (found for _, found in parts(backend, question))


def parts(backend: Backend, question: Question) -> Iterator[tuple[slice, Any]]:
    """Search block by block like `answers`, and tell which directions each answer is of."""
    count, dim = question.directions.shape
    room = size = backend.room(question.table, dim, question.loose and question.unless is None)
    first = 0
    while True:
        last = first + size
        asked = question if first == 0 and last >= count else question.part(first, last)
        found, held = (backend.search(asked), None) if asked.unless is None else _band(backend, asked)
        if found.state:
            if found.state == State.NOT_FINITE:
                refuse(question)
                raise ValueError("directions have changed while they were asked for")
            size = max(1, min(size, count - first) // 4)
            continue
        yield slice(first, last), found
        first = last
        if first >= count:
            return
        if size < room:
            size = min(room, 2 * size, max(1, size * backend.MOST_HITS // (2 * max(1, held or found.hits))))


def refuse(question: Question) -> None:
    """Refuse directions that are not finite, or have no cosine, and thresholds that are NaN; errors name the row."""
    checks.finite(question.directions, "directions")
    if question.metric == Metric.COSINE:
        checks.nonzero(question.directions, "directions")
    for name in ("tau", "unless"):
        limits = getattr(question, name)
        if not (limits is None or isinstance(limits, float)):
            checks.numbers(limits, name)
