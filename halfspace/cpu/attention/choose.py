"""Attention over keys that one pass over their codes chooses, see `halfspace.attention.policy`.

Four steps, each over runs of rows that threads take one after another:

1. *Scan*: codes bound every score, in positions of which `PER_NAT` are a nat, and the bounds of a run are counted.
2. *Cut*: the counts of all runs say below which position rows can be left out, unseen.
3. *Score*: what may lie above gets its exact score, once, and the threshold is raised as far as these scores allow.
4. *Weigh*: the values of what reaches the threshold are added up.

Positions are those of logits, seen from the centre; a logit is `scale` times a score. What is computed of a logit here
errs by less than `doubt`, which is far below a position. So a sum of weights errs by a factor of exp(doubt) at most, to
which the rounding of sums and exponentials adds less than 2^-30.
"""

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.cpu.attention.attend import ROWS, attend, grain_of_bits
from halfspace.cpu.attention.heads import borrow_heads, cells_of, prepare_heads, take_run, workers, writeable
from halfspace.cpu.attention.rows import decide_rows, score_rows, weigh_rows
from halfspace.cpu.attention.scan import ABOVE, ALL, HEAD, PER_NAT, SHARE, bent, cut, scan_runs
from halfspace.cpu.attention.softmax import MOST, exponential, merge
from halfspace.cpu.exact import LIMBS
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.formats import exact64, widen
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.clock import CLOCK, TURN, overdue, start_clock
from halfspace.cpu.runtime.jit import array_at, borrowed, compiled, hold, inlined
from halfspace.model.kv_cache import Aim, Attention, Cache, Chosen
from halfspace.model.layout import CHUNK

__all__ = ["attend_chosen"]

LEAST, DEEP, DEEPEST = 512, 1920, 6400
"""Positions below it that are told apart: at least, where a share of the keys is asked for, and at most."""


