"""Sorting and selecting hits by the digits of a value: their ids, or their scores from the highest down.

Scores are compared as integers, so that subnormals keep their places where the processor flushes them. A value less the
lowest of a row has few digits, and the highest of them already tells most hits apart.

Hits are two arrays: ids int64 (h,) and scores float32 (h,), or none of these where they were not wanted. All arrays
are given, spare ones of the same sizes among them, and nothing is allocated here.
"""

import numpy as np

from halfspace.cpu.runtime.jit import bit_length, bits_of, compiled, inlined

__all__ = [
    "RADIX",
    "RADIX_BITS",
    "SHORT",
    "bounds",
    "insert",
    "keep_rows",
    "order",
    "order_rows",
    "pick",
    "scatter",
    "sift",
    "tally",
    "worst_of_rows",
]

LOWEST, HIGHEST = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)

RADIX_BITS = 11
RADIX = 1 << RADIX_BITS
"""Buckets of a digit: their counters fit the innermost cache."""
SHORT = 48
"""Hits up to which insertion orders them sooner than counting does."""


@inlined
def descending(score):
    """Turn a score into an integer that is the lower, the higher the score; both zeros give 0."""
    bits = np.int64(bits_of(score))
    return -bits if bits >= 0 else bits + np.int64(0x80000000)  # minus the magnitude, or the magnitude


@inlined
def _value(ids, scores, at, by_score):
    return descending(scores[at]) if by_score else ids[at]


@inlined
def _above(value, lowest):
    """Subtract without overflow: int64 values may lie 2**64 - 1 apart."""
    return np.uint64(value) - np.uint64(lowest)


@inlined
def _bounds(ids, scores, by_score):
    """Find the lowest and the highest value of at least one hit, and whether the hits are in order."""
    lowest = highest = last = _value(ids, scores, 0, by_score)
    ordered = True
    for at in range(ids.size):
        value = _value(ids, scores, at, by_score)
        lowest, highest = min(lowest, value), max(highest, value)
        ordered &= last <= value
        last = value
    return lowest, highest, ordered


@inlined
def _tally(ids, scores, by_score, lowest, shift, counts):
    """Add to the counts (buckets,), a power of two, how many hits have each digit at bit `shift` above the lowest."""
    mask = np.uint64(counts.size - 1)
    for at in range(ids.size):
        counts[(_above(_value(ids, scores, at, by_score), lowest) >> np.uint64(shift)) & mask] += 1


@inlined
def _scatter(ids, scores, by_score, lowest, shift, starts, out_ids, out_scores):
    """Move each hit to where the next of its digit starts (buckets,), in order."""
    mask = np.uint64(starts.size - 1)
    for at in range(ids.size):
        digit = (_above(_value(ids, scores, at, by_score), lowest) >> np.uint64(shift)) & mask
        to = starts[digit]
        starts[digit] = to + 1
        out_ids[to] = ids[at]
        if scores.size:
            out_scores[to] = scores[at]


@inlined
def _start(counts):
    """Turn counts into the places at which the buckets start."""
    total = 0
    for bucket in range(counts.size):
        count = counts[bucket]
        counts[bucket] = total
        total += count


@inlined
def _clear(counts):
    for bucket in range(counts.size):
        counts[bucket] = 0


@inlined
def _copy(source, target):
    """Copy to where there is room; NumPy's assignment takes long to compile."""
    for at in range(source.size):
        target[at] = source[at]


@inlined
def insert(ids, scores, by_score):
    """Order few hits."""
    for k in range(1, ids.size):
        value, own = _value(ids, scores, k, by_score), ids[k]
        score = scores[k] if scores.size else np.float32(0.0)
        at = k
        while at and _value(ids, scores, at - 1, by_score) > value:
            ids[at] = ids[at - 1]
            if scores.size:
                scores[at] = scores[at - 1]
            at -= 1
        ids[at] = own
        if scores.size:
            scores[at] = score


@inlined
def _move(ids, scores, by_score, lowest, shift, digits, out_ids, out_scores):
    """Order hits by one digit; digits : int64 (buckets,)."""
    _clear(digits)
    _tally(ids, scores, by_score, lowest, shift, digits)
    _start(digits)
    _scatter(ids, scores, by_score, lowest, shift, digits, out_ids, out_scores)


@inlined
def order(ids, scores, by_score, spare_ids, spare_scores, counts):
    """Order hits by their value, equals as they come, by one digit after another; counts : int64 (RADIX,)."""
    if ids.size <= SHORT:
        insert(ids, scores, by_score)
        return
    lowest, highest, ordered = _bounds(ids, scores, by_score)
    if ordered:
        return
    bits = bit_length(np.int64(_above(highest, lowest)))
    passes = (bits + RADIX_BITS - 1) // RADIX_BITS
    width = (bits + passes - 1) // passes
    digits = counts[: 1 << width]
    for which in range(passes):
        _move(ids, scores, by_score, lowest, which * width, digits, spare_ids, spare_scores)
        ids, scores, spare_ids, spare_scores = spare_ids, spare_scores, ids, scores
    if passes & 1:
        _copy(ids, spare_ids)
        _copy(scores, spare_scores)


