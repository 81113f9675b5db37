"""The floating-point contract: every slack that a bound needs, with its proof.

Notation: u = 2^-53, the unit roundoff of float64; t = 2^-126, the smallest normal float32; |.| the Euclidean norm; d
the number of dimensions. All stored components and all components of a direction are float32 values (narrower formats
widen exactly), hence

(a) a product of two of them has at most 48 significant bits and lies in [2^-298, 2^256], so it is *exact* in float64,
    and no sum of products can underflow or overflow there;
(b) a float64 sum of d such products, in any order and with or without fused multiply-add, errs by at most
    gamma_{d-1} sum_j |q_j x_j| <= d u |q| |x| (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1,
    and Cauchy-Schwarz), as long as d^2 u < 1;
(c) a process may run with denormals flushed: a subnormal float32 then reads as 0 when it is converted. The components
    lost are below t each, so the dot product moves by at most t sum_j (|q_j| + |x_j|) <= t sqrt(d) (|q| + |x|).

Constants below are a few units larger than the proofs need; that pays for the rounding of the bounds' own evaluation,
which is a handful of operations with relative error u each. A bound that overflows to infinity or NaN never drops a
vector: every test is written so that a comparison with NaN means "look".

The functions are plain arithmetic on scalars, so that every backend can compile them.
"""

from math import inf, sqrt

__all__ = [
    "MAX_CELL_DIM",
    "MAX_DIM",
    "PREFIX_SHARE",
    "TINY",
    "axes_error",
    "axes_left",
    "axes_rest",
    "axes_spread",
    "ball_doubt",
    "cosine_spread",
    "distance32_intercept",
    "distance32_slope",
    "distance_exact_below",
    "distance_intercept",
    "distance_slope",
    "dot32_intercept",
    "dot32_slope",
    "dot_intercept",
    "dot_slope",
    "exact_below",
    "glance_loss",
    "glance_margin",
    "half_square",
    "least_cosine_slope",
    "least_norm",
    "longest_product",
    "most_cosine_slope",
    "norm_bound",
    "pair_margin",
    "prefix_margin",
    "radius_factor",
    "reach",
    "residual_bound",
    "square_margin",
    "sum32_beyond",
    "sum32_within",
    "sum_margin",
    "threshold_margin",
]

UNIT = 2.0**-53
TINY = 2.0**-126

PREFIX_SHARE = 2.0**-19
"""What each term of a test along axes in float32 gives up: see `prefix_margin`."""

MAX_DIM = 2**26
"""Largest dimension: d^2 u < 1 holds, and 2^26 products leave every limb of `halfspace.cpu.exact` within int64."""

MAX_CELL_DIM = 65536
"""Cells exist up to this dimension: so many products of a code (<= 255) and a digit (<= 128) stay below 2^31."""


def norm_bound(sum_of_squares: float, dim: int) -> float:
    """Upper bound of |x| from the float64 sum of its `dim` squares.

    The squares are exact by (a) or, for residuals, rounded once; the sum errs by a factor within (1 - u)^d, its root
    by (1 - u)^(d/2), and the root's own rounding by (1 - u).
    """
    return sqrt(sum_of_squares) * (1.0 + (dim + 4) * UNIT)


def dot_slope(dim: int, norm: float) -> float:
    """First half of the bound `slope * |x| + intercept` on the error of a float64 dot product; `norm` is |q|.

    By (b) and (c) the error is at most (d u |q| + t sqrt(d)) |x| + t sqrt(d) |q|. One unit of u |q| |x| more lets the
    caller form `dot - error` in float64, whose rounding is at most u |dot|.
    """
    return (dim + 8) * UNIT * norm + 1.0001 * TINY * sqrt(dim)


def dot_intercept(dim: int, norm: float) -> float:
    """Second half of the bound of `dot_slope`."""
    return 1.0001 * TINY * sqrt(dim) * norm