def attend_chosen(
    cache: Cache, queries: np.ndarray, aim: Aim, scale: float, recent: int, sinks: int, threads: int, cap: float = 0.0
) -> Chosen:
    """Attend over keys that one pass over their codes chooses, and the first `sinks` and last `recent` of a sequence.

    queries : float32 or bits (batch, query_heads, d), finite; logits are scale * <q, k>, scale > 0, which a `cap`
        above 0 bends to cap tanh(scale <q, k> / cap)

    The keys that are kept are those that reach `tau`, in real arithmetic. Where nothing can be certified, tau is -inf,
    and nothing is dropped.
    """
    queries = writeable(queries)
    batch, query_heads, dim = queries.shape
    longest = max(cache.lengths.tolist())
    heads, runs = batch * query_heads, max(1, -(-longest // ROWS))
    below = DEEP if aim.eps is None else int(PER_NAT * (log(max(longest, 1) / (SHARE * aim.eps)) + 1.0))
    bins = (min(max(below, LEAST), DEEPEST) if cap == 0.0 else DEEPEST) + ABOVE
    logits = float(scale), float(cap)
    padded = runs * ROWS
    known, uppers = np.zeros(heads, HEAD), np.empty((heads, padded), np.int32)
    extents, counts = np.empty((heads, runs, 2), np.int32), np.empty((heads, runs, 2, bins), np.int32)
    rows, scores = np.empty((heads, padded), np.int64), np.empty((heads, padded))
    listed, masses = np.zeros((heads, runs), np.int64), np.empty((heads, runs, 2, bins + 1))
    tau, dropped = np.empty((batch, query_heads)), np.empty((batch, query_heads))
    weights = np.exp((np.arange(bins + 1) - (bins - ABOVE)) / PER_NAT)
    tops, sums, kept = np.empty((heads, runs)), np.empty((heads, runs)), np.zeros((heads, runs), np.int64)
    of_runs = tops, sums, kept, np.empty((heads, runs, dim))
    address, most = cells_of(cache), workers(cache, query_heads, threads)
    how = (-1.0 if aim.eps is None else aim.eps, -1.0 if aim.keep is None else aim.keep)

    def over_runs(kernel: Callable[..., None], *given: Any) -> None:
        begun = np.zeros(1, np.int64)

        def work(_: int) -> None:
            while begun[0] < len(cache.keys) * runs:
                _threads.go_on()
                kernel(*given, begun)

        _threads.run(work, range(most), most)

    store, forced = (cache.keys, cache.values, cache.norms), (recent, sinks)
    found = uppers, extents, counts, known
    over_runs(scan_runs, address, cache.lengths, queries, (float(scale), cache.heads), found)
    cut(cache.lengths, how, logits, found, weights)
    if cache.fetch is not None:
        cache.fetch(_wanted(cache, uppers[:, :longest], known["limit"], forced))
    marks = uppers, known, forced, logits
    over_runs(_score_runs, cache.keys, cache.lengths, queries, marks, (rows, scores, listed, masses))
    _raise_thresholds(cache.lengths, how, logits, known, masses, (tau, dropped))
    if known["failed"].any():
        return Chosen(attend(cache, queries, tau, scale, recent, sinks, threads, cap), tau, dropped)
    asked = queries, tau, (*logits, recent, sinks, grain_of_bits(cache.keys.dtype))
    over_runs(_weigh_runs, address, store, cache.lengths, asked, (rows, scores, listed), of_runs)
    merged = np.empty((heads, dim), np.float32), np.empty(heads, np.float32), np.empty(heads, np.int64)
    merge(*of_runs, *merged)
    shape = batch, query_heads
    answer = Attention(merged[0].reshape(*shape, dim), *(part.reshape(shape) for part in merged[1:]))
    return Chosen(answer, tau, dropped)


def _wanted(
    cache: Cache, uppers: npt.NDArray[np.int32], limits: npt.NDArray[np.int64], forced: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Say which rows (spaces, rows) will be scored for any query head."""
    recent, sinks = forced
    reach = (uppers > limits[:, None]).reshape(len(cache.keys), -1, uppers.shape[1]).any(axis=1)
    lengths = np.repeat(cache.lengths, cache.heads)[:, None]
    rows = np.arange(uppers.shape[1])
    wanted: npt.NDArray[np.bool_] = (reach | (rows < sinks) | (rows >= lengths - recent)) & (rows < lengths)
    return wanted


@compiled
def _score_runs(keys, lengths, queries, marks, found, begun):
    """Score exactly what may be kept of runs, one after another: those that no thread has begun, while time allows.

    marks : upper bounds (query heads, rows), HEAD (query heads,), how many rows are forced, and scale and cap of logits
    found : rows and scores (query heads, rows), how many there are of each run (.., runs), and what they weigh and how
        many they are (.., runs, 2, bins + 1), by their logits from the head's start on; the first are those below it
    """
    uppers, known, (recent, sinks), logits = marks
    rows, scores, listed, masses = found
    batch, query_heads, dim = queries.shape
    spaces, runs = keys.shape[0], listed.shape[1]
    heads = spaces // batch
    size = query_heads // heads
    wide, weights = np.empty((size, dim)), np.empty(CHUNK)
    stored, over, all_rows, all_scores = borrowed(keys), borrowed(uppers), borrowed(rows), borrowed(scores)
    clock = np.empty(1, CLOCK)
    start_clock(clock[0], TURN)
    while not overdue(clock[0]):
        space, sequence, first, run = take_run(begun, runs, (batch, heads, size))
        if run < 0:
            break
        length, owner, start = lengths[sequence], sequence * query_heads + first, run * ROWS
        forced = min(sinks, length), max(0, length - recent)
        for k in range(size):
            listed[owner + k, run] = 0
            masses[owner + k, run] = 0.0
            for j in range(dim):
                wide[k, j] = exact64(widen(queries[sequence, first + k, j]))
        for low in range(start, min(start + ROWS, length), CHUNK):
            high = min(low + CHUNK, length)
            for k in range(size):
                head, count = known[owner + k], listed[owner + k, run]
                own_rows, own_scores = all_rows[owner + k, start + count :], all_scores[owner + k, start + count :]
                more = _list_rows(over[owner + k], head.limit, (low, high), forced, own_rows)
                score_rows(stored[space], wide[k], own_rows, more, own_scores)
                _add_masses(
                    over[owner + k], head, logits, (own_rows, own_scores, more), weights, masses[owner + k, run]
                )
                listed[owner + k, run] = count + more
    hold(clock)
    hold(wide)


@inlined
def _list_rows(uppers, limit, span, forced, rows):
    """List the rows of a span that may be kept; returns how many."""
    low, high = span
    count = 0
    if low < forced[0] or high > forced[1]:
        for i in range(low, high):
            rows[count] = i
            count += uppers[i] > limit or i < forced[0] or i >= forced[1]
        return count
    for i in range(low, high):
        rows[count] = i
        count += uppers[i] > limit
    return count


@inlined
def _add_masses(uppers, head, logits, listed, weights, masses):
    """Count and weigh the listed rows by their logits; forced ones that were left out are in the bound of these."""
    rows, scores, count = listed
    scale, cap = logits
    if head.failed:  # rows that are forced
        return
    for at in range(count):
        logit = scale * (scores[at] - head.base) - head.origin
        if cap > 0.0:
            logit = bent(logit, head.origin + scale * head.base, cap)
        weights[at] = exponential(max(min(logit, MOST), -MOST))
    last = masses.shape[1] - 1
    for at in range(count):
        if uppers[rows[at]] > head.limit:
            place = (scale * (scores[at] - head.base) - head.origin - head.start) * PER_NAT
            bin = np.int64(min(max(np.floor(place) + 1.0, 0.0), np.float64(last)))
            masses[0, bin] += weights[at]
            masses[1, bin] += 1.0


@compiled
def _raise_thresholds(lengths, how, logits, known, masses, certified):
    """Raise the threshold of each head as far as exact scores allow; tau and the share that is dropped are written."""
    eps, keep = how
    scale, cap = logits
    tau, dropped = certified
    query_heads = tau.shape[1]
    bins = masses.shape[3]
    merged, rest = np.empty((2, bins)), np.empty(bins + 1)
    for at in range(known.size):
        head, length = known[at], lengths[at // query_heads]
        level, share = -np.inf, 0.0
        if length > 0 and not head.failed:
            merged[:] = 0.0
            for run in range((length + ROWS - 1) // ROWS):
                merged += masses[at, run]
            rest[bins] = 0.0
            for b in range(bins - 1, -1, -1):
                rest[b] = rest[b + 1] + merged[0, b]
            inflation = exponential(4.0 * (head.doubt + 2.0**-42 * cap)) * (1.0 + 2.0**-30)
            below, left, cut = head.below, merged[1].sum(), 0
            for b in range(bins - 1):  # what lies below bin b + 1 is dropped
                below += merged[0, b]
                left -= merged[1, b]
                more = below * inflation
                more = more / (more + rest[b + 1]) * (1.0 + 2.0**-50) if more < np.inf and rest[b + 1] > 0.0 else 1.0
                unseen = b == 0 and head.limit != ALL  # rows below the start were not all looked at
                if (keep < 0.0 and not more <= eps) or (keep >= 0.0 and left < keep * length and not unseen):
                    break
                cut, share = b + 1, more
            if cut > 0:
                level = head.start + (cut - 1) / PER_NAT
            elif head.limit != ALL:
                head.failed = 1
        if level > -np.inf:
            level = (head.origin + level - 2.0 * head.doubt) / scale
            level += head.base - 2.0**-48 * (abs(level) + abs(head.base))
        good = abs(level) < np.inf
        tau[at // query_heads, at % query_heads] = level if good else -np.inf
        dropped[at // query_heads, at % query_heads] = share if good else 0.0


@compiled
def _weigh_runs(address, store, lengths, asked, found, of_runs, begun):
    """Add up the values of what is kept of runs, one after another: those that no thread has begun, while time allows.

    address : of CELLS (spaces,); store : keys, values, norms; asked : queries, thresholds, and how (scale, cap,
        recent, sinks, grain)
    found : rows and scores (query heads, rows), and how many there are of each run; of_runs : see `merge`
    """
    keys, values, norms = store
    queries, tau, (scale, cap, recent, sinks, grain) = asked
    rows, scores, listed = found
    tops, sums, kept, weighted = of_runs
    batch, query_heads, dim = queries.shape
    spaces, runs = keys.shape[0], tops.shape[1]
    heads = spaces // batch
    size = query_heads // heads
    all_cells = array_at(address, CELLS, spaces)
    keys, values, norms = borrowed(keys), borrowed(values), borrowed(norms)
    all_rows, all_scores = borrowed(rows), borrowed(scores)
    parts, part = np.empty((2, max(dim, LIMBS))), np.empty(dim, np.float32)
    own, viewed = prepare_heads(all_cells[0], queries[0, :size], tau[0, :size]), 0
    group = borrow_heads(own)
    clock = np.empty(1, CLOCK)
    start_clock(clock[0], TURN)
    while not overdue(clock[0]):
        space, sequence, first, run = take_run(begun, runs, (batch, heads, size))
        if run < 0:
            break
        cells, length = all_cells[space], lengths[sequence]
        if space != viewed:
            heads_of_space = slice(first, first + size)
            own = prepare_heads(cells, queries[sequence, heads_of_space], tau[sequence, heads_of_space])
            group, viewed = borrow_heads(own), space
        forced = (min(sinks, length), max(0, length - recent))
        owner, start = sequence * query_heads + first, run * ROWS
        for k in range(size):
            kept[owner + k, run] = 0
            for low in range(0, listed[owner + k, run], CHUNK):
                more = min(CHUNK, listed[owner + k, run] - low)
                few = slice(start + low, start + low + more)
                own_rows, own_scores = all_rows[owner + k, few], all_scores[owner + k, few]
                rows_of_space = keys[space], values[space], norms[space]
                marked = own_rows, own_scores, more
                count = decide_rows(rows_of_space, (scale, cap, grain), group, k, forced, marked, parts)
                if count:
                    before = kept[owner + k, run], tops[owner + k, run], sums[owner + k, run]
                    kept[owner + k, run] += count
                    tops[owner + k, run], sums[owner + k, run] = weigh_rows(
                        values[space], (own_rows, own_scores, count), part, before, weighted[owner + k, run]
                    )
    hold(clock)
    hold(own)
