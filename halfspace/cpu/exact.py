"""Dot products without error, for the cases that lie within rounding of the threshold.

Two means. `split_dot` cuts every product at a fixed place, so that the upper parts sum without error, and mostly the
lower ones too (the error-free extraction of Rump, Ogita and Oishi, *Accurate floating-point summation part I*, 2008).
`compare_exactly` adds integers in a fixed-point register that is wide enough for everything (Kulisch's long
accumulator), and is always right.
"""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.formats import exact64, leading_bit, round_to_format, widen
from halfspace.cpu.naturals import trimmed
from halfspace.cpu.runtime.jit import array_at, bits_of, compiled, float32_of, inlined, multiply_add
from halfspace.model.metrics import FARTHEST, NEAREST, Metric

__all__ = [
    "COLUMNS",
    "LIMBS",
    "add_products",
    "cleared_register",
    "compare_exactly",
    "each_reachable",
    "magnitude_of",
    "reachable",
    "split_dot",
]

LOWEST = 298
"""The register counts in units of 2^-298, the smallest product of two float32."""
LEAST_PRODUCT = 2.0**-LOWEST
LEAST_COSINE = 2.0**-600
"""As constants: compiled code would compute the powers anew."""
LIMBS = 22
"""Limbs of 32 bits: 704 bits hold the sum of any dot product, and any tau below 2^320."""
COLUMNS = 128
"""Numbers of float64, twice, that are room enough to decide a hairline of any metric in."""

IP, COSINE, L2 = map(int, Metric)


@inlined
def reachable(tau, metric):
    """Bring a threshold to where scores are, which changes no answer; that leaves none which a processor may flush.

    A tau that is closer to 0 than any score but 0 is raised to the least score that is not below it: dot products are
    multiples of 2^-298, and cosines that are not 0 are above 2^-600. With the other metrics it becomes infinite where
    it is beyond all scores, or below them.
    """
    magnitude, positive = bits_of(tau) & np.int64(0x7FFFFFFFFFFFFFFF), bits_of(tau) > 0
    if metric == L2:  # a negative radius, one that is too short for two vectors that differ, and one that has all
        if positive:
            return np.inf
        if magnitude < bits_of(NEAREST):
            return 0.0
        return -np.inf if tau <= -FARTHEST else tau
    if metric == COSINE and (tau > 1.0 or tau <= -1.0):
        return np.inf if tau > 0.0 else -np.inf
    least = LEAST_COSINE if metric == COSINE else LEAST_PRODUCT
    if magnitude == 0 or magnitude >= bits_of(least):
        return tau
    return least if positive else 0.0


