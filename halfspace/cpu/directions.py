"""Directions, prepared once for all segments: measured, widened, and coded in two digits of 8 bits."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.exact import COSINE, L2, reachable
from halfspace.cpu.formats import SLICE, exact64, grain_of, leading_bit, lowest_exponent
from halfspace.cpu.rounding import (
    cosine_spread,
    distance32_intercept,
    distance32_slope,
    distance_intercept,
    distance_slope,
    dot32_intercept,
    dot32_slope,
    dot_intercept,
    dot_slope,
    least_cosine_slope,
    most_cosine_slope,
    norm_bound,
    reach,
    sum32_beyond,
    sum32_within,
)
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import array_at, bits_of, blank, cleared, compiled, float64_of, inlined, multiply_add
from halfspace.cpu.runtime.records import DIRECTION
from halfspace.model.metrics import Metric
from halfspace.model.segment import address

__all__ = [
    "Directions",
    "blank_directions",
    "code_in_digits",
    "fill_digits",
    "fill_directions",
    "largest_of",
    "prepare",
    "put_digits",
]

DIGIT_LIMIT = 127 * 256 + 127
"""Largest |A_j|: two signed digits of 8 bits, the high one within 127."""


class Directions(NamedTuple):
    """Directions as the stages see them, space by space."""

    narrow: npt.NDArray[np.float32]  # (m, d)
    wide: npt.NDArray[np.float64]  # (m, d), the same values
    digits: npt.NDArray[np.int8]  # (m, steps, 2, 4): of four dimensions the high digits, then the low ones
    records: np.ndarray  # DIRECTION (m,)


@inlined
def digit_unit(largest):
    """Power of two a, such that components up to `largest` are two digits: at most `DIGIT_LIMIT` a."""
    if largest == 0.0:
        return 1.0
    unit = leading_bit(largest) * 2.0**-14
    return 2.0 * unit if unit * DIGIT_LIMIT < largest else unit


@inlined
def largest_of(values, count):
    """Return the largest magnitude of float64 (count,)."""
    largest = np.int64(0)  # as bits, which order magnitudes as they do integers: that vectorises
    for j in range(count):
        largest = max(largest, bits_of(abs(values[j])))
    return float64_of(largest)


@inlined
def code_in_digits(values, count, digits):
    """Code float64 (count,) as a * A + rest; digits : int8 (2, stride), gets the digits of A, the high one first.

    Returns a, a bound on |rest|, and the sum of A.
    """
    unit = digit_unit(largest_of(values, count))
    inverse = 1.0 / unit  # exact: a power of two
    total, squares = np.int64(0), 0.0
    for j in range(count):
        digit = np.int64(np.rint(values[j] * inverse))
        rest = values[j] - digit * unit
        squares = multiply_add(squares, rest, rest)
        high = (digit + 128) >> 8
        digits[0, j] = high
        digits[1, j] = digit - 256 * high
        total += digit
    return unit, norm_bound(squares, count), total


@inlined
def put_digits(values, digits):
    """Code float64 (d,) in digits (steps, 2, 4); returns what `code_in_digits` does."""
    flat = cleared((2, values.size), np.int8)
    coded = code_in_digits(values, values.size, flat)
    for j in range(values.size):
        digits[j // 4, 0, j % 4] = flat[0, j]
        digits[j // 4, 1, j % 4] = flat[1, j]
    return coded


@inlined
def _measure(narrow, wide, record):
    """Widen a direction (d,) of float32 and fill in its record, all but the digits."""
    dim = narrow.size
    total = 0.0
    lowest = np.int32(1000)
    for j in range(dim):
        value = exact64(narrow[j])
        wide[j] = value
        total = multiply_add(total, value, value)
        lowest = min(lowest, lowest_exponent(narrow[j]))
    norm = norm_bound(total, dim)
    record.narrow, record.wide = narrow.ctypes.data, wide.ctypes.data
    record.norm = norm
    record.grain = grain_of(lowest)
    record.slope = dot_slope(dim, norm)
    record.intercept = dot_intercept(dim, norm)
    record.slope32 = dot32_slope(dim, norm)
    record.intercept32 = dot32_intercept(dim, norm)


@inlined
def _square(value):
    """Square a float64 without error, as a sum of two (Dekker, by the split of Veltkamp)."""
    if np.isinf(value):
        return np.inf, 0.0
    square = value * value
    shifted = value * 134217729.0  # 2^27 + 1
    high = shifted - (shifted - value)
    low = value - high
    return square, ((high * high - square) + 2.0 * high * low) + low * low


@inlined
def _aim(record, dim):
    """Fill in what follows from the threshold of a cosine or of a distance."""
    tau, norm = record.tau, record.norm
    record.spread, record.lost, record.square, record.square_low = 0.0, 0.0, 0.0, 0.0
    record.drop32, record.take32 = 0.0, 0.0
    if record.metric == COSINE:
        record.spread = cosine_spread(dim)
        record.drop32 = least_cosine_slope(tau, norm) - record.slope32
        record.take32 = most_cosine_slope(tau, norm) + record.slope32
    elif record.metric == L2:
        slope, intercept = distance32_slope(dim), distance32_intercept(dim)
        record.spread, record.lost = distance_slope(dim), distance_intercept(dim)
        record.square, record.square_low = (-1.0, 0.0) if tau > 0.0 else _square(tau)
        record.drop32, record.take32 = sum32_beyond(-tau, slope, intercept), sum32_within(-tau, slope, intercept)


@inlined
def blank_directions(narrow):
    """Make room for directions (m, d)."""
    count, dim = narrow.shape
    return Directions(
        narrow,
        blank((count, dim), np.float64),
        cleared((count, (dim + 3) // 4, 2, 4), np.int8),
        blank(count, DIRECTION),
    )


def prepare(
    narrow: npt.NDArray[np.float32], tau: npt.NDArray[np.float64], metric: Metric = Metric.IP, digits_too: bool = True
) -> Directions:
    """Prepare contiguous directions (m, d) with their thresholds (m,); all arrays must outlive the records.

    digits_too : whether the digits, and what goes with them, are filled in
    """
    count, dim = narrow.shape
    steps = (dim + 3) // 4 if digits_too else 0
    digits, records = np.zeros((count, steps, 2, 4), np.int8), np.empty(count, DIRECTION)
    prepared = Directions(narrow, np.empty((count, dim)), digits, records)
    for first, last in _threads.spans(count, -(-narrow.size // SLICE)):
        own = narrow[first:last], prepared.wide[first:last], digits[first:last]
        _prepare(own, address(records[first:last]), tau[first:last], first, digits_too, int(metric))
    return prepared


@compiled
def _prepare(arrays, records, tau, first, digits_too, metric):
    """Fill in the other parts of `Directions`, the first of which has the number `first`; records : their address."""
    narrow, wide, digits = arrays
    directions = Directions(narrow, wide, digits, array_at(records, DIRECTION, narrow.shape[0]))
    fill_directions(directions, tau, metric)
    if digits_too:
        fill_digits(directions)
    for k in range(tau.size):
        directions.records[k].number += first


@inlined
def fill_directions(directions, tau, metric):
    """Fill in what is derived from the components, but for the digits and what goes with them."""
    narrow, wide, digits, records = directions
    count, dim = narrow.shape
    for i in range(count):
        record = records[i]
        _measure(narrow[i], wide[i], record)
        record.number, record.metric, record.tau = i, metric, reachable(tau[i], metric)
        _aim(record, dim)
        record.digits, record.steps = digits[i].ctypes.data, digits.shape[1]


@inlined
def fill_digits(directions):
    """Fill in the digits, and what goes with them."""
    _, wide, digits, records = directions
    count, dim = wide.shape
    for i in range(count):
        record = records[i]
        scale, rest, total = put_digits(wide[i], digits[i])
        record.digit_scale = scale
        record.reach = reach(scale, rest, record.norm, 128.0 * np.sqrt(dim), dim)
        record.bias = 128 * total
