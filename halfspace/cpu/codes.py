"""Balls with lattice-coded centres: the ball test as an integer dot product, for balls around groups of vectors.

    C = m + s c,   |x - C| <= r,   c in {-127..127}^d

with a known centre m, and a scale s and a radius r for each ball. For a direction q = a A + (what its own coding costs)
the lemma <q, x> <= <q, C> + |q| r becomes an integer dot product and three multiplications:

    <q, m> + s a (A c) - s k - |q| r   <=   <q, x>   <=   <q, m> + s a (A c) + s k + |q| r

with k from `halfspace.model.rounding.reach`. The ball's verdict is *drop* (upper bound < tau), *take* (lower bound >=
tau) or *look*.
"""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.formats import SLICE, exact64, round_up32, widen
from halfspace.cpu.rounding import norm_bound, residual_bound, threshold_margin
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled, inlined, multiply_add, pointer
from halfspace.cpu.runtime.lanes import block_verdicts, lifted_block_verdicts
from halfspace.cpu.runtime.simd import tile_dot
from halfspace.model.layout import BLOCK, LARGEST_CODE, TILE

__all__ = [
    "classify_tile",
    "dot_centre",
    "mean",
    "put_ball",
    "put_rows",
    "thresholds",
    "value_in_tile",
    "widen_centre",
]