def each_reachable(tau: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Raise every tau (m,) to one that is `reachable`, with the metric "ip"."""
    raised = tau.copy()
    _raise(raised)
    return raised


@compiled
def _raise(tau):
    for k in range(tau.size):
        tau[k] = reachable(tau[k], IP)


@inlined
def split_dot(row, direction, size, grain, scratch):
    """Compute the dot product as high + low + error with |error| <= bound; returns (high, low, bound).

    size : upper bound of |q| |x|, finite and not zero
    grain : a number of which every product is a multiple
    direction : float32 (d,); scratch : float64 (2, d or more)

    With sigma a power of two >= 4 size, (p + sigma) - sigma is p rounded to a multiple of 2^-53 sigma: such parts sum
    exactly in float64, since their sum stays below sigma. What is left of each product is at most 2^-53 sigma and is
    again a multiple of the grain.
    """
    dim = row.size
    sigma = 8.0 * leading_bit(size)
    for j in range(dim):
        product = exact64(direction[j]) * exact64(widen(row[j]))
        part = (product + sigma) - sigma
        scratch[0, j] = part
        scratch[1, j] = product - part
    high = 0.0
    low = 0.0
    for j in range(dim):
        high = multiply_add(high, scratch[0, j], 1.0)
        low = multiply_add(low, scratch[1, j], 1.0)
    total = dim * 2.0**-53 * sigma
    bound = 0.0 if total <= 2.0**52 * grain else 1.01 * dim * 2.0**-53 * total
    return high, low, bound


@inlined
def _add(register, negative, mantissa, shift):
    """Add a mantissa (int64, below 2^53) times 2^shift."""
    limb = shift >> 5
    within = shift & 31
    mask = np.int64(0xFFFFFFFF)
    lower = (mantissa & mask) << within
    upper = (mantissa >> np.int64(32)) << within
    sign = np.int64(-1) if negative else np.int64(1)
    register[limb] += sign * (lower & mask)
    register[limb + 1] += sign * ((lower >> np.int64(32)) + (upper & mask))
    register[limb + 2] += sign * (upper >> np.int64(32))


@inlined
def _carry(register):
    """Normalise the limbs to [0, 2^32), the sign left to the last one; returns whether the whole is negative."""
    carry = np.int64(0)
    for k in range(LIMBS - 1):
        value = register[k] + carry
        register[k] = value & np.int64(0xFFFFFFFF)
        carry = value >> np.int64(32)
    register[LIMBS - 1] += carry
    return register[LIMBS - 1] < 0


@inlined
def _split32(value):
    bits = np.int64(bits_of(value))
    field = (bits >> np.int64(23)) & np.int64(0xFF)
    fraction = bits & np.int64(0x7FFFFF)
    if field == 0:
        return fraction, np.int64(0)
    return fraction | np.int64(0x800000), field - np.int64(1)


@inlined
def cleared_register(address):
    """Make a register of what lies at an address: 0."""
    register = array_at(address, np.int64, LIMBS)
    for k in range(LIMBS):
        register[k] = 0
    return register


@inlined
def add_products(register, one, other, times):
    """Add the products of the components of two stored vectors (d,), `times` each: 1, 2, -1 or -2."""
    for j in range(one.size):
        a = widen(one[j])
        b = widen(other[j])
        mantissa_a, shift_a = _split32(a)
        mantissa_b, shift_b = _split32(b)
        negative = ((bits_of(a) ^ bits_of(b)) < 0) ^ (times < 0)
        _add(register, negative, mantissa_a * mantissa_b * abs(times), shift_a + shift_b)


@inlined
def magnitude_of(register):
    """Turn the register into a `halfspace.cpu.naturals.Natural`, which takes its memory; returns it, and the sign."""
    negative = _carry(register)
    if negative:
        for k in range(LIMBS):
            register[k] = -register[k]
        _carry(register)
    return trimmed(np.int64(register.ctypes.data), LIMBS, -LOWEST), negative


@inlined
def _round_register(register):
    """Round the register to the nearest float32, ties to even; destroys it."""
    _, negative = magnitude_of(register)
    top = LIMBS - 1
    while top > 0 and register[top] == 0:
        top -= 1
    if top == 0:
        mantissa = register[0]
        sticky = False
        low = 0
    else:  # the two highest limbs, kept to 62 bits, and whether anything lies below
        mantissa = ((register[top] << np.int64(32)) | register[top - 1]) if register[top] < 2**29 else np.int64(0)
        low = top - 1
        sticky = False
        if mantissa == 0:
            mantissa = (register[top] << np.int64(29)) | (register[top - 1] >> np.int64(3))
            sticky = (register[top - 1] & np.int64(7)) != 0
        for k in range(low):
            if register[k] != 0:
                sticky = True
    exponent = np.int64(32 * low - LOWEST)
    if top > 0 and register[top] >= 2**29:
        exponent += np.int64(3)
    pattern = np.int32(round_to_format(mantissa, exponent, sticky, 24, -149, 127))
    if negative:
        pattern |= np.int32(-0x80000000)
    return float32_of(pattern)


@inlined
def compare_exactly(row, direction, tau, scratch):
    """Whether <q, x> >= tau in real arithmetic, and <q, x> rounded once to float32; returns (hit, score).

    direction : float32 (d,); scratch : float64 (2, `LIMBS` or more), the memory of two registers
    """
    register = cleared_register(scratch.ctypes.data)
    rounded = array_at(scratch.ctypes.data + 8 * LIMBS, np.int64, LIMBS)
    add_products(register, direction, row, 1)
    for k in range(LIMBS):
        rounded[k] = register[k]
    score = _round_register(rounded)
    if tau >= 2.0**320 or tau <= -(2.0**320):
        return tau < 0.0, score
    bits = bits_of(tau)
    field = (bits >> np.int64(52)) & np.int64(0x7FF)
    mantissa = bits & np.int64(0xFFFFFFFFFFFFF)
    if field != 0:
        mantissa |= np.int64(0x10000000000000)
    else:
        field = np.int64(1)
    shift = field - np.int64(1075) + np.int64(LOWEST)
    if shift < 0:  # round tau up to a multiple of the register's unit: products are multiples of it too
        drop = min(-shift, np.int64(62))
        whole = mantissa >> drop
        if bits >= 0 and (whole << drop) != mantissa:
            whole += np.int64(1)
        mantissa = whole
        shift = np.int64(0)
    _add(register, bits >= 0, mantissa, shift)
    return not _carry(register), score
