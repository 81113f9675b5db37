"""Collecting an answer in compressed sparse rows: by id, by score, or only the best of each row.

Kernels take runs of some hundred thousand hits, or one row that is not too long, so that none lasts; threads take one
after another.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.cpu.emit import Found
from halfspace.cpu.radix import RADIX, SHORT, insert, keep_rows, order_rows, sift, worst_of_rows
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled, inlined
from halfspace.cpu.shares import RUN, LongRow, Plan, empty, no_memory, room, runs
from halfspace.model.arrays import offsets_of, pieces

__all__ = ["best", "collect", "edges", "higher", "joined", "order_few", "ranked", "sort_by_score", "without"]

SAMPLED, STRIDE = 64, 1024
"""Of so many hits in succession, so many are looked at first to tell which others cannot be among the best."""
SELECTIVE = 32
"""Hits for each one kept from which it pays to look at some first."""
MANY = 1 << 15
"""Hits of all directions from which it pays."""

Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Offsets (m + 1,), ids and scores (hits,); no scores are an empty array."""
Block = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""The same, and the true number of hits of each row (m,)."""


def collect(found: Any, threads: int) -> Rows:
    """Bring the hits of an `halfspace.cpu.search.Answer` into rows, by direction and then by id."""
    if found.ordered:
        _, ids, scores = found.parts[0]
        return np.array([0, ids.size]), ids, scores
    rows = _gathered(found.counts, found.parts, threads)
    _order(*rows, False, threads)
    return rows


def edges(
    found: Any, ids: npt.NDArray[np.int64], threads: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return ids of directions, of which these are all (m,), and of vectors (hits,), and scores."""
    offsets, hits, scores = collect(found, threads)
    return np.repeat(ids, np.diff(offsets)), hits, scores


def sort_by_score(
    offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], threads: int
) -> Rows:
    """Order each row by descending score, then by id, in place; rows come ordered by id."""
    _order(offsets, ids, scores, True, threads)
    return offsets, ids, scores


def best(found: Any, limit: int, threads: int, sort: bool = False) -> Rows:
    """Keep of each direction the `limit` best, by score and then by id: in order of ids, or in that of scores."""
    counts, parts = found.counts, found.parts
    if limit < counts.max(initial=0):
        if found.hits >= max(MANY, SELECTIVE * limit * counts.size):
            counts, parts = _sifted(counts.size, parts, limit, threads)
        rows, _ = _selected(counts, parts, limit, threads)
    else:
        rows = _gathered(counts, parts, threads)
    _order(*rows, False, threads)
    return sort_by_score(*rows, threads) if sort else rows


def ranked(found: Any, limit: int, threads: int) -> tuple[Block, npt.NDArray[np.bool_], Rows | None]:
    """Return the `limit` best of each direction, and where they are so many with scores of their own; and some more."""
    if found.counts.size == 1:  # its hits are few, and sooner sorted than sifted
        offsets, ids, scores = whole = sort_by_score(*collect(found, threads), threads)
        if ids.size < limit or (scores[1 : limit + 1] == scores[:limit][: ids.size - 1]).any():
            return (*whole, found.counts), np.zeros(1, np.bool_), whole
        offsets[1] = limit
        return (offsets, ids[:limit].copy(), scores[:limit].copy(), offsets[1:].copy()), np.ones(1, np.bool_), None
    offsets, ids, scores = whole = best(found, limit + 1, threads, sort=True)
    sizes = np.diff(offsets)
    owners = np.repeat(np.arange(sizes.size), sizes)
    places = np.arange(ids.size) - offsets[owners]
    clear = sizes >= limit
    clear[owners[1:][(scores[1:] == scores[:-1]) & (places[1:] > 0)]] = False
    kept, numbers = places < limit, np.minimum(sizes, limit)
    return (offsets_of(numbers), ids[kept], scores[kept], numbers), clear, None if clear.all() else whole


