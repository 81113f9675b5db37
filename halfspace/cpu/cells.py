"""Cells: every vector is a ball of its own, centred on a point of an integer lattice.

    x = m + s c + rest,   |rest| <= r,   c in {-127..127}^d

with one centre m for a segment, and a scale s and a radius r for each vector. For a direction q = a A + (what its own
coding costs) the lemma <q, x> <= <q, ball's centre> + |q| r becomes an integer dot product and three multiplications:

    <q, m> + s a (A c) - s k - |q| r   <=   <q, x>   <=   <q, m> + s a (A c) + s k + |q| r

with k from `halfspace.rounding.reach`. The ball's verdict is *drop* (upper bound < tau), *take* (lower bound >= tau)
or *look*.
"""

import numpy as np
import numpy.typing as npt
from numba import carray

from halfspace.cpu import _jit, _threads
from halfspace.cpu._jit import entry, pointer, stage
from halfspace.cpu._simd import BLOCK, TILE, tile_dot
from halfspace.cpu.bounds import norm_bound, radius_factor, residual_bound, threshold_margin
from halfspace.cpu.formats import SLICE, exact64, round_up32, widen
from halfspace.segment import Cells

__all__ = ["DROP", "LOOK", "TAKE", "encode", "test_tile", "thresholds"]

DROP, LOOK, TAKE = 0, 1, 2
"""Verdicts on a ball."""


def encode(vectors: np.ndarray, threads: int, centre: npt.NDArray[np.float32] | None = None) -> Cells:
    """Give every stored vector (spaces, n, d) its cell, around `centre` (spaces, d) or the mean of its space.

    Time O(n d); the result does not depend on the number of threads.
    """
    spaces, rows, dim = vectors.shape
    spans = _threads.spans(rows, -(-rows * dim // SLICE), TILE)
    tiles = -(-rows // TILE)
    cells = Cells(
        codes=_jit.aligned_zeros((spaces, tiles * TILE // BLOCK, -(-dim // 4), BLOCK, 4), np.uint8),
        scales=np.zeros((spaces, tiles * TILE), np.float32),
        radii=np.zeros((spaces, tiles * TILE), np.float32),
        centre=np.empty((spaces, dim), np.float32),
    )
    for space in range(spaces):
        x, middle = vectors[space], cells.centre[space]
        codes, scales, radii = cells.codes[space], cells.scales[space], cells.radii[space]
        if centre is None:
            sums = _threads.run(lambda span: _sum(x, *span), spans, threads)  # noqa: B023
            middle[:] = np.sum(sums, axis=0) / rows
        else:
            middle[:] = centre[space]
        _threads.run(lambda span: _encode(x, middle, codes, scales, radii, *span), spans, threads)  # noqa: B023
    return cells


@entry
def _sum(vectors, first, last):
    total = np.zeros(vectors.shape[1])
    for i in range(first, last):
        for j in range(total.size):
            total[j] += np.float64(widen(vectors[i, j]))
    return total


@entry
def _encode(vectors, centre, codes, scales, radii, first, last):
    """Encode rows [first, last) of (n, d) vectors into cells around `centre` (d,).

    codes : uint8 (blocks, steps, 16 vectors, 4 dimensions), c + 128; scales, radii : float32 (16 blocks,), both
    rounded up
    """
    dim = vectors.shape[1]
    offset = np.empty(dim)
    for i in range(first, last):
        largest = 0.0
        for j in range(dim):
            offset[j] = exact64(widen(vectors[i, j])) - exact64(centre[j])
            largest = max(largest, abs(offset[j]))
        scale = round_up32(largest / 127.0)
        inverse = 1.0 / np.float64(scale) if scale > 0.0 else 0.0
        block = codes[i // BLOCK]
        lane = i % BLOCK
        total = 0.0
        for j in range(dim):
            code = min(max(np.rint(offset[j] * inverse), -127.0), 127.0)
            rest = offset[j] - np.float64(scale) * code
            total += rest * rest
            block[j // 4, lane, j % 4] = np.uint8(np.int64(code) + 128)
        scales[i] = scale
        radii[i] = round_up32(residual_bound(norm_bound(total, dim), np.float64(scale), dim))


@stage
def thresholds(direction, plan, tau, centre):
    """Move tau to a segment's centre; returns (below, above).

    From there, a ball is dropped if its upper bound is less than `below`, taken if its lower bound reaches `above`.
    """
    if np.isinf(tau):
        return tau, tau
    base = 0.0
    total = 0.0
    for j in range(centre.size):
        value = exact64(centre[j])
        base += direction[j] * value
        total += value * value
    margin = threshold_margin(tau, base, plan.slope * norm_bound(total, centre.size) + plan.intercept)
    return (tau - base) - margin, (tau - base) + margin


@stage
def test_tile(segment, first, steps, digits, plan, below, above, products, verdicts, portable):
    """Test the cells of rows `first` to `first` + 63 of a segment and write their verdicts; returns how many are left.

    products : int32 (2, 64) scratch; verdicts : int32 (64,), DROP for rows beyond the segment's last
    """
    bytes_per_row = 4 * steps
    codes = segment.codes + first * bytes_per_row
    tile_dot(codes, BLOCK * bytes_per_row, digits.ctypes.data, steps, products.ctypes.data, portable)
    scales = carray(pointer(segment.scales + 4 * first, np.float32), TILE)
    radii = carray(pointer(segment.radii + 4 * first, np.float32), TILE)
    unit = plan.digit_scale
    bias = np.float64(plan.bias)
    slack = plan.reach
    factor = radius_factor(plan.norm)
    for i in range(TILE):  # a constant trip count, without which this loop would cost as much as the product
        product = np.float64(products[0, i]) * 256.0 + np.float64(products[1, i])
        scale = np.float64(scales[i])
        value = scale * (unit * (product - bias))
        width = scale * slack + factor * np.float64(radii[i])
        verdicts[i] = np.int32(DROP if value + width < below else LOOK) + np.int32(value - width >= above)
    for i in range(segment.rows - first, TILE):
        verdicts[i] = DROP
    left = 0
    for i in range(TILE):
        left += verdicts[i] != DROP
    return left