def mean(vectors: np.ndarray, threads: int) -> npt.NDArray[np.float32]:
    """Mean of each space of stored vectors (spaces, n, d), in a fixed order of summation."""
    spaces, rows, dim = vectors.shape
    spans = _threads.spans(rows, -(-rows * dim // SLICE))
    sums = np.zeros((spaces, len(spans), dim))
    tasks = [(space, part) for space in range(spaces) for part in range(len(spans))]
    _threads.run(lambda task: _sum(vectors[task[0]], sums[task], *spans[task[1]]), tasks, threads)
    means: npt.NDArray[np.float32] = (np.sum(sums, axis=1) / rows).astype(np.float32)
    return means


@compiled
def _sum(vectors, total, first, last):
    for i in range(first, last):
        for j in range(total.size):
            total[j] += np.float64(widen(vectors[i, j]))


@inlined
def put(point, base, codes, scales, ball):
    """Code a point (d,) around `base` (d,), as ball number `ball`, and replace it by what the code stands for.

    Returns the norm of the point's offset from that.
    """
    dim = point.size
    largest = 0.0
    for j in range(dim):
        largest = max(largest, abs(point[j] - base[j]))
    scale = round_up32(largest / LARGEST_CODE)
    wide = np.float64(scale)
    inverse = 1.0 / wide if scale > 0.0 else 0.0
    block = codes[ball // BLOCK]
    lane = ball % BLOCK
    total = 0.0
    for j in range(dim):
        offset = point[j] - base[j]
        code = min(max(np.rint(offset * inverse), -LARGEST_CODE), LARGEST_CODE)
        rest = offset - wide * code
        total += rest * rest
        block[j // 4, lane, j % 4] = np.uint8(np.int64(code) + 128)
        point[j] = base[j] + wide * code
    scales[ball] = scale
    return norm_bound(total, dim)


@inlined
def put_rows(vectors, around, places, span, row):
    """Code rows [first, last) of vectors (n, d) around a centre.

    around : the centre (d,) and its extent; places : codes, scales, radii; span : first, last; row : scratch (d,)
    """
    base, extent = around
    codes, scales, radii = places
    first, last = span
    dim = base.size
    for i in range(first, last):
        for j in range(dim):
            row[j] = exact64(widen(vectors[i, j]))
        norm = put(row, base, codes, scales, i)
        radii[i] = round_up32(residual_bound(norm, np.float64(scales[i]), extent, dim))


@inlined
def put_ball(vectors, members, low, around, places, ball, span, middle):
    """Code the mean of rows [first, last) around a centre, as ball number `ball`, and bound how far they lie from it.

    members : None, or int32 (n,), and rows are members[first:last]; low : the first of the d dimensions
    around : the centre (d,) and its extent; places : codes, scales, radii; span : first, last
    middle : gets the centre (d,) that the code stands for

    Returns that centre's extent, the sum of its norm and those of the computed centres that it was coded around.
    """
    base, extent = around
    codes, scales, radii = places
    first, last = span
    dim = base.size
    middle[:] = 0.0
    for i in range(first, last):
        row = i if members is None else members[i]
        for j in range(dim):
            middle[j] += exact64(widen(vectors[row, low + j]))
    for j in range(dim):
        middle[j] /= last - first
    put(middle, base, codes, scales, ball)
    total = 0.0
    for j in range(dim):
        total += middle[j] * middle[j]
    extent += norm_bound(total, dim)
    farthest = 0.0
    for i in range(first, last):
        total = 0.0
        row = i if members is None else members[i]
        for j in range(dim):
            rest = exact64(widen(vectors[row, low + j])) - middle[j]
            total += rest * rest
        farthest = max(farthest, total)
    radii[ball] = round_up32(residual_bound(norm_bound(farthest, dim), 0.0, extent, dim))
    return extent


@inlined
def widen_centre(centre):
    """Widen a centre (d,) to float64."""
    base = np.empty(centre.size)
    for j in range(centre.size):
        base[j] = exact64(centre[j])
    return base


@inlined
def dot_centre(wide, direction, centre):
    """Dot product of a direction, in float64 (d,), with a float32 centre (d,), and a bound on its error."""
    base = 0.0
    total = 0.0
    for j in range(centre.size):
        value = exact64(centre[j])
        base = multiply_add(base, wide[j], value)
        total = multiply_add(total, value, value)
    return base, direction.slope * norm_bound(total, centre.size) + direction.intercept


@inlined
def thresholds(wide, direction, centre):
    """Move the threshold of a direction to a segment's centre; returns (below, above).

    From there, a ball is dropped if its upper bound is less than `below`, taken if its lower bound reaches `above`.
    """
    tau = direction.tau
    if np.isinf(tau):
        return tau, tau
    base, error = dot_centre(wide, direction, centre)
    margin = threshold_margin(tau, base, error)
    return (tau - base) - margin, (tau - base) + margin


@inlined
def classify_tile(job, level, at, count, view):
    """Test the balls of one to four blocks, job.blocks[at:at + count].

    level : int64 (4,), addresses of codes, scales, radii and lengths; view : a BALL_VIEW
    Thresholds of the blocks are those in job.below and job.above, from `at` on; job.products gets the products (2, 64).

    Returns a bit for each ball that is left, and a bit for each that is taken.
    """
    codes, scales, radii, lengths, steps = level[0], level[1], level[2], level[3], view.steps
    for b in range(4):  # of fewer blocks, the first one again
        job.places[b] = codes + job.blocks[at + (b if b < count else 0)] * (4 * BLOCK * steps)
    products = job.products.ctypes.data
    tile_dot(job.places.ctypes.data, view.digits, steps, products)
    unit, bias, slack, factor = view.unit, view.bias, view.slack, view.factor_below
    left, taken = np.int64(0), np.int64(0)
    for b in range(count):
        block = 4 * BLOCK * job.blocks[at + b]
        addresses = (products + 4 * BLOCK * b, scales + block, radii + block)
        limits = job.below[at + b], job.above[at + b]
        if lengths == 0:
            bits = block_verdicts(addresses, (unit, bias, slack, factor, *limits))
        else:
            widths = factor, view.factor_above, view.widest
            numbers = (unit, bias, slack, *widths, *limits, view.lift_below, view.lift_above)
            bits = lifted_block_verdicts((*addresses, lengths + block), numbers)
        left |= (bits & 0xFFFF) << (BLOCK * b)
        taken |= (bits >> BLOCK) << (BLOCK * b)
    return left, taken


@inlined
def value_in_tile(job, scales, i, view):
    """Value s a (A c) of ball `i` of the tile just tested, and its slack s k; `scales` : address of its first scale."""
    scale = np.float64(pointer(scales, np.float32)[i])
    product = np.float64(job.products[i]) * 256.0 + np.float64(job.products[TILE + i])
    value = scale * (view.unit * (product - view.bias))
    return value, scale * view.slack
