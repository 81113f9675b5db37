"""Inner products: the float32 scan, and verification, which decides single vectors exactly and rounds scores once.

The scan's ball is the rounding error: |computed - <q, x>| <= slope32 |x| + intercept32, see
`halfspace.model.rounding.dot32_slope`. So its verdicts are those of any ball: drop, take, look.

A float64 dot product with its proven error bound decides nearly every vector; what lies within the bound of tau goes to
`halfspace.cpu.exact`: first an error-free split, then, if even that leaves a doubt, integers.
"""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.exact import compare_exactly, split_dot
from halfspace.cpu.formats import rounds_once, widen
from halfspace.cpu.job import DROP, LOOK
from halfspace.cpu.rounding import exact_below
from halfspace.cpu.runtime.jit import always_inlined, array_at, inlined, multiply_add, pointer

__all__ = ["Precision", "classify_rows", "decide", "decide_hairline", "dot", "precision"]


@inlined
def classify_rows(vectors, norms, direction, span, verdicts):
    """Test rows [*span) of vectors (n, d) against a direction.

    norms : their address; verdicts : int32, from that of the first row on
    """
    low, high = span
    dim, sizes = vectors.shape[1], pointer(norms, np.float32)
    narrow = array_at(direction.narrow, np.float32, dim)
    tau = direction.tau
    for i in range(low, high):
        total = np.float32(0.0)
        for j in range(dim):
            total = multiply_add(total, narrow[j], widen(vectors[i, j]))
        norm = np.float64(sizes[i])
        value = np.float64(total)
        width = direction.slope32 * norm + direction.intercept32
        if not direction.norm * norm < 2.0**126:  # the float32 sum might have overflowed
            width = np.inf
            value = 0.0
        verdicts[i - low] = np.int32(DROP if value + width < tau else LOOK) + np.int32(value - width >= tau)


@inlined
def dot(row, direction):
    """Sum of the exact products, in float64 and in any order."""
    total = 0.0
    for j in range(row.size):
        total = multiply_add(total, direction[j], np.float64(widen(row[j])))
    return total


@inlined
def _two_sum(a, b):
    """Add without error: a + b = total + error (Knuth); returns (total, error)."""
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


class Precision(NamedTuple):
    """How far to trust a float64 dot product with one direction: it errs by at most slope * |x| + intercept."""

    norm: float  # upper bound of |q|
    exact: float  # where |q| |x| is at most this, it has no error
    slope: float
    intercept: float


@inlined
def precision(direction, row_grain):
    """Tell the precision for a direction and vectors whose components are multiples of `row_grain`."""
    return Precision(direction.norm, exact_below(direction.grain, row_grain), direction.slope, direction.intercept)


@always_inlined
def decide(row, norm, wide, trust, tau, scored):
    """Decide one vector in float64; returns (hit, score if `scored`, whether both are certain).

    row : stored (d,); norm : upper bound of |x|; wide : the direction (d,) in float64; trust : its `Precision`

    Kept apart from `decide_hairline`, which is too large to be inlined.
    """
    total = dot(row, wide)
    size = trust.norm * np.float64(norm)
    error = 0.0 if size <= trust.exact or size == 0.0 else trust.slope * np.float64(norm) + trust.intercept
    gap = total - tau
    hit = gap >= error
    certain = gap < -error or (hit and (not scored or rounds_once(total, error)))
    return hit, np.float32(total + 0.0), certain


@inlined
def decide_hairline(row, norm, row_grain, narrow, direction, tau, scored, parts):
    """Decide a vector whose float64 product is too close to tau or to a rounding boundary; returns (hit, score).

    narrow : the direction in float32 (d,), and `direction` its DIRECTION
    parts : float64 (2, d), at least (2, `LIMBS`), to work in; the rest as for `decide`
    """
    size = direction.norm * np.float64(norm)
    if 0.0 < size < 2.0**500:
        high, low, bound = split_dot(row, narrow, size, direction.grain * row_grain, parts)
        gap, rest = _two_sum(high, -tau)
        rest, tail = _two_sum(rest, low)
        gap, rest = _two_sum(gap, rest)
        doubt = 2.0 * (abs(rest) + abs(tail) + bound)
        if abs(gap) > doubt or doubt == 0.0:
            if gap < 0.0 or not scored:
                return gap >= 0.0, np.float32(0.0)
            total, remainder = _two_sum(high, low)
            spread = abs(remainder) + bound
            if spread > 0.0:  # large enough to show in total - spread, which float64 rounds too
                spread = 2.0 * spread + 2.0**-52 * abs(total)
            if rounds_once(total, spread):
                return True, np.float32(total + 0.0)
    return compare_exactly(row, narrow, tau, parts)
