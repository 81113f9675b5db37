"""Sorting and selecting hits by the digits of a value: their ids, or their scores from the highest down.

Scores are compared as integers, so that subnormals keep their places where the processor flushes them. A value less the
lowest of a row has few digits, and the highest of them already tells most hits apart.

Hits are two arrays: ids int64 (h,) and scores float32 (h,), or none of these where they were not wanted. All arrays
are given, spare ones of the same sizes among them, and nothing is allocated here.
"""

import numpy as np

from halfspace.cpu._jit import bit_length, bits_of, entry, stage

__all__ = ["RADIX", "RADIX_BITS", "bounds", "descending", "order", "order_rows", "scatter", "select_rows", "tally"]

RADIX_BITS = 11
RADIX = 1 << RADIX_BITS
"""Buckets of a digit: their counters fit the innermost cache."""
SHORT = 48
"""Hits up to which insertion orders them sooner than counting does."""


@stage
def descending(score):
    """Turn a score into an integer that is the lower, the higher the score; both zeros give 0."""
    bits = np.int64(bits_of(score))
    return -bits if bits >= 0 else bits + np.int64(0x80000000)  # minus the magnitude, or the magnitude


@stage
def _value(ids, scores, at, by_score):
    return descending(scores[at]) if by_score else ids[at]


@stage
def _above(value, lowest):
    """Subtract without overflow: int64 values may lie 2**64 - 1 apart."""
    return np.uint64(value) - np.uint64(lowest)


@entry
def bounds(ids, scores, by_score):
    """Find the lowest and the highest value of at least one hit, and whether the hits are in order."""
    lowest = highest = last = _value(ids, scores, 0, by_score)
    ordered = True
    for at in range(ids.size):
        value = _value(ids, scores, at, by_score)
        lowest, highest = min(lowest, value), max(highest, value)
        ordered &= last <= value
        last = value
    return lowest, highest, ordered


@entry
def tally(ids, scores, by_score, lowest, shift, counts):
    """Add to the counts (buckets,), a power of two, how many hits have each digit at bit `shift` above the lowest."""
    mask = np.uint64(counts.size - 1)
    for at in range(ids.size):
        counts[(_above(_value(ids, scores, at, by_score), lowest) >> np.uint64(shift)) & mask] += 1


@entry
def scatter(ids, scores, by_score, lowest, shift, starts, out_ids, out_scores):
    """Move each hit to where the next of its digit starts (buckets,), in order."""
    mask = np.uint64(starts.size - 1)
    for at in range(ids.size):
        digit = (_above(_value(ids, scores, at, by_score), lowest) >> np.uint64(shift)) & mask
        to = starts[digit]
        starts[digit] = to + 1
        out_ids[to] = ids[at]
        if scores.size:
            out_scores[to] = scores[at]


@stage
def _start(counts):
    """Turn counts into the places at which the buckets start."""
    total = 0
    for bucket in range(counts.size):
        count = counts[bucket]
        counts[bucket] = total
        total += count


@stage
def _insert(ids, scores, by_score):
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


@stage
def order(ids, scores, by_score, spare_ids, spare_scores, counts):
    """Order hits by their value, equals as they come, by one digit after another; counts : int64 (RADIX,)."""
    if ids.size <= SHORT:
        _insert(ids, scores, by_score)
        return
    lowest, highest, ordered = bounds(ids, scores, by_score)
    if ordered:
        return
    bits = bit_length(np.int64(_above(highest, lowest)))
    passes = (bits + RADIX_BITS - 1) // RADIX_BITS
    width = (bits + passes - 1) // passes
    digits = counts[: 1 << width]
    for which in range(passes):
        digits[:] = 0
        tally(ids, scores, by_score, lowest, which * width, digits)
        _start(digits)
        scatter(ids, scores, by_score, lowest, which * width, digits, spare_ids, spare_scores)
        ids, scores, spare_ids, spare_scores = spare_ids, spare_scores, ids, scores
    if passes & 1:
        spare_ids[:] = ids
        spare_scores[:] = scores


@entry
def order_rows(offsets, ids, scores, by_score, spare_ids, spare_scores, counts):
    """Order each of the rows between offsets (rows + 1,); spare arrays hold the longest of them."""
    for row in range(offsets.size - 1):
        first, last = offsets[row], offsets[row + 1]
        own = last - first if scores.size else 0
        order(
            ids[first:last], scores[first:last], by_score, spare_ids[: last - first], spare_scores[:own], counts
        )  # fmt: skip


@stage
def _select(ids, scores, wanted, spare_ids, spare_scores, counts):
    """Bring the `wanted` best hits by score, then by id, to the front; ids are distinct.

    Hits are put in buckets by their highest digit; then only the bucket matters that holds the last hit wanted.
    """
    low, high, by_score = 0, ids.size, True
    while low < wanted < high:
        near_ids, near_scores = ids[low:high], scores[low:high]
        size = high - low
        if size <= SHORT:
            _insert(near_ids, near_scores, False)
            _insert(near_ids, near_scores, True)
            return
        lowest, highest, _ = bounds(near_ids, near_scores, by_score)
        if lowest == highest:
            by_score = False
            continue
        bits = bit_length(np.int64(_above(highest, lowest)))
        width = min(RADIX_BITS, bit_length(size) - 1, bits)
        shift = bits - width
        digits = counts[: 1 << width]
        digits[:] = 0
        tally(near_ids, near_scores, by_score, lowest, shift, digits)
        _start(digits)
        scatter(near_ids, near_scores, by_score, lowest, shift, digits, spare_ids, spare_scores)
        near_ids[:] = spare_ids[:size]
        near_scores[:] = spare_scores[:size]
        bucket = 0
        while low + digits[bucket] < wanted:  # now where each bucket ends
            bucket += 1
        high = low + digits[bucket]
        low += digits[bucket - 1] if bucket else 0


@entry
def select_rows(lows, highs, ends, ids, scores, spare_ids, spare_scores, counts):
    """Bring the best of each run of hits [low, high) to its front, up to its end; spare arrays hold the longest run."""
    for row in range(lows.size):
        low, high = lows[row], highs[row]
        _select(ids[low:high], scores[low:high], ends[row] - low, spare_ids, spare_scores, counts)
