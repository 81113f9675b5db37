"""Thresholds of attention, see `halfspace.attention.policy`: certified, by bounds of every key, or estimated.

For the certificate, exponents are taken relative to the largest lower bound of a logit, so that the whole weighs at
least 1, and kept in bins. No exponent that is computed here errs by more than `doubt`, so that a sum errs by a factor
of exp(doubt) at most, to which the rounding of sums and exponentials adds less than 2^-30.
"""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.attention.heads import (
    PACK,
    blank_tile,
    borrow_heads,
    cells_of,
    load_tile,
    multiply,
    prepare_heads,
    workers,
    writeable,
)
from halfspace.cpu.attention.softmax import MOST, capped, exponential
from halfspace.cpu.codes import dot_centre
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.formats import exact64, widen
from halfspace.cpu.job import fetch
from halfspace.cpu.metrics.inner_product import dot
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.clock import CLOCK, TURN, overdue, start_clock
from halfspace.cpu.runtime.jit import (
    array_at,
    bits_of,
    borrowed,
    compiled,
    fetch_add,
    float32_of,
    float64_of,
    hold,
    inlined,
    pointer,
)
from halfspace.cpu.runtime.simd import matrix_begin, matrix_end
from halfspace.model.kv_cache import ESTIMATORS, RESERVOIR, Cache
from halfspace.model.layout import CHUNK, TILE

__all__ = ["certify", "estimate"]

SHARE = 0.6
"""Part of the share that may be dropped which bounds alone may use up; a larger one leaves fewer keys to be scored."""
BINS = 1024
TOP = 2.0
"""Upper end of the bins."""
MOST_DOUBT = 2.0**-10
"""Where exponents are known less well than this, nothing is certified."""
AHEAD = 8
"""Rows that are fetched before they are scored."""
BUDGET, MAX = ESTIMATORS.index("budget"), ESTIMATORS.index("max")


