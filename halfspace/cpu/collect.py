"""Collecting an answer: count, scan, fill, into compressed sparse rows; then order and cut."""

from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.cpu._jit import bits_of, entry, stage

__all__ = ["best", "collect", "joined", "order_by_id", "sort_by_score"]

RADIX_BITS = 11
RADIX = 1 << RADIX_BITS
SHORT = 256
"""Hits below which a comparison sort orders them sooner."""

Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Offsets (m + 1,), ids and scores (hits,); no scores are an empty array."""
Block = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""The same, and the true number of hits of each row (m,)."""


def collect(found: Any) -> Rows:
    """Bring the hits of an `halfspace.cpu.search.Answer` into rows, by direction and then by id."""
    if found.counts.size == 1 and len(found.parts) == 1:
        part = found.parts[0]
        return np.array([0, part.ids.size]), part.ids, part.scores
    offsets = np.zeros(found.counts.size + 1, np.int64)
    found.counts.cumsum(out=offsets[1:])
    ids = np.empty(offsets[-1], np.int64)
    scores = np.empty(offsets[-1] if any(part.scores.size for part in found.parts) else 0, np.float32)
    cursor = offsets[:-1].copy()
    for owners, part_ids, part_scores in found.parts:
        _fill(cursor, owners, part_ids, part_scores, ids, scores)
    _order_each(offsets, ids, scores)
    return offsets, ids, scores


@entry
def _fill(cursor, owners, part_ids, part_scores, ids, scores):
    for k in range(owners.size):
        at = cursor[owners[k]]
        cursor[owners[k]] = at + 1
        ids[at] = part_ids[k]
        if scores.size:
            scores[at] = part_scores[k]


@entry
def _order_each(offsets, ids, scores):
    for row in range(offsets.size - 1):
        order_by_id(ids[offsets[row] : offsets[row + 1]], scores[offsets[row] : offsets[row + 1]])


@stage
def order_by_id(ids, scores):
    """Order the hits of one direction by id, in place."""
    for at in range(1, ids.size):
        if ids[at] < ids[at - 1]:
            _sort_by_id(ids, scores)
            return


@stage
def _sort_by_id(ids, scores):
    """Sort distinct ids, and their scores if there are any, in place."""
    places = _ascending(ids)
    old = ids.copy()
    for k in range(ids.size):
        ids[k] = old[places[k]]
    if scores.size:
        own = scores.copy()
        for k in range(ids.size):
            scores[k] = own[places[k]]


@stage
def _ascending(ids):
    """Order distinct ids: long rows by radix, with the place of each in the low half of its key."""
    lowest = ids.min()
    spread = ids.max() - lowest
    if ids.size < SHORT or not 0 < spread < 2**31:  # a negative spread has overflowed
        return np.argsort(ids)
    keys = np.empty(ids.size, np.int64)
    sorted_keys = np.empty(ids.size, np.int64)
    for k in range(ids.size):
        keys[k] = ((ids[k] - lowest) << 32) | k
    counts = np.empty(RADIX, np.int64)
    shift = 32
    while spread >> (shift - 32) > 0:
        counts[:] = 0
        for key in keys:
            counts[(key >> shift) & (RADIX - 1)] += 1
        total = 0
        for digit in range(RADIX):
            count = counts[digit]
            counts[digit] = total
            total += count
        for key in keys:
            digit = (key >> shift) & (RADIX - 1)
            sorted_keys[counts[digit]] = key
            counts[digit] += 1
        keys, sorted_keys = sorted_keys, keys
        shift += RADIX_BITS
    return keys & 0xFFFFFFFF


@stage
def _descending(scores):
    """Order scores from the highest, equals as they come; by integers, so that flushed subnormals keep their places."""
    keys = np.empty(scores.size, np.int64)
    for k in range(scores.size):
        bits = np.int64(bits_of(scores[k]))
        keys[k] = -bits if bits >= 0 else bits + np.int64(0x80000000)  # minus the magnitude, or the magnitude
    return np.argsort(keys, kind="mergesort")


@entry
def sort_by_score(offsets, ids, scores):
    """Order each row by descending score, then by id, in place; rows come ordered by id."""
    for row in range(offsets.size - 1):
        first, last = offsets[row], offsets[row + 1]
        order = _descending(scores[first:last])
        ids[first:last] = ids[first:last][order]
        scores[first:last] = scores[first:last][order]
    return offsets, ids, scores


@entry
def best(offsets, ids, scores, limit):
    """Keep of each row the `limit` best, by score and then by id, in order of ids; rows come ordered by id."""
    rows = offsets.size - 1
    kept = np.zeros(rows + 1, np.int64)
    for row in range(rows):
        kept[row + 1] = kept[row] + min(limit, offsets[row + 1] - offsets[row])
    out_ids = np.empty(kept[rows], np.int64)
    out_scores = np.empty(kept[rows], np.float32)
    for row in range(rows):
        first, last = offsets[row], offsets[row + 1]
        order = _descending(scores[first:last])[:limit]
        order.sort()
        for k in range(order.size):
            out_ids[kept[row] + k] = ids[first + order[k]]
            out_scores[kept[row] + k] = scores[first + order[k]]
    return kept, out_ids, out_scores


def joined(whole: Block, block: Block) -> Block:
    """Add a block of rows to those before; large arrays grow in place."""
    offsets, ids, scores, totals = whole
    more_offsets, more_ids, more_scores, more_totals = block
    offsets = np.concatenate([offsets, more_offsets[1:] + ids.size])
    return offsets, _longer(ids, more_ids), _longer(scores, more_scores), np.concatenate([totals, more_totals])


def _longer(array: Any, more: Any) -> Any:
    array = array if array.flags.owndata else array.copy()
    before = array.size
    array.resize(before + more.size, refcheck=False)
    array[before:] = more
    return array