def dot32_slope(dim: int, norm: float) -> float:
    """First half of the bound `slope * |x| + intercept` on the error of a *float32* dot product that does not overflow.

    With v = 2^-24 and gamma = d v / (1 - d v), summation errs by at most gamma |q| |x| in any order. Products and sums
    may be flushed below t, 2 d t in all, and components as in (c).
    """
    if dim >= 2**22:
        return inf
    return (dim + 4) * 2.0**-24 / (1.0 - (dim + 4) * 2.0**-24) * norm + 1.0001 * TINY * sqrt(dim)


def dot32_intercept(dim: int, norm: float) -> float:
    """Second half of the bound of `dot32_slope`."""
    return 1.0001 * TINY * (2.0 * dim + sqrt(dim) * norm)


def exact_below(direction_grain: float, vector_grain: float) -> float:
    """Bound on |q| |x| below which a float64 dot product has no error at all.

    A *grain* is a power of two of which every component is a multiple. All products, and with them all partial sums in
    any order, are then multiples of g = grain_q grain_x; they are bounded by |q| |x|, so where that is at most 2^53 g
    each of them is representable. Grains of at least t leave no subnormal component that could be flushed. Integer,
    binary, one-hot and fixed-point data are exact by this argument, which is why ties at the threshold cost nothing
    there.
    """
    if direction_grain < TINY or vector_grain < TINY:
        return 0.0
    return 2.0**52 * (direction_grain * vector_grain)


def cosine_spread(dim: int) -> float:
    """Relative error of tau |q| |x| in float64, and of a product that is divided by |q| |x|.

    |q| is taken for its `norm_bound`, which is too large by (3 d / 2 + 8) u at most. |x| is the root of a float64 sum
    of squares, which errs by a factor of (d / 2 + 2) u. Two products or a quotient, and a difference from a dot
    product, are four operations more. What is flushed of x moves |x| by t sqrt(d) at most, by (c), and so tau |q| |x|
    by no more than `dot_intercept`, since |tau| <= 1: it is to be added once for this, and once for the dot product.
    """
    return (2 * dim + 16) * UNIT


def least_cosine_slope(tau: float, norm: float) -> float:
    """Lower bound of tau |q| |x| per unit of the stored norm of x, a normal float32, for fewer than 2^22 dimensions.

    The stored norm is a `norm_bound`, rounded up to float32: it is at least |x|, and at most |x| (1 + 2^-23 + 2^-29).
    `norm`, the bound of |q|, is too large by a factor of 1 + 2^-30 at most.
    """
    return tau * norm * (1.0 - 2.0**-22 if tau > 0.0 else 1.0 + 8 * UNIT)


def most_cosine_slope(tau: float, norm: float) -> float:
    """Upper bound of tau |q| |x| per unit of the stored norm of x, as `least_cosine_slope` is the lower one."""
    return tau * norm * (1.0 + 8 * UNIT if tau > 0.0 else 1.0 - 2.0**-22)


def distance_slope(dim: int) -> float:
    """First half of the bound `slope * distance + intercept` on the error of a float64 distance.

    It is the root of a sum of squares of x_j - q_j. The difference of two float32 is 0 or at least 2^-149, so nothing
    underflows. A difference errs by a factor within 1 + u, its square by (1 + u)^3, the sum of positive terms by
    (1 + u)^(d - 1) more, in any order; the root halves all that and rounds once: (d / 2 + 2) u, whatever cancels. The
    rest lets the caller form `radius - distance` and take the bound of the computed distance for that of the real one.
    """
    return (0.5 * dim + 8) * UNIT


def distance_intercept(dim: int) -> float:
    """Second half of the bound of `distance_slope`: by (c), x and q move by t sqrt(d) each, unless grains are >= t."""
    return 2.0002 * TINY * sqrt(dim)


def distance_exact_below(direction_grain: float, vector_grain: float) -> float:
    """Bound on |q| + |x| below which a float64 sum of squares of x_j - q_j has no error at all.

    The differences are multiples of g, the smaller grain, and below |q| + |x| in magnitude. So where that is at most
    2^26 g, they have 26 bits; their squares, and all partial sums in any order, are multiples of g^2 below 2^52 g^2.
    """
    if direction_grain < TINY or vector_grain < TINY:
        return 0.0
    return 2.0**26 * min(direction_grain, vector_grain)


