"""Cosines: the float32 scan, and verification, as in `halfspace.cpu.metrics.inner_product`.

The dot product is compared with tau |q| |x|. What float64 leaves in doubt is decided by integers: with S = <q, x>,
X = |x|^2 and Q = |q|^2, the cosine reaches tau if the signs of S and tau say so, and otherwise by S^2 and tau^2 Q X.
Where the grains of vectors and direction leave no error in S, X and Q, these are short integers, and quick.
"""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.exact import LIMBS, add_products, cleared_register, magnitude_of
from halfspace.cpu.formats import rounds_once, widen
from halfspace.cpu.job import DROP, LOOK, fetch_ahead
from halfspace.cpu.naturals import compare, nearest_root, of_float, product, value_of
from halfspace.cpu.rounding import exact_below
from halfspace.cpu.runtime.jit import always_inlined, array_at, float32_of, inlined, multiply_add, pointer
from halfspace.model.rounding import TINY

__all__ = ["Precision", "classify_rows", "decide", "decide_hairline", "precision"]


@inlined
def classify_rows(vectors, norms, direction, span, verdicts):
    """Test rows [*span) of vectors (n, d) against a direction.

    norms : their address; verdicts : int32, from that of the first row on
    """
    low, high = span
    dim, sizes = vectors.shape[1], pointer(norms, np.float32)
    narrow = array_at(direction.narrow, np.float32, dim)
    below, above, width = direction.drop32, direction.take32, direction.intercept32
    for i in range(low, high):
        fetch_ahead(vectors, i)
        total = np.float32(0.0)
        for j in range(dim):
            total = multiply_add(total, narrow[j], widen(vectors[i, j]))
        norm = np.float64(sizes[i])
        value = np.float64(total)
        if not (direction.norm * norm < 2.0**126 and norm > TINY):  # the sum may have overflowed, or x be shorter
            value = np.nan
        verdicts[i - low] = np.int32(DROP if value + width < below * norm else LOOK) + np.int32(
            value - width >= above * norm
        )


class Precision(NamedTuple):
    """How far to trust float64 for one direction: see `halfspace.model.rounding.cosine_spread`."""

    norm: float  # upper bound of |q|
    exact: float  # where |q| |x| is at most this, the dot product has no error, and nothing is lost of |x|
    slope: float  # otherwise both err by at most slope |x| + intercept,
    intercept: float
    spread: float  # and by this share of tau |q| |x|


@inlined
def precision(direction, row_grain):
    """Tell the precision for a direction and vectors whose components are multiples of `row_grain`."""
    exact = exact_below(direction.grain, row_grain)
    return Precision(direction.norm, exact, direction.slope, 2.0 * direction.intercept, direction.spread)


@always_inlined
def decide(row, norm, wide, trust, tau, scored):
    """Decide one vector in float64; returns (hit, score if `scored`, whether both are certain).

    row : stored (d,); norm : upper bound of |x|; wide : the direction (d,) in float64; trust : its `Precision`
    """
    total, squares = 0.0, 0.0
    for j in range(row.size):
        x = np.float64(widen(row[j]))
        total = multiply_add(total, wide[j], x)
        squares = multiply_add(squares, x, x)
    scale = trust.norm * np.sqrt(squares)
    error = 0.0
    if not trust.norm * np.float64(norm) <= trust.exact:
        error = trust.slope * np.float64(norm) + trust.intercept
    level = tau * scale
    gap, doubt = total - level, error + trust.spread * abs(level)
    hit, score = gap >= doubt, 0.0
    certain = gap < -doubt or hit
    if hit and scored:
        score = total / scale
        certain = rounds_once(score, 1.01 * error / scale + trust.spread * abs(score))
    return hit, np.float32(score + 0.0), certain


@inlined
def _add_up(row, narrow, address):
    """Compute S, X and Q with integers; returns them, and whether S is negative."""
    products, squares = cleared_register(address), cleared_register(address + 8 * LIMBS)
    own = cleared_register(address + 16 * LIMBS)
    add_products(products, row, narrow, 1)
    add_products(squares, row, row, 1)
    add_products(own, narrow, narrow, 1)
    s, negative = magnitude_of(products)
    return s, magnitude_of(squares)[0], magnitude_of(own)[0], negative


@inlined
def _add_up_exactly(row, wide, address):
    """Do as `_add_up` does, in float64, where it has no error."""
    total, squares, own = 0.0, 0.0, 0.0
    for j in range(row.size):
        x = np.float64(widen(row[j]))
        total = multiply_add(total, wide[j], x)
        squares = multiply_add(squares, x, x)
        own = multiply_add(own, wide[j], wide[j])
    return of_float(total, address), of_float(squares, address + 16), of_float(own, address + 32), total < 0.0


@inlined
def decide_hairline(row, norm, row_grain, narrow, direction, tau, scored, parts):
    """Decide a vector whose float64 cosine is too close to tau or to a rounding boundary; returns (hit, score).

    narrow : the direction in float32 (d,), and `direction` its DIRECTION
    parts : float64 (2, `COLUMNS` or more), to work in; the rest as for `decide`
    """
    free, size = np.int64(parts.ctypes.data), np.float64(norm)
    short = size * size <= exact_below(row_grain, row_grain)
    if short and direction.norm * direction.norm <= exact_below(direction.grain, direction.grain):
        wide = array_at(direction.wide, np.float64, row.size)
        s, x, q, negative = _add_up_exactly(row, wide, free)
    else:
        s, x, q, negative = _add_up(row, narrow, free)
    free += 24 * LIMBS
    square = product(s, s, free)
    free += 16 * LIMBS
    scale = product(q, x, free)
    free += 16 * LIMBS
    if tau <= 0.0 and not negative:
        hit = True
    elif np.isinf(tau) or tau == 0.0 or negative != (tau < 0.0):
        hit = tau < -1.0
    else:
        t = of_float(tau, free)
        order = compare(square, product(product(t, t, free + 16), scale, free + 48))
        hit = order <= 0 if negative else order >= 0
    if not hit or not scored:
        return hit, np.float32(0.0)
    guess = value_of(s) / np.sqrt(value_of(q) * value_of(x))
    pattern = nearest_root(square, scale, guess, free)
    return True, float32_of(pattern | (np.int64(0x80000000) if negative else np.int64(0)))
