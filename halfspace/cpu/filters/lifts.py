"""Thresholds of cosines and of distances, as they are seen from a centre m.

With the lengths e(x) of `halfspace.model.metrics`, a vector is a hit iff

    cosine    <q, x - m>      >=  -<q, m>              +  tau |q| e(x)
    l2        <q - m, x - m>  >=  (|q - m|^2 - r^2) / 2 +  e(x)

so that each row, or ball, has the threshold of the centre, lifted by a multiple of its length. A ball of radius rho is
dropped if

    value + slack + factor_below rho  <  below + lift_below e

and taken if value - slack - factor_above rho >= above + lift_above e, unless it is wider than `widest`.
"""

from typing import Any

import numpy as np

from halfspace.cpu.codes import dot_centre
from halfspace.cpu.formats import exact64
from halfspace.cpu.rounding import norm_bound, square_margin, threshold_margin
from halfspace.cpu.runtime.jit import array_at, inlined, multiply_add
from halfspace.model.metrics import Metric

__all__ = ["COSINE", "IP", "L2", "LIFT_FIELDS", "coded_components", "cone", "sphere"]

IP, COSINE, L2 = map(int, Metric)

LIFT_FIELDS: list[Any] = [
    ("below", np.float64),  # thresholds seen from the centre: drop what cannot reach this
    ("above", np.float64),  # and take what cannot fail this
    ("lift_below", np.float64),  # what they are raised by for each unit of a length
    ("lift_above", np.float64),
]

SHARE = 2.0**-21
"""Lengths of rows lack a share of 2^-22 at most; the rest pays for rounding thresholds that they lift."""
SMALLEST = 2.0**-124
"""Numbers of float32 below 2^-126 are kept as 0, or as 2^-126."""


@inlined
def cone(wide, direction, centre, slack, out):
    """See the threshold of a cosine from a centre; wide : the direction (d,) in float64; centre : float32 (d,).

    slack : 0, or infinite if some lengths are too large for float32
    out : a record with `LIFT_FIELDS`
    """
    tau = direction.tau
    if np.isinf(tau):
        out.below, out.above, out.lift_below, out.lift_above = tau, tau, 0.0, 0.0
        return
    base, error = dot_centre(wide, direction, centre)
    level = tau * direction.norm
    margin = threshold_margin(0.0, base, error) + abs(level) * SMALLEST
    less, more = level - abs(level) * SHARE, level + abs(level) * SHARE
    out.lift_below, out.lift_above = less, more
    out.below, out.above = -base - margin, -base + margin + slack
    if level < 0.0:  # then lengths are too small, instead of too large
        out.below -= slack


@inlined
def sphere(wide, direction, centre, slack, point, out):
    """See the threshold of a distance from a centre; arguments as for `cone`.

    slack : how much a length may lack beyond a share of `SHARE`; point : float64 (d,), gets q - m

    Returns an upper bound of |q - m|.
    """
    tau, total = direction.tau, 0.0
    for j in range(point.size):
        point[j] = wide[j] - exact64(centre[j])
        total = multiply_add(total, point[j], point[j])
    norm = norm_bound(total, point.size)
    if np.isinf(tau):
        out.below, out.above, out.lift_below, out.lift_above = tau, tau, 0.0, 0.0
        return norm
    margin = square_margin(total, tau * tau, point.size) + SMALLEST
    level = 0.5 * (total - tau * tau)
    out.below, out.above = level - margin, level + margin + slack
    out.lift_below, out.lift_above = 1.0, 1.0 + SHARE
    return norm


@inlined
def coded_components(direction, centre, moved, out):
    """Compute what is coded of a direction: q, or q - m where it is `moved`; centre : address of m; out : (d,)."""
    wide = array_at(direction.wide, np.float64, out.size)
    middle = array_at(centre, np.float32, out.size)
    for j in range(out.size):
        out[j] = wide[j] - exact64(middle[j]) if moved else wide[j]