def higher(tau: npt.NDArray[np.float64], unless: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the higher of two thresholds (m,) of each direction."""
    limits: npt.NDArray[np.float64] = np.maximum(tau, unless)
    return limits


def without(found: Any, beyond: Any, threads: int) -> Any:
    """Return an answer without the hits of another, all of which are among its own; counters are the sum of both."""
    counts = found.counts - beyond.counts
    work = found.work + beyond.work
    if not any(part.ids.size for part in found.parts):  # they were counted
        return found._replace(counts=counts, counted=work)
    offsets, ids, scores = collect(found, threads)
    others = collect(beyond, threads)
    kept = np.empty(ids.size, np.bool_)
    spans = _threads.spans(ids.size, -(-ids.size // RUN))
    _threads.run(lambda span: _mark((offsets, ids), others[:2], kept, span), spans, threads)
    owners = np.repeat(np.arange(counts.size, dtype=np.int32), counts)
    return found._replace(counts=counts, parts=[Found(owners, _chosen(ids, kept), _chosen(scores, kept))], counted=work)


def _chosen(column: np.ndarray, kept: npt.NDArray[np.bool_]) -> np.ndarray:
    """Return the elements of a column, if it has any, that are kept; a run at a time: no call takes long."""
    if not column.size:
        return column
    return np.concatenate([column[part][kept[part]] for part in pieces(column.size, 1)])


@compiled
def _mark(rows, others, kept, span):
    """Say of hits [*span) whether they are not among the others; rows, others : offsets, and ids, in order in a row."""
    (offsets, ids), (other_offsets, other_ids) = rows, others
    at, last = span
    row = np.searchsorted(offsets, at, side="right") - 1
    while at < last:
        while offsets[row + 1] <= at:
            row += 1
        low, high = other_offsets[row], other_offsets[row + 1]
        low += np.searchsorted(other_ids[low:high], ids[at])
        for k in range(at, min(last, offsets[row + 1])):
            while low < high and other_ids[low] < ids[k]:
                low += 1
            kept[k] = low == high or other_ids[low] != ids[k]
        at = offsets[row + 1]


@inlined
def order_few(ids, scores):
    """Order hits of one direction by id, in place, if they are few; returns whether they are in order."""
    if ids.size <= SHORT:
        insert(ids, scores, False)
        return True
    ascends = True
    for at in range(1, ids.size):
        ascends &= ids[at - 1] < ids[at]
    return ascends


# -- rows -------------------------------------------------------------------------------------------------------------


def _gathered(counts: npt.NDArray[np.int64], parts: list[Found], threads: int) -> Rows:
    """Bring hits, so many of each direction, into rows, in any order within a row."""
    offsets = offsets_of(counts)
    total = int(offsets[-1])
    plan = Plan.of(total, threads)
    if len(parts) != 1 and (counts.size == 1 or (plan.threads == 1 and total <= RUN)):
        parts = [_concatenated(parts, total)]
    if counts.size == 1:
        return offsets, parts[0].ids, parts[0].scores
    ids, scores = room(total, any(part.scores.size for part in parts))
    shares = _shares(parts, plan, total)
    cursors = np.zeros((len(shares), counts.size), np.int64)
    _threads.run(lambda k: _count(shares[k - 1], cursors[k]), range(1, len(shares)), plan.threads)
    cursors[0] = offsets[:-1]
    cursors.cumsum(axis=0, out=cursors)

    def fill(k: int) -> None:
        for part in shares[k]:
            _place(*part, cursors[k], ids, scores)

    _threads.run(fill, range(len(shares)), plan.threads)
    return offsets, ids, scores


def _concatenated(parts: list[Found], total: int) -> Found:
    scored = any(part.scores.size for part in parts)
    whole = Found(empty(total, np.int32), *room(total, scored))
    for which, column in enumerate(whole):
        if column.size:
            np.concatenate([part[which] for part in parts], out=column)
    return whole


def _shares(parts: list[Found], plan: Plan, total: int) -> list[list[Found]]:
    """Share runs of hits out among threads."""
    shares: list[list[Found]] = [[] for _ in range(plan.threads)]
    before = 0
    for part in runs(parts, plan.run):
        shares[before * plan.threads // total].append(part)
        before += part.ids.size
    return shares


def _counted(parts: list[Found], size: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(size, np.int64)
    _count(parts, counts)
    return counts


def _count(parts: list[Found], counts: npt.NDArray[np.int64]) -> None:
    for part in parts:
        _count_owners(part.owners, counts)


@compiled
def _count_owners(owners, counts):
    for k in range(owners.size):
        counts[owners[k]] += 1


@compiled
def _place(owners, part_ids, part_scores, cursor, ids, scores):
    for k in range(owners.size):
        at = cursor[owners[k]]
        cursor[owners[k]] = at + 1
        ids[at] = part_ids[k]
        if scores.size:
            scores[at] = part_scores[k]


# -- order ------------------------------------------------------------------------------------------------------------


_NO_IDS, _NO_SCORES = np.empty(0, np.int64), np.empty(0, np.float32)


def _order(offsets: Any, ids: Any, scores: Any, by_score: bool, threads: int) -> None:
    """Order each row by id or by score, equals as they come: long rows in pieces that follow one another."""
    if ids.size <= SHORT:  # which needs no room beside
        order_rows(offsets, ids, scores, by_score, _NO_IDS, _NO_SCORES, _NO_IDS)
        return
    plan = Plan.of(ids.size, threads)
    while ids.size > plan.most and (long := np.flatnonzero(np.diff(offsets) > plan.most)).size:
        pieces = [_pieces(ids, scores, by_score, int(offsets[at]), int(offsets[at + 1]), plan) for at in long]
        offsets = np.unique(np.concatenate([offsets, *pieces]))

    def sort(span: slice) -> None:
        rows = offsets[span.start : span.stop + 1]
        order_rows(rows, ids, scores, by_score, *_spare(rows[1:] - rows[:-1], scores.size > 0))

    _threads.run(sort, _row_spans(offsets, plan), plan.threads)


def _pieces(ids: Any, scores: Any, by_score: bool, low: int, high: int, plan: Plan) -> npt.NDArray[np.int64]:
    """Cut hits [low, high) into pieces that follow one another in order; returns where they begin."""
    row = LongRow(ids[low:high], scores[low:high], by_score, plan)
    return low + (np.arange(0, high - low, plan.most) if row.in_order else row.divide())


def _row_spans(offsets: npt.NDArray[np.int64], plan: Plan) -> list[slice]:
    """Cut rows into spans of about equally many hits."""
    rows = offsets.size - 1
    if rows and offsets[-1] <= plan.run:
        return [slice(0, rows)]
    marks = np.searchsorted(offsets, np.arange(plan.run, offsets[-1], plan.run))
    return [slice(*span) for span in pairwise(np.unique([0, *marks, rows]).tolist())]


def _spare(lengths: Any, scored: bool) -> tuple[Any, Any, npt.NDArray[np.int64]]:
    """Make room to order the longest of some rows, and for the counts of a digit."""
    return *room(int(lengths.max(initial=0)), scored), np.empty(RADIX, np.int64)


# -- the best ---------------------------------------------------------------------------------------------------------


def _sample(parts: list[Found]) -> list[Found]:
    """Take some of the hits, from everywhere."""
    return [Found(*(_sampled(column) for column in part)) for part in runs(parts, RUN)]


def _sampled(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return column[: column.size // STRIDE * STRIDE].reshape(-1, STRIDE)[:, :SAMPLED].ravel()


def _sifted(size: int, parts: list[Found], limit: int, threads: int) -> tuple[npt.NDArray[np.int64], list[Found]]:
    """Leave out hits that are worse than the `limit` best of a sample.

    Returns how many are left of each of so many directions, and these.
    """
    sample = _sample(parts)
    _, worst = _selected(_counted(sample, size), sample, limit, threads)

    def leave(part: Found) -> Found:
        columns = [empty(column.size, column.dtype) for column in part]
        left = sift(*part, worst, *columns)
        return Found(*(column[:left].copy() for column in columns))

    left = _threads.run(leave, runs(parts, RUN), threads)
    return _counted(left, size), left


def _selected(
    counts: npt.NDArray[np.int64], parts: list[Found], limit: int, threads: int
) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Keep the `limit` best of so many hits of each direction, and tell which is the last of them (m, 2)."""
    offsets, ids, scores = _gathered(counts, parts, threads)
    plan = Plan.of(ids.size, threads)
    kept = offsets_of(np.minimum(counts, limit))
    out = room(int(kept[-1]), True)
    worst = np.empty((counts.size, 2), np.int64)
    rows, places = (np.stack([ends[:-1], ends[1:]], axis=1) for ends in (offsets, kept))
    long = np.flatnonzero(counts > plan.most)
    rows[long, 1] = rows[long, 0]
    lengths = rows[:, 1] - rows[:, 0]

    def select(span: slice) -> None:
        worst_of_rows(rows[span], limit, ids, scores, *_spare(lengths[span], True), worst[span])
        keep_rows(rows[span], places[span], ids, scores, worst[span], *out)

    _threads.run(select, _row_spans(offsets_of(lengths), plan), plan.threads)
    for row in long.tolist():
        low, high = offsets[row : row + 2].tolist()
        near_ids, near_scores, wanted = _narrowed(ids[low:high], scores[low:high], min(limit, high - low), plan)
        own, whole = slice(row, row + 1), np.array([[0, near_ids.size]])
        worst_of_rows(whole, wanted, near_ids, near_scores, *_spare(whole[:, 1], True), worst[own])
        for first in range(low, high, RUN):
            span = np.array([[first, min(first + RUN, high)]])
            places[row, 0] = keep_rows(span, places[own], ids, scores, worst[own], *out)
    return (kept, *out), worst


def _narrowed(ids: Any, scores: Any, wanted: int, plan: Plan) -> tuple[Any, Any, int]:
    """Leave few hits of one direction, the `wanted`-th from the best among them, and tell its place among these."""
    by_score = True
    while wanted and ids.size > plan.most:
        row = LongRow(ids, scores, by_score, plan)
        if row.is_equal:
            by_score = False  # ids are distinct
        else:
            ids, scores, wanted = row.bucket_of(wanted)
    return ids, scores, wanted


# -- blocks of rows ---------------------------------------------------------------------------------------------------


def joined(whole: Block, block: Block) -> Block:
    """Add a block of rows to those before; large arrays grow in place."""
    offsets, ids, scores, totals = whole
    more_offsets, more_ids, more_scores, more_totals = block
    offsets = np.concatenate([offsets, more_offsets[1:] + ids.size])
    return offsets, _longer(ids, more_ids), _longer(scores, more_scores), np.concatenate([totals, more_totals])


def _longer(array: Any, more: Any) -> Any:
    array = array if array.flags.owndata else array.copy()
    before = array.size
    try:
        array.resize(before + more.size, refcheck=False)
    except MemoryError as error:
        raise no_memory(before + more.size) from error
    array[before:] = more
    return array