def distance32_slope(dim: int) -> float:
    """First half of the bound `slope * distance + intercept` on the error of the root of a *float32* sum of squares.

    As for `distance_slope`, with v = 2^-24 instead of u: in all less than b / (1 - 4 b) of the computed distance, with
    b = (d + 1) v / 2 + v, where d v < 1/4 and nothing overflows. The root itself is taken in float64.
    """
    if dim >= 2**22:
        return inf
    return (0.5 * dim + 4) * 2.0**-24 / (1.0 - (2.0 * dim + 16) * 2.0**-24)


def distance32_intercept(dim: int) -> float:
    """Second half of the bound of `distance32_slope`.

    Components and differences may be flushed below t, 3 t a difference, which moves the distance by 3 t sqrt(d).
    Squares and sums may be flushed below t, 2 d t in all; a root moves by at most the root of what the sum does.
    """
    return 1.5 * 2.0**-63 * sqrt(dim)


def sum32_within(radius: float, slope: float, intercept: float) -> float:
    """Float32 sum of squares up to which a distance is certainly within a radius; -1 where no sum is.

    slope, intercept : the bound of `distance32_slope`, so that sum^(1/2) (1 + slope) + intercept <= radius. A sum that
    overflows is infinite, and above this, unless the radius is infinite itself.
    """
    reached = (radius - intercept) / (1.0 + slope)
    return reached * reached * (1.0 - 8 * UNIT) if reached > 0.0 and slope < 0.5 else -1.0


def sum32_beyond(radius: float, slope: float, intercept: float) -> float:
    """Float32 sum of squares above which a distance is certainly beyond a radius; infinite where no sum is.

    So that sum^(1/2) (1 - slope) - intercept > radius. A sum that overflows is 2^127 at least, whatever it rounds to.
    """
    if radius < 0.0:
        return -1.0
    if not slope < 0.5:
        return inf
    reached = (radius + intercept) / (1.0 - slope)
    square = reached * reached * (1.0 + 8 * UNIT)
    return square if square < 2.0**126 else inf


def residual_bound(norm: float, scale: float, extent: float, dim: int) -> float:
    """Radius of a cell: upper bound of |x - c - scale * code| from the `norm_bound` of that residual as computed.

    c is the centre of the ball around it, m + s_1 c_1 + s_2 c_2: its products are exact (24 + 7 bits), and each of its
    sums errs by u times what it comes to; `extent` bounds the norms of these sums together, 0 where c = m. Then x - c
    errs by u |x - c| <= 128 u scale a component, and the last difference by u scale: below 2^-45 scale. Where each
    dimension has a weight of at most 1 beside the scale, both have 8 significant bits, so that all products are exact.
    """
    return norm + 2.0**-45 * scale * sqrt(dim) + 2 * UNIT * extent


def reach(digit_scale: float, residual: float, norm: float, span: float, dim: int) -> float:
    """Bound k with |<q, s c> - s a (A c)| <= s k: what a direction's own coding costs, per unit of a code's scale.

    The direction is a * A + rest, with integers A whose products with a = `digit_scale` are exact, and |c| <= `span`
    <= 128 sqrt(d), so the rest moves the product by |rest| span. The value s a (A c) is evaluated in float64, in one
    part or in two, and added to a bound, or taken from the threshold of the balls below, in at most sixteen operations,
    each with a relative error u of a quantity below 128 sqrt(d) (|q| + |rest|) s, or of the radius term (which
    `radius_factor` pays for), or of the threshold (which `threshold_margin` pays for). `norm` bounds the direction that
    is coded; if that is itself a rounded product, its rounding is among the sixteen.
    """
    return residual * span * (1.0 + 32 * UNIT) + 128.0 * sqrt(dim) * (32 * UNIT) * (norm + residual + digit_scale)


def radius_factor(norm: float) -> float:
    """|q| rounded up, so that `factor * radius` may be rounded, and added to, in float64."""
    return norm * (1.0 + 16 * UNIT)


