"""Bounds of the scores of all keys, by one pass over their codes, and what they say can be left out unseen.

See `halfspace.cpu.attention.choose`, of which these are the first two steps.
"""

import numpy as np

from halfspace.cpu.attention.attend import ROWS
from halfspace.cpu.attention.heads import PACK, blank_tile, borrow_heads, load_tile, multiply, prepare_heads, take_run
from halfspace.cpu.attention.softmax import capped, exponential
from halfspace.cpu.codes import dot_centre
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.runtime.clock import CLOCK, TURN, overdue, start_clock
from halfspace.cpu.runtime.jit import array_at, borrowed, compiled, float32_of, hold, inlined, pointer
from halfspace.cpu.runtime.simd import matrix_begin, matrix_end
from halfspace.model.layout import CHUNK, TILE

__all__ = ["ABOVE", "ALL", "HEAD", "PER_NAT", "SHARE", "bent", "cut", "scan_runs"]

SHARE = 0.6
"""Part of the share that may be dropped which bounds alone may use up; a larger one leaves fewer keys to be scored."""
PER_NAT = 64.0
"""Positions in a nat, a factor e of a softmax weight."""
ABOVE = 128
"""Positions above the largest lower bound of a run that are told apart."""
FARTHEST = 2.0**28
"""Bounds that lie further away say nothing."""
MOST_DOUBT = 2.0**-10
"""Where logits are known less well than this, nothing is certified."""
ALL, NONE = -(1 << 30), 1 << 30
"""Positions that every row reaches, and none."""

HEAD = np.dtype(
    [
        *((name, np.float64) for name in ("base", "base_error", "slope", "intercept", "norm", "peak", "unit")),
        ("doubt", np.float64),  # of a logit
        ("origin", np.float64),  # the logit, seen from the centre, that weighs 1
        ("start", np.float64),  # rows whose logit lies less than this above the origin are dropped
        ("below", np.float64),  # upper bound of what rows weigh that are left out unseen
        ("limit", np.int64),  # rows are left out unseen whose upper bound is at most this position
        ("failed", np.int64),  # whether too little is known of the scores
    ]
)
"""What is known of a query head."""


@compiled
def scan_runs(address, lengths, queries, how, found, begun):
    """Bound the scores of runs, one after another: those that no thread has begun, while the clock allows.

    address : of CELLS (spaces,); how : scale, KV heads
    found : upper bounds (query heads, rows), the largest lower bound and the largest distance of all (.., runs, 2), how
        many rows have each upper and lower bound (.., runs, 2, bins) from the first that is told apart on, which stands
        for those below, and HEAD (query heads,)
    """
    scale, heads = how
    uppers, extents, counts, known = found
    batch, query_heads, dim = queries.shape
    spaces, runs = batch * heads, extents.shape[1]
    size = query_heads // heads
    all_cells = array_at(address, CELLS, spaces)
    tile, codes = blank_tile(dim)
    lowers = np.empty((size, ROWS), np.int32)
    under = borrowed(lowers)
    over, counted = borrowed(uppers), borrowed(counts)
    everything = np.full(size, -np.inf)
    own, viewed = prepare_heads(all_cells[0], queries[0, :size], everything), 0
    group = borrow_heads(own)
    words = (dim + 7) // 8
    clock = np.empty(1, CLOCK)
    start_clock(clock[0], TURN)
    matrix_begin()
    while not overdue(clock[0]):
        space, sequence, first, run = take_run(begun, runs, (batch, heads, size))
        if run < 0:
            break
        cells, length = all_cells[space], lengths[sequence]
        owner, start = sequence * query_heads + first, run * ROWS
        stop = min(start + ROWS, length)
        if start >= length:
            continue
        if space != viewed:
            own = prepare_heads(cells, queries[sequence, first : first + size], everything)
            group, viewed = borrow_heads(own), space
        if run == 0:
            for k in range(size):
                _describe(cells, group, k, length, known[owner + k])
        scales, radii = pointer(cells.scales, np.uint16), pointer(cells.low_radii, np.uint16)
        for row in range(start, stop, TILE):
            load_tile(cells, row, words, tile[0])
            for pack in range(group.matrix.shape[0]):
                multiply(group, pack, tile[0])
                for k in range(pack * PACK, min((pack + 1) * PACK, size)):
                    products = pointer(tile[0].products.ctypes.data + k % PACK * (8 * TILE), np.int32)
                    spread = (row, scales, radii)
                    bounds = over[owner + k, row : row + TILE], under[k, row - start : row - start + TILE]
                    _bound_tile(products, group.views[k], scale, spread, bounds)
        for k in range(size):
            bounds = over[owner + k, start:stop], under[k, : stop - start]
            extents[owner + k, run, 0], extents[owner + k, run, 1] = _count(bounds, counted[owner + k, run])
    matrix_end()
    hold(clock)
    hold(codes)
    hold(lowers)
    hold(own)