@compiled
def bounds(ids, scores, by_score):
    """See `_bounds`."""
    return _bounds(ids, scores, by_score)


@compiled
def tally(ids, scores, by_score, lowest, shift, counts):
    """See `_tally`."""
    _tally(ids, scores, by_score, lowest, shift, counts)


@compiled
def scatter(ids, scores, by_score, lowest, shift, starts, out_ids, out_scores):
    """See `_scatter`."""
    _scatter(ids, scores, by_score, lowest, shift, starts, out_ids, out_scores)


@compiled
def order_rows(offsets, ids, scores, by_score, spare_ids, spare_scores, counts):
    """Order each of the rows between offsets (rows + 1,); spare arrays hold the longest of them."""
    for row in range(offsets.size - 1):
        first, last = offsets[row], offsets[row + 1]
        own = last - first if scores.size else 0
        own_ids, own_scores = ids[first:last], scores[first:last]
        order(own_ids, own_scores, by_score, spare_ids[: last - first], spare_scores[:own], counts)


@compiled
def pick(ids, scores, by_score, lowest, shift, digit, out_ids, out_scores):
    """Copy the hits whose digit from bit `shift` up is this one, perhaps to where they come from; returns how many."""
    picked = 0
    for at in range(ids.size):
        own = _above(_value(ids, scores, at, by_score), lowest) >> np.uint64(shift)
        if own == np.uint64(digit):
            out_ids[picked], out_scores[picked] = ids[at], scores[at]
            picked += 1
    return picked


@inlined
def _worst(ids, scores, limit, near_ids, near_scores, counts):
    """Find the last of the `limit` best hits: its score as an integer and its id; ids are distinct.

    Hits are counted by their highest digit; from then on only those matter that share it with the one looked for.
    """
    size, wanted, by_score = ids.size, limit, True
    if size < limit:
        return np.int64(HIGHEST), np.int64(HIGHEST)
    if limit == 0:
        return np.int64(LOWEST), np.int64(LOWEST)
    while size > SHORT and wanted < size:
        lowest, highest, _ = _bounds(ids, scores, by_score)
        if lowest == highest:
            by_score = False
            continue
        bits = bit_length(np.int64(_above(highest, lowest)))
        width = min(RADIX_BITS, bit_length(size) - 1, bits)
        digits = counts[: 1 << width]
        _clear(digits)
        _tally(ids, scores, by_score, lowest, bits - width, digits)
        digit = 0
        while wanted > digits[digit]:
            wanted -= digits[digit]
            digit += 1
        size = pick(ids, scores, by_score, lowest, bits - width, digit, near_ids, near_scores)
        ids, scores = near_ids[:size], near_scores[:size]
    if wanted < size:
        _copy(ids, near_ids)
        _copy(scores, near_scores)
        insert(near_ids[:size], near_scores[:size], False)
        insert(near_ids[:size], near_scores[:size], True)
        return descending(near_scores[wanted - 1]), near_ids[wanted - 1]
    last, last_id = descending(scores[0]), ids[0]
    for at in range(1, size):
        score = descending(scores[at])
        if score > last or (score == last and ids[at] > last_id):
            last, last_id = score, ids[at]
    return last, last_id


@compiled
def worst_of_rows(rows, limit, ids, scores, near_ids, near_scores, counts, worst):
    """Find what each of the runs [low, high) of rows (rows, 2) has as the last of its `limit` best hits.

    worst : int64 (rows, 2), a score as an integer and an id, HIGHEST where there are fewer hits
    near_ids, near_scores : of the size of the longest run; counts : int64 (RADIX,)
    """
    for row in range(len(rows)):
        low, high = rows[row]
        worst[row] = _worst(ids[low:high], scores[low:high], limit, near_ids, near_scores, counts)


@compiled
def keep_rows(rows, places, ids, scores, worst, out_ids, out_scores):
    """Copy the best of each of the runs [low, high) of rows (rows, 2) to places [first, last) (rows, 2), in order.

    worst : see `worst_of_rows`. Returns the place after the last hit that was copied. Half of all hits may be kept, and
    no branch could be foretold: each hit is written, and the next over it if it is not one of them.
    """
    to = 0
    for row in range(len(rows)):
        at, high = rows[row]
        to, last = places[row]
        lowest, last_id = worst[row]
        while at < high and to < last:
            out_ids[to], out_scores[to] = ids[at], scores[at]
            score = descending(scores[at])
            to += np.int64((score < lowest) | ((score == lowest) & (ids[at] <= last_id)))
            at += 1
    return to


@compiled
def sift(owners, ids, scores, worst, out_owners, out_ids, out_scores):
    """Copy the hits that are no worse than the worst of their direction (m, 2); returns how many."""
    left = 0
    for k in range(owners.size):
        owner, score = owners[k], descending(scores[k])
        if score < worst[owner, 0] or (score == worst[owner, 0] and ids[k] <= worst[owner, 1]):
            out_owners[left], out_ids[left], out_scores[left] = owner, ids[k], scores[k]
            left += 1
    return left
