"""The k best, certified: a range query, whose threshold a sample suggests.

Where a threshold leaves fewer than k hits it was too high, and is lowered; what reaches one that leaves k or more
contains the k best, since range queries miss nothing. Vectors whose scores round to the same float32 are ordered by
their real scores, in integers, and then by id.
"""

from collections.abc import Callable
from fractions import Fraction
from math import ceil, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace import query as asking
from halfspace.backend import Backend
from halfspace.model.arrays import host, offsets_of
from halfspace.model.counters import STAGES, WORK_SHAPE, Want
from halfspace.model.formats import as_float32, widen32
from halfspace.model.metrics import Metric
from halfspace.model.question import Question
from halfspace.scores import threshold_of
from halfspace.state.snapshot import Snapshot

__all__ = ["Answer", "limited", "nearest", "work"]

SCORED = 100.0
"""Of n vectors of d dimensions, the sample has so many times the root of n / d scored for a guess, or all."""
LOWERED = 4
"""How many times as deep in the sample a threshold is looked for that has left too few hits."""
AT_ONCE = 1 << 12
"""Vectors with one score that are compared in integers at once."""

WORTH = 8
"""A limit is looked for in this way if there are so many times as many vectors."""

_Integers = tuple[list[int], list[int]]
"""Mantissas and exponents of float32 (d,): value = mantissa * 2^(exponent - 200)."""


class Answer(NamedTuple):
    """Rows of the best, on the host, with scores as kernels have them: best first."""

    offsets: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, count: int) -> "Answer":
        """Make rows without hits."""
        return cls(np.zeros(count + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))

    def cut(self, k: int) -> "Answer":
        """Keep the first k of each row."""
        if self.ids.size <= k:
            return self
        if len(self.offsets) == 2:
            return Answer(np.array([0, k]), self.ids[:k].copy(), self.scores[:k].copy())
        sizes = np.diff(self.offsets)
        kept = np.arange(self.ids.size) - np.repeat(self.offsets[:-1], sizes) < k
        return Answer(offsets_of(np.minimum(sizes, k)), self.ids[kept], self.scores[kept])

    def only(self, rows: npt.NDArray[np.int64]) -> "Answer":
        """Return some rows."""
        spans = [slice(*self.offsets[row : row + 2].tolist()) for row in rows.tolist()]
        ids, scores = (np.concatenate([column[span] for span in spans]) for column in (self.ids, self.scores))
        return Answer(offsets_of(np.diff(self.offsets)[rows]), ids, scores)

    def replaced(self, rows: npt.NDArray[np.int64], others: "Answer") -> "Answer":
        """Put other rows in the place of some."""
        theirs = np.zeros(len(self.offsets) - 1, np.bool_)
        theirs[rows] = True
        before = np.diff(self.offsets)
        sizes = before.copy()
        sizes[rows] = np.diff(others.offsets)
        from_others, kept = np.repeat(theirs, sizes), ~np.repeat(theirs, before)
        ids, scores = np.empty(from_others.size, np.int64), np.empty(from_others.size, np.float32)
        for whole, own, other in ((ids, self.ids, others.ids), (scores, self.scores, others.scores)):
            whole[~from_others] = own[kept]
            whole[from_others] = other
        return Answer(offsets_of(sizes), ids, scores)


def nearest(backend: Backend, snapshot: Snapshot, question: Question, k: int, available: int) -> asking.Rows:
    """Find of each direction the k vectors with the largest real scores that reach its threshold, ties by id.

    question : its thresholds are the lowest that count; available : vectors that may be found
    """
    k = min(k, available)
    if not k:  # nothing is searched, so that kernels see no number
        asking.refuse(question)
        offsets, ids, scores = Answer.empty(count := len(question.directions))
        none: asking.Rows = backend.place(offsets, ids, scores, np.zeros(count, np.int64))
        return none
    guess = _Guess(backend, snapshot, question, k, available)
    tau = guess.thresholds()

    def shape(found: Any, which: slice) -> Any:
        rows, clear, more = backend.ranked(found, k, question.threads)
        if more is None:
            return rows
        unclear, whole = np.flatnonzero(~clear), Answer(*map(host, more))
        if unclear.size == len(tau):
            whole = _settled(guess, tau, whole)
        else:
            numbers = which.start + unclear
            own = _settled(guess.only(numbers), tau[backend.xp.asarray(numbers)], whole.only(unclear))
            whole = Answer(*map(host, rows[:3])).replaced(unclear, own)
        return backend.place(*whole, np.diff(whole.offsets))

    return asking.shaped(backend, question._replace(tau=tau, wanted=Want.SCORES), shape)