@inlined
def _describe(cells, group, k, length, head):
    """Write down what is known of head k of a group before its scores are."""
    plan = group.plans[k]
    centre = array_at(cells.centre, np.float32, group.wide.shape[1])
    head.base, head.base_error = dot_centre(group.wide[k], plan, centre)
    head.slope, head.intercept, head.norm = plan.slope, plan.intercept, plan.norm
    head.unit = group.views[k].unit
    peaks = array_at(cells.peaks, np.float32, (length + CHUNK - 1) // CHUNK)
    head.peak = np.float64(peaks.max())


@inlined
def _bound_tile(products, view, scale, spread, bounds):
    """Bound the logits of a tile, rounding outwards; what is not a number is no bound.

    products : of the high digits, and then of the low ones; spread : the first row, scales and radii of the space
    bounds : get upper and lower positions (TILE,)

    Of float32, each operation errs by a share of 2^-24, and less than 2^-100 is lost where numbers are tiny.
    """
    first, scales, radii = spread
    uppers, lowers = bounds
    rate = PER_NAT * scale
    unit, bias = np.float32(rate * view.unit), 128.0 * view.digit_sum
    slack = np.float32(rate * view.low_slack * (1.0 + 2.0**-20) + 2.0**-100)
    factor = np.float32(rate * view.factor * (1.0 + 2.0**-20) + 2.0**-100)
    farthest, share, least = np.float32(FARTHEST), np.float32(2.0**-20), np.float32(2.0**-10)
    for i in range(TILE):
        product = np.float32(256.0 * np.float64(products[i]) + np.float64(products[TILE + i]) - bias)
        wide = float32_of(np.int32(scales[first + i]) << 16)
        around = float32_of(np.int32(radii[first + i]) << 16)
        value = wide * (unit * product)
        width = wide * slack + factor * around
        width += share * (abs(value) + width) + least
        upper, lower = value + width, value - width
        upper = upper if upper < farthest else farthest
        upper = upper if upper > -farthest else -farthest
        lower = lower if lower > -farthest else -farthest
        lower = lower if lower < farthest else farthest
        uppers[i] = np.int32(np.ceil(upper))
        lowers[i] = np.int32(np.floor(lower))


@inlined
def _count(bounds, counts):
    """Count the upper and lower positions of a run, from ABOVE its largest lower one down.

    Returns the largest lower position, and the largest distance of any from 0.
    """
    uppers, lowers = bounds
    top, reach = lowers[0], lowers[0]
    for i in range(lowers.size):
        top = max(top, lowers[i])
        reach = max(reach, max(uppers[i], -lowers[i]))
    last = np.int32(counts.shape[1] - 1)
    bottom = np.int32(top - (last + 1 - ABOVE))
    none = np.int32(0)
    counts[:] = 0
    for i in range(lowers.size):
        counts[0, min(max(uppers[i] - bottom, none), last)] += 1
        counts[1, max(lowers[i] - bottom, none)] += 1
    return top, reach


@inlined
def bent(exponent, origin, cap):
    """Bend an exponent relative to the logit `origin`: as capping never widens a gap, no doubt of it grows."""
    return capped(origin + exponent, cap) - capped(origin, cap)


@compiled
def cut(lengths, how, logits, found, weights):
    """Find for each head what can be left out unseen: its HEAD gets the rest of its fields.

    how : eps and keep, of which one is not below 0; logits : scale and cap; found : see `_scan_runs`
    weights : (bins + 1,), of a position, that of the largest lower bound being 1; made anew where logits are capped
    """
    eps, keep = how
    scale, cap = logits
    uppers, extents, counts, known = found
    bins = counts.shape[3]
    depth = bins - ABOVE
    inflation = 1.0 + 2.0**-30
    merged = np.empty((2, bins), np.int64)
    for at in range(known.size):
        head = known[at]
        length = lengths[at // (known.size // lengths.size)]
        head.limit, head.failed, head.below = ALL, 0, 0.0
        if length == 0:
            continue
        runs = (length + ROWS - 1) // ROWS
        top, reach = extents[at, :runs, 0].max(), extents[at, :runs, 1].max()
        most = reach / (PER_NAT * scale)
        error = head.slope * head.peak + head.intercept
        head.doubt = 2.0**-48 * (abs(head.base) + most + head.norm * head.peak)
        head.doubt = 1.01 * scale * (head.base_error + error + head.doubt)
        head.origin = top / PER_NAT
        head.start = (0.5 - depth) / PER_NAT
        moderate = 2.0**-90 < PER_NAT * scale * head.unit < 2.0**90
        if not (moderate and reach < FARTHEST and head.doubt < MOST_DOUBT):
            head.failed, head.limit = 1, NONE
            continue
        if cap > 0.0:
            for b in range(bins + 1):
                weights[b] = exponential(bent((b - depth) / PER_NAT, head.origin + scale * head.base, cap))
        merged[:] = 0
        for run in range(runs):  # the bottom of a run is not above that of all
            lift = min(np.int64(top) - extents[at, run, 0], np.int64(bins))
            merged[:, 0] += counts[at, run, :, : lift + 1].sum(axis=1) if lift < bins else counts[at, run].sum(axis=1)
            for b in range(lift + 1, bins):
                merged[0, b - lift] += counts[at, run, 0, b]
                merged[1, b - lift] += counts[at, run, 1, b]
            merged[0, max(bins - 1 - lift, 0)] -= counts[at, run, 0, bins - 1]  # these have no upper bound
        whole = 0.0
        for b in range(1, bins):
            whole += merged[1, b] * weights[b]
        under, over, below, best = 0.0, np.int64(0), np.int64(0), -1
        for b in range(bins - 1):
            under += merged[0, b] * weights[b]
            over += merged[0, b]
            below += merged[1, b]
            mass = (under + (below - over) * weights[b + 1]) * inflation
            if keep < 0.0 and not mass <= SHARE * eps * whole:
                break
            if keep >= 0.0 and length - below < keep * length:
                break
            best = b
            head.below = under
        if best < 0 and keep >= 0.0 and keep * length <= length - 1:  # the scores asked for lie below the bins
            rank = np.int64(length - np.ceil(keep * length))
            head.limit = np.partition(uppers[at, :length], rank)[rank] - 1
            head.start, head.below = (head.limit + 0.5) / PER_NAT - head.origin, np.inf
        if best >= 0:
            head.limit = top - depth + best
            head.start = (best - depth + 0.5) / PER_NAT
