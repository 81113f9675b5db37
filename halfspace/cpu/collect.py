"""Collecting an answer in compressed sparse rows: by id, by score, or only the best of each row.

Kernels take runs of some hundred thousand hits at most, so that none lasts; threads take one run after another.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu import _threads
from halfspace.cpu._jit import entry, stage
from halfspace.cpu.emit import Found
from halfspace.cpu.radix import RADIX, RADIX_BITS, bounds, descending, order, order_rows, scatter, select_rows, tally

__all__ = ["best", "collect", "joined", "order_by_id", "sort_by_score"]

FEW = 1 << 15
"""Hits below which another thread, which has to wake up, costs more than it saves."""
RUN = 1 << 18
"""Hits that a kernel takes at once, if they are not of one row."""
LONG = 1 << 20
"""Hits of one row that a kernel orders: a few hundredths of a second."""
ORDERED = 1 << 16
"""Hits of a single direction that a search has put in order already."""
SAMPLED, STRIDE = 64, 1024
"""Of so many hits in succession, so many are looked at first to tell which others cannot be among the best."""
SELECTIVE = 32
"""Hits for each one kept from which it pays to look at some first."""

Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Offsets (m + 1,), ids and scores (hits,); no scores are an empty array."""
Block = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""The same, and the true number of hits of each row (m,)."""


class _Plan(NamedTuple):
    """How to share the work on so many hits."""

    threads: int
    run: int  # hits that a thread takes at once
    most: int  # hits of a row that one thread takes

    @classmethod
    def of(cls, hits: int, threads: int) -> "_Plan":
        threads = max(1, min(threads, hits // FEW))
        share = hits // threads
        return cls(threads, max(FEW, min(RUN, share // 4)), LONG if threads == 1 else max(FEW, min(LONG, share)))


def collect(found: Any, threads: int) -> Rows:
    """Bring the hits of an `halfspace.cpu.search.Answer` into rows, by direction and then by id."""
    rows = _gathered(found.counts, found.parts, threads)
    if found.counts.size > 1 or len(found.parts) > 1 or rows[1].size > ORDERED:
        _order(*rows, False, threads)
    return rows


def sort_by_score(
    offsets: npt.NDArray[np.int64], ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], threads: int
) -> Rows:
    """Order each row by descending score, then by id, in place; rows come ordered by id."""
    _order(offsets, ids, scores, True, threads)
    return offsets, ids, scores


def best(found: Any, limit: int, threads: int) -> Rows:
    """Keep of each direction the `limit` best, by score and then by id, in order of ids."""
    counts, parts = found.counts, found.parts
    if not counts.size or limit >= counts.max():
        return collect(found, threads)
    if found.hits >= max(FEW, SELECTIVE * limit * counts.size):
        counts, parts = _sifted(counts.size, parts, limit, threads)
    rows = _selected(counts, parts, limit, threads)
    _order(*rows, False, threads)
    return rows


@stage
def order_by_id(ids, scores):
    """Order the hits of one direction by id, in place."""
    for at in range(1, ids.size):
        if ids[at] < ids[at - 1]:
            spare_ids, spare_scores = np.empty(ids.size, np.int64), np.empty(scores.size, np.float32)
            order(ids, scores, False, spare_ids, spare_scores, np.empty(RADIX, np.int64))
            return


# -- rows -------------------------------------------------------------------------------------------------------------


def _gathered(counts: npt.NDArray[np.int64], parts: list[Found], threads: int) -> Rows:
    """Bring hits, so many of each direction, into rows, in any order within a row."""
    offsets = np.zeros(counts.size + 1, np.int64)
    counts.cumsum(out=offsets[1:])
    total = int(offsets[-1])
    if counts.size == 1 and len(parts) == 1:
        return offsets, parts[0].ids, parts[0].scores
    plan = _Plan.of(total, threads)
    if counts.size == 1 or (plan.threads == 1 and total <= RUN and len(parts) > 1):
        parts = [_concatenated(parts, total)]
        if counts.size == 1:
            return offsets, parts[0].ids, parts[0].scores
    ids, scores = _room(total, any(part.scores.size for part in parts))
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


def _empty(hits: int, dtype: Any) -> npt.NDArray[Any]:
    try:
        return np.empty(hits, dtype)
    except MemoryError as error:
        raise _no_memory(hits) from error


def _no_memory(hits: int) -> MemoryError:
    return MemoryError(f"no memory for {hits:,} hits: a higher tau or a limit keeps fewer")


def _room(hits: int, scored: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    return _empty(hits, np.int64), _empty(hits if scored else 0, np.float32)


def _concatenated(parts: list[Found], total: int) -> Found:
    scored = any(part.scores.size for part in parts)
    whole = Found(_empty(total, np.int32), *_room(total, scored))
    for which, column in enumerate(whole):
        if column.size:
            np.concatenate([part[which] for part in parts], out=column)
    return whole


def _runs(parts: list[Found], run: int) -> list[Found]:
    """Cut parts into runs of at most so many hits."""
    return [
        Found(*(column[first : first + run] for column in part))
        for part in parts
        for first in range(0, part.ids.size, run)
    ]


def _shares(parts: list[Found], plan: _Plan, total: int) -> list[list[Found]]:
    """Share runs of hits out among threads."""
    shares: list[list[Found]] = [[] for _ in range(plan.threads)]
    before = 0
    for part in _runs(parts, plan.run):
        shares[before * plan.threads // total].append(part)
        before += part.ids.size
    return shares


def _count(parts: list[Found], counts: npt.NDArray[np.int64]) -> None:
    for part in parts:
        _count_owners(part.owners, counts)


@entry
def _count_owners(owners, counts):
    for k in range(owners.size):
        counts[owners[k]] += 1


@entry
def _place(owners, part_ids, part_scores, cursor, ids, scores):
    for k in range(owners.size):
        at = cursor[owners[k]]
        cursor[owners[k]] = at + 1
        ids[at] = part_ids[k]
        if scores.size:
            scores[at] = part_scores[k]


# -- order ------------------------------------------------------------------------------------------------------------


def _order(offsets: Any, ids: Any, scores: Any, by_score: bool, threads: int) -> None:
    """Order each row by id or by score, equals as they come: long rows in pieces that follow one another."""
    plan = _Plan.of(ids.size, threads)
    while ids.size > plan.most and (long := np.flatnonzero(np.diff(offsets) > plan.most)).size:
        pieces = [_pieces(ids, scores, by_score, int(offsets[at]), int(offsets[at + 1]), plan) for at in long]
        offsets = np.unique(np.concatenate([offsets, *pieces]))

    def sort(span: tuple[int, int]) -> None:
        rows = offsets[span[0] : span[1] + 1]
        order_rows(rows, ids, scores, by_score, *_spare(rows[:-1], rows[1:], scores.size > 0))

    _threads.run(sort, _row_spans(offsets, plan), plan.threads)


def _row_spans(offsets: npt.NDArray[np.int64], plan: _Plan) -> list[tuple[int, int]]:
    """Cut rows into spans of about equally many hits."""
    if offsets[-1] <= plan.run:
        return [(0, offsets.size - 1)]
    marks = np.arange(offsets[0] + plan.run, offsets[-1], plan.run)
    cuts = np.unique(np.concatenate([[0], np.searchsorted(offsets, marks), [offsets.size - 1]])).tolist()
    return list(pairwise(cuts))


def _spare(lows: Any, highs: Any, scored: bool) -> tuple[Any, Any, npt.NDArray[np.int64]]:
    """Make room to order the longest of some rows, and for the counts of a digit."""
    return *_room(int((highs - lows).max(initial=0)), scored), np.empty(RADIX, np.int64)


def _pieces(ids: Any, scores: Any, by_score: bool, low: int, high: int, plan: _Plan) -> npt.NDArray[np.int64]:
    """Cut hits [low, high) into pieces that follow one another in order; returns where they begin."""
    lowest, highest, ordered = _bounds(ids, scores, by_score, low, high, plan)
    if ordered:
        return np.arange(low, high, plan.most)
    return _divided(ids, scores, by_score, low, high, lowest, highest, plan)


def _hit_spans(low: int, high: int, plan: _Plan) -> list[slice]:
    parts = max(plan.threads, -(-(high - low) // RUN))
    return [slice(low + first, low + last) for first, last in _threads.spans(high - low, parts)]


def _bounds(ids: Any, scores: Any, by_score: bool, low: int, high: int, plan: _Plan) -> tuple[int, int, bool]:
    """Find the lowest and the highest value of hits [low, high), and whether they are in order."""
    spans = _hit_spans(low, high, plan)
    each = _threads.run(lambda span: bounds(ids[span], scores[span], by_score), spans, plan.threads)
    ordered = all(own[2] for own in each) and all(a[1] <= b[0] for a, b in pairwise(each))
    return min(own[0] for own in each), max(own[1] for own in each), ordered


def _divided(
    ids: Any, scores: Any, by_score: bool, low: int, high: int, lowest: int, highest: int, plan: _Plan
) -> npt.NDArray[np.int64]:
    """Put hits [low, high) in buckets by the highest digit of their values; returns where these start."""
    shift = max(0, (highest - lowest).bit_length() - RADIX_BITS)
    spans = _hit_spans(low, high, plan)
    starts = np.zeros((len(spans), RADIX), np.int64)
    spare_ids, spare_scores = _room(high - low, scores.size > 0)

    def count(k: int) -> None:
        tally(ids[spans[k]], scores[spans[k]], by_score, lowest, shift, starts[k])

    def move(k: int) -> None:
        own = starts[k].copy()
        scatter(ids[spans[k]], scores[spans[k]], by_score, lowest, shift, own, spare_ids, spare_scores)

    def bring_back(span: slice) -> None:
        ids[span] = spare_ids[span.start - low : span.stop - low]
        if scores.size:
            scores[span] = spare_scores[span.start - low : span.stop - low]

    _threads.run(count, range(len(spans)), plan.threads)
    in_order = starts.T.ravel()  # by bucket, then by span
    starts = (in_order.cumsum() - in_order).reshape(RADIX, len(spans)).T.copy()
    _threads.run(move, range(len(spans)), plan.threads)
    _threads.run(bring_back, spans, plan.threads)
    began: npt.NDArray[np.int64] = low + starts[0]
    return began


# -- the best ---------------------------------------------------------------------------------------------------------


def _selected(counts: npt.NDArray[np.int64], parts: list[Found], limit: int, threads: int) -> Rows:
    """Keep the `limit` best hits of so many of each direction, in any order within a row."""
    offsets, ids, scores = _gathered(counts, parts, threads)
    plan = _Plan.of(ids.size, threads)
    kept = np.zeros_like(offsets)
    np.minimum(counts, limit).cumsum(out=kept[1:])
    lows, highs = offsets[:-1].copy(), offsets[1:].copy()
    ends = lows + np.diff(kept)
    highs[highs == ends] = lows[highs == ends]
    for row in np.flatnonzero(highs - lows > plan.most):
        lows[row], highs[row] = _narrowed(ids, scores, int(lows[row]), int(highs[row]), int(ends[row]), plan)

    def select(span: tuple[int, int]) -> None:
        own = slice(*span)
        select_rows(lows[own], highs[own], ends[own], ids, scores, *_spare(lows[own], highs[own], True))

    work = np.zeros_like(offsets)
    (highs - lows).cumsum(out=work[1:])
    _threads.run(select, _row_spans(work, plan), plan.threads)
    out_ids, out_scores = _room(int(kept[-1]), True)

    def keep(span: slice) -> None:
        row = np.searchsorted(kept, span.start, side="right") - 1
        _keep(offsets, kept, row, span.start, ids, scores, out_ids[span], out_scores[span])

    _threads.run(keep, _hit_spans(0, out_ids.size, plan), plan.threads)
    return kept, out_ids, out_scores


@entry
def _keep(offsets, kept, row, first, ids, scores, out_ids, out_scores):
    """Copy the hits that are kept, in succession from one of a row on; they come first in their rows."""
    for k in range(out_ids.size):
        while first + k >= kept[row + 1]:
            row += 1
        at = offsets[row] + first + k - kept[row]
        out_ids[k] = ids[at]
        out_scores[k] = scores[at]


def _narrowed(ids: Any, scores: Any, low: int, high: int, end: int, plan: _Plan) -> tuple[int, int]:
    """Bring the best of hits [low, high) forward until few are left of which some lie before the end, some behind."""
    by_score = True
    while high - low > plan.most and end < high:
        lowest, highest, _ = _bounds(ids, scores, by_score, low, high, plan)
        if lowest == highest:
            by_score = False  # ids are distinct
            continue
        starts = _divided(ids, scores, by_score, low, high, lowest, highest, plan)
        bucket = int(np.searchsorted(starts, end)) - 1
        low, high = int(starts[bucket]), int(starts[bucket + 1]) if bucket + 1 < RADIX else high
    return low, high


def _sifted(size: int, parts: list[Found], limit: int, threads: int) -> tuple[npt.NDArray[np.int64], list[Found]]:
    """Leave out hits that cannot be among the best, because so many better ones are in a sample.

    Returns how many are left of each of so many directions, and these.
    """
    runs = _runs(parts, RUN)
    sample = [Found(*(_sampled(column) for column in part)) for part in runs]
    counts = np.zeros(size, np.int64)
    _count(sample, counts)
    kept, _, scores = _selected(counts, sample, limit, threads)
    worst = np.full(size, np.iinfo(np.int64).max)
    _worst(kept, scores, limit, worst)

    def sift(part: Found) -> Found:
        columns = [np.empty_like(column) for column in part]
        left = _sift(*part, worst, *columns)
        return Found(*(column[:left].copy() for column in columns))

    left = _threads.run(sift, runs, threads)
    counts[:] = 0
    _count(left, counts)
    return counts, left


def _sampled(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return column[: column.size // STRIDE * STRIDE].reshape(-1, STRIDE)[:, :SAMPLED].ravel()


@entry
def _worst(kept, scores, limit, worst):
    """Find the worst of the hits kept of each row, where these are as many as the limit."""
    for row in range(worst.size):
        if kept[row + 1] - kept[row] == limit:
            worst[row] = np.iinfo(np.int64).min
            for at in range(kept[row], kept[row + 1]):
                worst[row] = max(worst[row], descending(scores[at]))


@entry
def _sift(owners, ids, scores, worst, out_owners, out_ids, out_scores):
    """Copy the hits that are no worse than the worst of their direction; returns how many."""
    left = 0
    for k in range(owners.size):
        if descending(scores[k]) <= worst[owners[k]]:
            out_owners[left], out_ids[left], out_scores[left] = owners[k], ids[k], scores[k]
            left += 1
    return left


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
        raise _no_memory(before + more.size) from error
    array[before:] = more
    return array