def axes_spread(defect: float, axes: int, dim: int) -> float:
    """Share h with which a vector's part along principal axes, computed in float32, is trusted: see `axes_error`.

    `defect` bounds |P P' - I| for the float32 matrix P of the axes.
    """
    return 1.01 * sqrt(axes) * (dim + 8) * 2.0**-24 + 2.0 * defect + 2.0**-30


def axes_error(length: float, spread: float) -> float:
    """Slack of a radius along axes, and of the length of what is left, for a vector of that length from the centre.

    With D = x - m, z = P D in real numbers, and any p and g = q - P' p,

        <q, D> = <p, z> + <g, D - P' z> + <P g, z>  <=  <p, z> + |g| sqrt(|D|^2 - (1 - e) |z|^2) + |P g| |z|

    where e = |P P' - I|, since |D - P' z|^2 = |D|^2 - 2 |z|^2 + z' P P' z. For p = P q up to its float64 rounding,
    |P g| <= (e + 2^-34) |q|, and |q| <= (1 + e) (|p| + |g|): so adding (2 e + 2^-30) |D| both to the radius (which |p|
    multiplies) and to the rest (which |g| multiplies) pays for the last term. z itself is computed in float32, each
    component with an error of at most (d + 8) 2^-24 |D| (1 + e), and |z| with sqrt(axes) as much. What a process that
    flushes denormals loses is below the constant: axes exist for vectors of moderate norms only.
    """
    return spread * length + 2.0**-90


def axes_rest(length: float, along: float, spread: float) -> float:
    """Upper bound of |D - P' z|, from |D| and the computed |z|; what it still lacks is in `axes_error`."""
    sure = max(0.0, along - spread * length)
    return sqrt(max(0.0, length * length * (1.0 + 2.0**-40) - (1.0 - spread) * sure * sure))


def axes_left(norm: float, along: float, spread: float) -> float:
    """Upper bound of |g|, g = q - P' p, from bounds of |q| and of |p|, where p is P q as computed in float32.

    Here |q| is between 1 and 2, or 0. In the notation of `axes_error`, p errs by at most h |q| with h = `spread`, so

        |g|^2 = |q|^2 - 2 <P q, p> + p' P P' p  <=  |q|^2 - (1 - e) |p|^2 + 2 h |q| |p|.

    What a bound of |p| is too large by, (axes + 4) u, is below the constant.
    """
    return sqrt(max(0.0, norm * norm * (1.0 + 2.0**-34) - (1.0 - spread) * along * along + 2.0 * spread * norm * along))


def prefix_margin(digit_sum: float, slack: float) -> float:
    """Slack, in units of an integer dot product, of a test in float32 whose terms give up `PREFIX_SHARE` of themselves.

    The product of codes up to 15 with a direction's single digits A is compared with

        level / s - factor r / s - remainder b / s + lift e / s + offset

    and is exact in float32, as there are at most 2^13 axes. Each of these factors, and of the quotients, is rounded
    once to float32, and the sum eight times: in all by less than 2^-20 of the sum of all magnitudes. The first four
    terms pay for their part themselves; the offset, below 7.5 sum |A_j| + `slack` in magnitude, does so here. A factor
    or a quotient that is flushed to 0 costs less than a unit.
    """
    return 4.0 + PREFIX_SHARE * (8.0 * digit_sum + slack)


def pair_margin(digit_sum: float, ratio: float, dim: int) -> float:
    """Slack, in units of an integer dot product, of a test in float32.

    The product of codes with a direction's single digits A is compared with t = level / s - factor r / s + offset in
    float32. It and the offset are at most N = 256 sum |A_j| + 128 d in magnitude, and r / s <= sqrt(d), so the second
    term is at most R = ratio sqrt(d). Where |level / s| <= 4 (N + R), conversions, products and sums err by at most
    2^-21 of what all terms come to, below 2^-18 (N + R). Where it is larger, its sign decides, and rounding cannot
    change that. A level that is flushed to 0 is below 2^-126, and 1 / s is at most 2^126: that costs a unit more.
    """
    return 4.0 + 2.0**-18 * (256.0 * digit_sum + 128.0 * dim + ratio * sqrt(dim))