def _settled(guess: "_Guess", tau: Any, found: Answer) -> Answer:
    """Find the k best by real score, where a search with thresholds tau has found too few, or some with one score."""
    k, question = guess.k, guess.question
    # one more than is wanted shows whether the last score has others
    offsets, ids, scores = whole = _completed(guess, tau, found, np.diff(found.offsets), k + 1, False)
    tied = np.flatnonzero(scores[1:] == scores[:-1])
    owners = np.searchsorted(offsets, tied, side="right") - 1
    for j in np.unique(owners[tied + 1 < offsets[owners + 1]]).tolist():
        part = slice(offsets[j], offsets[j + 1])
        _order(guess.backend, guess.snapshot, question.part(j, j + 1), ids[part], scores[part], k)
    return whole.cut(k)


def limited(
    backend: Backend, snapshot: Snapshot, question: Question, sort: bool, limit: int, available: int
) -> asking.Rows:
    """Find the hits, of each direction only so many that are the best by score and then by id; and count them all.

    Where everything is a hit, what cannot be among the best is not looked at.
    """
    whole = question.unless is None and bool((question.tau == backend.xp.asarray(-np.inf)).all())
    if not (whole and 0 < limit <= available // WORTH):
        return asking.rows(backend, question, sort, limit)
    offsets, ids, scores = _first(_Guess(backend, snapshot, question, limit, available), limit, True).cut(limit)
    if not sort:
        order = np.lexsort((ids, np.repeat(np.arange(len(offsets) - 1), limit)))
        ids, scores = ids[order], scores[order]
    found = offsets, ids, scores, np.full(len(offsets) - 1, available, np.int64)
    rows: asking.Rows = tuple(map(backend.xp.asarray, found))
    return rows


def work(
    backend: Backend, snapshot: Snapshot, question: Question, k: int, available: int
) -> tuple[int, list[tuple[Any, ...]]]:
    """Count what the searches do that find the k best of one direction; as `halfspace.query.work` of one search."""
    k = min(k, available)
    if not k:
        asking.refuse(question)
    guess = _Guess(backend, snapshot, question, k, available)
    counted = np.zeros(WORK_SHAPE, np.int64)
    hits, final = 0, k == 0
    while hits < k and not final:
        tau = guess.thresholds()
        hits, stages = asking.work(backend, question._replace(tau=tau))
        counted += [row[1:] for row in stages]
        final = bool(guess.reach_the_lowest(tau)[0])
        guess = guess.lower()
    return min(hits, k), [(name, *row) for name, row in zip(STAGES, counted.tolist(), strict=True)]


def _first(guess: "_Guess", keep: int, whole: bool) -> Answer:
    """Find of each direction the best by score and then by id, in that order; of several, so many are to be kept.

    The k best are among them as real scores tell, or if `whole` as rounded ones do, with all that share the last.
    """
    tau = guess.thresholds()
    asked = guess.question._replace(tau=tau, wanted=Want.SCORES)
    most = None if len(tau) == 1 else keep  # the hits of one direction are few, and sooner sorted than sifted
    *columns, totals = map(host, asking.rows(guess.backend, asked, True, most))
    return _completed(guess, tau, Answer(*columns), totals, keep, whole)


def _completed(
    guess: "_Guess", tau: Any, found: Answer, totals: npt.NDArray[np.int64], keep: int, whole: bool
) -> Answer:
    """Search again where thresholds have left too few hits, of which there are `totals`; as `_first`."""
    enough = totals >= guess.k
    if whole:
        last = found.scores[found.offsets[:-1][enough] + guess.k - 1]
        enough[enough] = host(tau)[enough] <= threshold_of(last)
    if enough.all():
        return found
    left = np.flatnonzero(~(enough | guess.reach_the_lowest(tau)))
    return found.replaced(left, _first(guess.lower().only(left), keep, whole)) if left.size else found


class _Guess(NamedTuple):
    """Thresholds that about so many vectors reach as are wanted, read off a sample of those that are stored."""

    backend: Backend
    snapshot: Snapshot
    question: Question
    k: int
    available: int
    depth: int = 1  # how many times as deep as first

    def lower(self) -> "_Guess":
        """Return thresholds that are found deeper in the sample."""
        return self._replace(depth=self.depth * LOWERED)

    def only(self, left: npt.NDArray[np.int64]) -> "_Guess":
        """Return thresholds of some directions."""
        question, which = self.question, self.backend.xp.asarray(left)
        tau = question.tau if isinstance(question.tau, float) else question.tau[which]
        return self._replace(question=question._replace(directions=question.directions[which], tau=tau))

    def thresholds(self) -> Any:
        """Return thresholds (m,), none below the lowest that count."""
        xp, question = self.backend.xp, self.question
        directions = question.directions
        sample = self.snapshot.sample[: ceil(SCORED * sqrt(max(self.available, self.k) / directions.shape[1]))]
        expected = self.k * len(sample) / max(self.available, 1)
        rank = ceil(self.depth * (expected + self.backend.SPARE * sqrt(expected) + 1.0))
        if rank > len(sample):
            return xp.zeros(len(directions), np.float64) + question.tau
        return self.backend.guess(question, sample, rank)

    def reach_the_lowest(self, tau: Any) -> npt.NDArray[np.bool_]:
        """Say which thresholds (m,) cannot be lowered."""
        lowest: npt.NDArray[np.bool_] = host(tau <= self.question.tau)
        return lowest


def _order(
    backend: Backend,
    snapshot: Snapshot,
    question: Question,
    ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    k: int,
) -> None:
    """Order the hits of one direction in place, perhaps one more than k, by real scores where float32 cannot tell."""
    ends = np.flatnonzero(np.concatenate([scores[1:] != scores[:-1], [True]])) + 1
    start = 0
    for end in ends.tolist():
        if end - start > 1 and start < k:
            tied = ids[start:end]
            if end == ids.size > k:  # there may be more of them
                tied = _tied(backend, question, float(widen32(scores[start : start + 1])[0]))
            ids[start:end], negative = _by_real_score(backend, snapshot, question, tied, end - start)
            if scores[start] == 0.0:  # a negative product that is too small for float32 is -0
                scores[start:end] = np.where(negative, np.float32(-0.0), np.float32(0.0))
        start = end


def _tied(backend: Backend, question: Question, score: float) -> npt.NDArray[np.int64]:
    """Find all vectors whose scores round to one float32."""
    low, high = threshold_of(score), np.nextafter(np.float32(score), np.float32(np.inf))
    xp = backend.xp
    tau = xp.maximum(xp.asarray([low], np.float64), question.tau)
    # what lies in the middle between two scores may round to either: the next number ends the band, and scores decide
    ends = None if score == np.inf else xp.asarray([np.nextafter(threshold_of(float(high)), np.inf)], np.float64)
    _, ids, scores, _ = asking.rows(
        backend,
        question._replace(directions=question.directions.copy(), tau=tau, unless=ends, wanted=Want.SCORES),
        False,
        None,
    )
    found: npt.NDArray[np.int64] = host(ids)[widen32(host(scores)) == score]
    return found


def _by_real_score(
    backend: Backend, snapshot: Snapshot, question: Question, ids: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return so many of the ids with the largest real scores, best first, ties by id; and which are negative."""
    direction, score = _integers(host(question.directions)), _REAL_SCORES[question.metric]
    best: list[tuple[int | Fraction, int]] = []
    for first in range(0, ids.size, AT_ONCE):
        own = ids[first : first + AT_ONCE]
        bits = np.ascontiguousarray(host(snapshot.vectors(backend.xp.asarray(own))))
        distinct, owners = np.unique(bits.view(f"V{bits.itemsize * bits.shape[1]}"), return_inverse=True)
        rows = as_float32(distinct.view(bits.dtype).reshape(len(distinct), bits.shape[1]))
        scores = [score(_integers(row[None]), direction) for row in rows]
        best += [(-scores[owner], id) for owner, id in zip(owners.ravel().tolist(), own.tolist(), strict=True)]
        best = sorted(best)[:most]
    return np.array([id for _, id in best], np.int64), np.array([score > 0 for score, _ in best], np.bool_)


def _integers(row: npt.NDArray[np.float32]) -> _Integers:
    """Take float32 (1, d) apart."""
    fractions, exponents = np.frexp(widen32(row[0]))
    return (fractions * 2.0**24).astype(np.int64).tolist(), (exponents.astype(np.int64) - 24 + 200).tolist()


def _product(x: _Integers, q: _Integers) -> int:
    """Sum the products without error, in units of 2^-400."""
    return sum(a * b << e + f for a, e, b, f in zip(*x, *q, strict=True) if a and b)


def _cosine(x: _Integers, q: _Integers) -> Fraction:
    """Return the square of the cosine with its sign, times |q|^2 in units of 2^-400: what does not need a root."""
    product = _product(x, q)
    return Fraction(product * abs(product), _product(x, x))


def _negative_distance(x: _Integers, q: _Integers) -> int:
    """Return minus the square of the distance, in units of 2^-400."""
    return -sum(((a << e) - (b << f)) ** 2 for a, e, b, f in zip(*x, *q, strict=True))


_REAL_SCORES: dict[Metric, Callable[[_Integers, _Integers], int | Fraction]] = {
    Metric.IP: _product,
    Metric.COSINE: _cosine,
    Metric.L2: _negative_distance,
}
"""Numbers in the order of real scores, without error."""