def certify(
    cache: Cache, queries: np.ndarray, eps: float, scale: float, threads: int, cap: float = 0.0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find thresholds below which at most a share `eps` of each head's softmax lies, which is proved.

    queries : float32 or bits (batch, query_heads, d), finite; logits are scale * <q, k>, scale > 0, which a `cap`
        above 0 bends to cap tanh(scale <q, k> / cap)

    Returns tau (batch, query_heads), and an upper bound of the share that is dropped, at most `eps`. Where nothing can
    be certified, tau is -inf, and nothing is dropped.
    """
    queries = writeable(queries)
    shape = queries.shape[:2]
    certified = np.empty(shape), np.empty(shape)
    address, begun = cells_of(cache), np.zeros(1, np.int64)
    how = float(eps), float(scale), float(cap)

    packs = len(cache.keys) * -(-queries.shape[1] // (cache.heads * PACK))

    def work(_: int) -> None:
        while begun[0] < packs:
            _threads.go_on()
            _certify_heads(address, cache.keys, cache.lengths, queries, how, begun, certified)

    most = workers(cache, queries.shape[1], threads)
    _threads.run(work, range(most), most)
    return certified


@compiled
def _certify_heads(address, keys, lengths, queries, how, begun, certified):
    """Certify thresholds of packs of heads, one after another: those that no thread has begun, while the clock allows.

    address : of CELLS (spaces,); how : eps, scale, cap; begun : int64 (1,), how many packs are begun
    certified : get thresholds and the shares that are dropped, each (batch, query_heads)
    """
    tau, dropped = certified
    batch, query_heads, dim = queries.shape
    spaces = keys.shape[0]
    heads = spaces // batch
    size = query_heads // heads
    packs = (size + PACK - 1) // PACK
    longest = lengths.max()
    all_cells = array_at(address, CELLS, spaces)
    tile, codes = blank_tile(dim)
    values, rows = np.empty((min(size, PACK), longest)), np.empty(longest, np.int64)
    bins, exponents = np.empty(longest, np.int32), np.empty(longest)
    everything = np.full(PACK, -np.inf)
    clock = np.empty(1, CLOCK)
    start_clock(clock[0], TURN)
    while not overdue(clock[0]):
        at = fetch_add(begun.ctypes.data, 1)
        if at >= spaces * packs:
            break
        space, pack = at // packs, at % packs
        sequence, first = space // heads, space % heads * size + pack * PACK
        count = min(PACK, size - pack * PACK)
        cells, length = all_cells[space], lengths[sequence]
        own = prepare_heads(cells, queries[sequence, first : first + count], everything[:count])
        group = borrow_heads(own)
        _bound(cells, group, length, tile[0], borrowed(values))
        scratch = borrowed(bins), borrowed(rows), borrowed(exponents)
        for k in range(count):
            tau[sequence, first + k], dropped[sequence, first + k] = _certify(
                cells, borrowed(keys)[space, :length], group, k, values[k, :length], how, scratch
            )
        hold(own)
    hold(clock)
    hold(codes)
    hold(values)
    hold(bins)
    hold(rows)
    hold(exponents)


@inlined
def _bound(cells, group, length, tile, values):
    """Compute for each head what the codes of all keys come to: values (heads, >= length), as seen from the centre."""
    matrix_begin()
    words = (group.wide.shape[1] + 7) // 8
    scales = pointer(cells.scales, np.uint16)
    for first in range(0, length, TILE):
        load_tile(cells, first, words, tile)
        multiply(group, 0, tile)
        for k in range(group.tau.size):
            products = pointer(tile.products.ctypes.data + k * (8 * TILE), np.int32)
            unit, bias = group.views[k].unit, 128.0 * group.views[k].digit_sum
            for i in range(min(TILE, length - first)):
                product = 256.0 * np.float64(products[i]) + np.float64(products[TILE + i])
                scale = np.float64(float32_of(np.int32(scales[first + i]) << 16))
                values[k, first + i] = scale * (unit * (product - bias))
    matrix_end()


@inlined
def _ordered(value):
    """Bits of a float64 as an integer that orders like it, or back: maxima of it vectorise."""
    bits = bits_of(value)
    return bits ^ ((bits >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))


@inlined
def _bin(exponent, per):
    """Choose the bin of an exponent, the highest ones first."""
    return np.int32(min(max((TOP - exponent) * per, 0.0), BINS - 1.0))


@inlined
def _bent(exponent, origin, cap):
    """Bend an exponent relative to the logit `origin`: as capping never widens a gap, no doubt of it grows."""
    return capped(origin + exponent, cap) - capped(origin, cap)


@inlined
def _certify(cells, keys, group, k, values, how, scratch):
    """Certify a threshold for head k; returns it and the share that is dropped.

    keys : stored (n, d); values : (n,), see `_bound`; how : eps, scale, cap
    scratch : bins, rows, exponents (>= n,), to work in
    """
    wide, plan, view = group.wide[k], group.plans[k], group.views[k]
    eps, scale, cap = how
    bins, rows, exponents = scratch
    length, dim = keys.shape
    scales, radii = pointer(cells.scales, np.uint16), pointer(cells.low_radii, np.uint16)
    peaks = array_at(cells.peaks, np.float32, (length + CHUNK - 1) // CHUNK)
    peak = np.float64(peaks.max()) if length else 0.0
    base, base_error = dot_centre(wide, plan, array_at(cells.centre, np.float32, dim))
    highest, largest = _ordered(-np.inf), np.int64(0)
    for i in range(length):
        width = _width(scales[i], radii[i], view)
        highest = max(highest, _ordered(values[i] - width))
        largest = max(largest, bits_of(abs(values[i]) + width))
    highest_bits = highest ^ ((highest >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))
    lower, most = float64_of(highest_bits), float64_of(largest)
    error = plan.slope * peak + plan.intercept
    doubt = 2.0**-48 * (abs(base) + most + plan.norm * peak)
    doubt = 1.01 * scale * (base_error + error + doubt)
    if not (length > 0 and abs(lower) < np.inf and doubt < MOST_DOUBT):
        return -np.inf, 0.0
    inflation = exponential(2.0 * (doubt + 2.0**-42 * cap)) * (1.0 + 2.0**-30)
    origin = scale * (lower + base)  # the logit that exponents are relative to
    lowest = np.log(SHARE * eps / length) - 1.0
    per = (BINS - 1) / (TOP - max(lowest, 2.0 - MOST))

    # bounds
    sums = np.zeros((BINS, 2))
    weights = np.empty((CHUNK, 2))
    for first in range(0, length, CHUNK):
        last = min(first + CHUNK, length)
        for i in range(first, last):
            width = _width(scales[i], radii[i], view)
            upper, under = scale * (values[i] + width - lower), scale * (values[i] - width - lower)
            if cap > 0.0:
                upper, under = _bent(upper, origin, cap), _bent(under, origin, cap)
            upper = upper if upper < MOST else MOST  # what is not a number is no bound
            weights[i - first, 0] = exponential(upper if upper > -MOST else -MOST)
            weights[i - first, 1] = exponential(under if under > -MOST else -MOST)
            bins[i] = _bin(upper, per)
        for i in range(first, last):
            sums[bins[i], 0] += weights[i - first, 0]
            sums[bins[i], 1] += weights[i - first, 1]
    whole = sums[:, 1].sum()
    below, left, cut = 0.0, 0.0, BINS
    while cut > 0 and (below + sums[cut - 1, 0]) * inflation <= SHARE * eps * whole:
        cut -= 1
        below += sums[cut, 0]
        left += sums[cut, 1]

    # exact scores of what reaches bin `cut`
    count = 0
    for i in range(length):
        rows[count] = i
        count += bins[i] < cut
    row_bytes = dim * keys.itemsize
    sums[:, 0] = 0.0
    for at in range(count):
        if at + AHEAD < count:
            fetch(keys.ctypes.data + rows[at + AHEAD] * row_bytes, row_bytes)
        exponents[at] = scale * ((dot(keys[rows[at]], wide) - base) - lower)
    for at in range(count):
        exponent = _bent(exponents[at], origin, cap) if cap > 0.0 else exponents[at]
        bins[at] = _bin(exponent, per)
        sums[bins[at], 0] += exponential(min(max(exponent, -MOST), MOST))
    whole = sums[:, 0].sum() + left
    cut = BINS
    share = below * inflation / whole * (1.0 + 2.0**-50)
    while cut > 0:
        more = (below + sums[cut - 1, 0]) * inflation / whole * (1.0 + 2.0**-50)
        if not more <= eps:
            break
        cut -= 1
        below += sums[cut, 0]
        share = more
    least = np.inf
    for at in range(count):
        if bins[at] < cut:
            least = min(least, exponents[at])
    tau = (least - doubt) / scale + lower + base
    tau -= 2.0**-48 * (abs(least) / scale + abs(lower) + abs(base))
    return (tau, share) if abs(tau) < np.inf and share <= eps else (-np.inf, 0.0)


@inlined
def _width(scale, radius, view):
    """Bound how far a key's score may be from what its code comes to, from its bfloat16 scale and radius."""
    wide, around = float32_of(np.int32(scale) << 16), float32_of(np.int32(radius) << 16)
    return np.float64(wide) * view.low_slack + view.factor * np.float64(around)


def estimate(cache: Cache, queries: np.ndarray, keep: float, estimator: str, threads: int) -> npt.NDArray[np.float64]:
    """Estimate thresholds that a share `keep` of the keys reaches, from the scores of a sample.

    queries : float32 or bits (batch, query_heads, d), finite; estimator : see `halfspace.attention.policy`

    Returns tau (batch, query_heads), -inf where a sequence is empty.
    """
    queries = writeable(queries)
    tau = np.empty(queries.shape[:2])
    which = ESTIMATORS.index(estimator)
    slots = min(RESERVOIR, max(1, round(1.0 / keep) - 1)) if which == MAX else RESERVOIR
    how = float(keep), which, slots
    begun = np.zeros(1, np.int64)

    def work(_: int) -> None:
        while begun[0] < tau.size:
            _threads.go_on()
            _estimate_heads(cache.keys, cache.lengths, cache.sample, queries, how, begun, tau)

    _threads.run(work, range(threads), threads)
    return tau


@compiled
def _estimate_heads(keys, lengths, sample, queries, how, begun, tau):
    """Estimate thresholds of heads, one after another: those that no thread has begun, while the clock allows.

    how : the share to be kept, the number of the estimator, and how many slots of the sample are looked at
    begun : int64 (1,), how many heads are begun
    """
    keep, estimator, slots = how
    batch, query_heads, dim = queries.shape
    heads = keys.shape[0] // batch
    wide, scores = np.empty(dim), np.empty(RESERVOIR)
    rows = borrowed(keys)
    clock = np.empty(1, CLOCK)
    start_clock(clock[0], TURN)
    while not overdue(clock[0]):
        at = fetch_add(begun.ctypes.data, 1)
        if at >= batch * query_heads:
            break
        sequence, head = at // query_heads, at % query_heads
        own = rows[sequence * heads + head // (query_heads // heads)]
        for j in range(dim):
            wide[j] = exact64(widen(queries[sequence, head, j]))
        count, members = 0, min(lengths[sequence], RESERVOIR)
        for slot in range(members):
            if (slot * slots + members // 2) % members < slots:  # evenly spread: early slots hold early keys
                scores[count] = -dot(own[sample[sequence, slot]], wide)
                count += 1
        tau[sequence, head] = _read_off(scores[:count], keep * count, estimator)
    hold(clock)


@inlined
def _read_off(scores, asked, estimator):
    """Read a threshold off the negated scores of a sample, of which so many are asked to reach it."""
    count = scores.size
    if count == 0:
        return -np.inf
    if estimator == MAX:
        return -scores.min()
    if estimator == BUDGET:
        rank = max(1, min(int(np.ceil(asked)), count))
        return -np.partition(scores, rank - 1)[rank - 1]
    first = max(1, min(int(np.floor(0.5 * asked)), count))
    last = min(max(int(np.ceil(2.0 * asked)), first + 1), count)
    best = np.sort(np.partition(scores, last - 1)[:last])
    tau, widest = -best[first - 1], -1.0
    for rank in range(first, last):
        gap = best[rank] - best[rank - 1]
        if gap > widest:
            tau, widest = -0.5 * (best[rank - 1] + best[rank]), gap
    return tau