def glance_margin(unit: float, most: float, slack: float) -> float:
    """Slack of a bound in float32, for each unit of a row's scale s: s (unit P + offset) + factor r, of a radius r.

    P is the integer product of high codes, at most M in magnitude, and the offset is at most unit M + slack: `most` is
    M and more. Converting P in two parts, and adding them up, errs by 2^-22 M. The sum in brackets errs by 2^-24 of
    what it comes to, below 2^-23 (unit M + slack). All of it is below 2^-20 (unit M + slack), half of which the slack
    pays for itself. The last sum is rounded as the threshold is, downwards, so its rounding changes no verdict. The
    factor is larger than its own by 2^-20, which pays for the product with r.
    """
    return 2.0**-20 * (unit * (most + 1.0) + slack)


def glance_loss(unit: float, most: float, slack: float, factor: float) -> float:
    """Bound what such a sum may lack besides, where numbers below 2^-126 are flushed to 0.

    That may be a scale, which takes 2^-126 (unit M + slack) away, a radius, which takes 2^-126 factor, or what a
    product or a sum comes to.
    """
    return 2.0**-124 * (unit * most + slack + factor + 1.0)


def longest_product(norm: float, peak: float) -> float:
    """Upper bound of |q| |x| from upper bounds of both, its own rounding included."""
    return norm * peak * (1.0 + 8 * UNIT)


def least_norm(tau: float, norm: float) -> float:
    """Lower bound of |x| for any x with <q, x> >= tau, from an upper bound of |q|."""
    if tau <= 0.0:
        return -inf
    return tau / norm * (1.0 - 8 * UNIT) if norm > 0.0 else inf


def threshold_margin(tau: float, base: float, base_error: float) -> float:
    """Slack of `tau - base`, the threshold seen from a centre, where `base` = <q, m> errs by at most `base_error`.

    It also pays for the threshold's part in the rounding of `threshold - value` on the way down to the cells.
    """
    return base_error * (1.0 + 8 * UNIT) + 16 * UNIT * (abs(tau) + abs(base))


def sum_margin(tau: float, total: float, terms: int) -> float:
    """Slack of a threshold for sums of at most `terms` bounds whose magnitudes sum to at most `total`.

    Each of the additions errs by at most u `total`, in any order, and so does moving the threshold by the margin.
    """
    return (terms + 8) * UNIT * (abs(tau) + total)


def half_square(sum_of_squares: float, dim: int) -> float:
    """Lower bound of |x - m|^2 / 2, from the float64 sum of the squares of its `dim` differences.

    Each difference of two float32 is rounded once, its square once more, and the sum d - 1 times: a factor within
    (1 - u)^(d + 2). What is left pays for adding a threshold, whose own rounding its margin pays for.
    """
    return 0.5 * sum_of_squares * (1.0 - (dim + 32) * UNIT)


def square_margin(square: float, other: float, dim: int) -> float:
    """Slack of (square - other) / 2, of a float64 sum of `dim` squares of rounded differences and of a square.

    As in `half_square`, the sum errs by (d + 2) u of itself, and the other square by u. The rest pays for the
    threshold's part in the roundings of a test, of which there are fewer than sixteen on the way down to the rows.
    """
    return (dim + 64) * UNIT * (square + other)


def ball_doubt(length: float, radius: float, extent: float, dim: int) -> float:
    """Bound on the error of (|C - m|^2 - radius^2) / 2 for the centre C of a ball, as computed in float64.

    `length` bounds the computed |C - m|, and `extent` the norms of the sums that C came from, together. C itself errs
    by u times those, as in `residual_bound`, so |C - m| by 2 u extent, and half its square by that times length + 2 u
    extent. The sum of squares errs by (d + 2) u of itself. The rest pays for roundings of a test, as in `half_square`.
    """
    off = 2.0 * UNIT * extent
    return (dim + 64) * UNIT * (length * length + radius * radius) + off * (2.0 * length + off)
