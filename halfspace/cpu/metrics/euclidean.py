"""Distances: the float32 scan, and verification, as in `halfspace.cpu.metrics.inner_product`.

A score is the negative distance, and its threshold the negative radius. Differences are taken before they are squared,
so nothing cancels: float32 and float64 know a distance to within a few roundings for each dimension, wherever the
vectors lie. Where no square is rounded at all, the sum is compared with the square of the radius, which is kept in two
parts that have no error. What remains is decided by integers: the sum of x^2 - 2 q x + q^2 and the radius squared.
"""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.exact import LIMBS, add_products, cleared_register, magnitude_of
from halfspace.cpu.formats import rounds_once, widen
from halfspace.cpu.job import DROP, LOOK, fetch_ahead
from halfspace.cpu.naturals import compare, nearest_root, of_float, product, value_of
from halfspace.cpu.rounding import distance_exact_below
from halfspace.cpu.runtime.jit import always_inlined, array_at, float32_of, inlined, multiply_add

__all__ = ["Precision", "classify_rows", "decide", "decide_hairline", "precision"]


@inlined
def classify_rows(vectors, norms, direction, span, verdicts):
    """Test rows [*span) of vectors (n, d) against a point; verdicts : int32, from that of the first row on."""
    low, high = span
    dim = vectors.shape[1]
    narrow = array_at(direction.narrow, np.float32, dim)
    beyond, within = direction.drop32, direction.take32
    for i in range(low, high):
        fetch_ahead(vectors, i)
        total = np.float32(0.0)
        for j in range(dim):
            apart = widen(vectors[i, j]) - narrow[j]
            total = multiply_add(total, apart, apart)
        value = np.float64(total)
        verdicts[i - low] = np.int32(DROP if value > beyond else LOOK) + np.int32(value <= within)


class Precision(NamedTuple):
    """How far to trust a float64 distance from one point: it errs by at most slope * distance + intercept."""

    norm: float  # upper bound of |q|
    exact: float  # where |q| + |x| is at most this, the sum of squares has no error
    slope: float
    intercept: float
    square: float  # of the radius, and what it lacks
    square_low: float


@inlined
def precision(direction, row_grain):
    """Tell the precision for a point and vectors whose components are multiples of `row_grain`."""
    exact = distance_exact_below(direction.grain, row_grain)
    lost = direction.lost if exact == 0.0 else 0.0
    return Precision(direction.norm, exact, direction.spread, lost, direction.square, direction.square_low)


@always_inlined
def decide(row, norm, wide, trust, tau, scored):
    """Decide one vector in float64; returns (hit, score if `scored`, whether both are certain).

    row : stored (d,); norm : upper bound of |x|; wide : the point (d,) in float64; trust : its `Precision`
    """
    total = 0.0
    for j in range(row.size):
        apart = np.float64(widen(row[j])) - wide[j]
        total = multiply_add(total, apart, apart)
    distance = np.sqrt(total)
    error = trust.slope * distance + trust.intercept
    gap = -tau - distance
    hit = gap >= error
    missed = gap < -error
    if trust.norm + np.float64(norm) <= trust.exact:
        hit = total < trust.square or (total == trust.square and trust.square_low >= 0.0)
        missed = not hit
    certain = missed or (hit and (not scored or rounds_once(distance, error)))
    return hit, -np.float32(distance), certain


@inlined
def decide_hairline(row, norm, row_grain, narrow, direction, tau, scored, parts):
    """Decide a vector whose float64 distance is too close to the radius or to a rounding boundary; as by `decide`.

    narrow : the point in float32 (d,), and `direction` its DIRECTION
    parts : float64 (2, `COLUMNS` or more), to work in

    Returns (hit, score).
    """
    free = np.int64(parts.ctypes.data)
    register = cleared_register(free)
    add_products(register, row, row, 1)
    add_products(register, row, narrow, -2)
    add_products(register, narrow, narrow, 1)
    square, _ = magnitude_of(register)
    free += 8 * LIMBS
    hit = tau <= 0.0
    if hit and tau > -np.inf:
        radius = of_float(tau, free)
        hit = compare(square, product(radius, radius, free + 16)) <= 0
    if not hit or not scored:
        return hit, np.float32(0.0)
    one = of_float(1.0, free)
    pattern = nearest_root(square, one, np.sqrt(value_of(square)), free + 16)
    return True, float32_of(pattern | np.int64(0x80000000))
