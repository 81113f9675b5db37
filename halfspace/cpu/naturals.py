"""Natural numbers of any length, for what a dot product alone does not decide: roots, and products of sums.

A number is its limbs of 32 bits, kept as uint64 in scratch memory, and a power of two beside them. Neither its first
nor its last limb is zero, so that short numbers cost little, wherever their bits lie.
"""

from typing import NamedTuple

import numpy as np

from halfspace.cpu.runtime.jit import bit_length, bits_of, float64_of, inlined, pointer

__all__ = ["Natural", "compare", "nearest_root", "of_float", "product", "trimmed", "value_of"]

MASK = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


class Natural(NamedTuple):
    """A number: limbs * 2^exponent."""

    address: int  # of uint64 (size,), the lowest first
    size: int  # 0 for zero
    exponent: int


@inlined
def trimmed(address, count, exponent):
    """Leave out the first and the last limbs that are zero."""
    limbs = pointer(address, np.uint64)
    while count > 0 and limbs[count - 1] == np.uint64(0):
        count -= 1
    low = 0
    while low < count and limbs[low] == np.uint64(0):
        low += 1
    return Natural(address + 8 * low, count - low, exponent + 32 * low)


@inlined
def _of_integer(value, exponent, address):
    """Write a non-negative int64 * 2^exponent; takes two limbs of memory."""
    lowest = value & -value  # its zero bits, which would make products long, go to the exponent
    drop = max(bit_length(lowest) - 1, 0)
    value >>= drop
    limbs = pointer(address, np.uint64)
    limbs[0] = np.uint64(value & np.int64(0xFFFFFFFF))
    limbs[1] = np.uint64(value >> np.int64(32))
    return trimmed(address, 2, exponent + drop)


@inlined
def of_float(value, address):
    """Write the magnitude of a float64 that is not subnormal; takes two limbs of memory."""
    bits = bits_of(value) & np.int64(0x7FFFFFFFFFFFFFFF)
    if bits == 0:
        return Natural(address, 0, 0)
    mantissa = (bits & np.int64(0xFFFFFFFFFFFFF)) | np.int64(0x10000000000000)
    return _of_integer(mantissa, (bits >> np.int64(52)) - np.int64(1075), address)


@inlined
def product(one, other, address):
    """Multiply; takes as many limbs of memory as both have together."""
    a, b, out = pointer(one.address, np.uint64), pointer(other.address, np.uint64), pointer(address, np.uint64)
    count = one.size + other.size
    for k in range(count):
        out[k] = np.uint64(0)
    for i in range(one.size):
        carry = np.uint64(0)
        for j in range(other.size):
            value = out[i + j] + a[i] * b[j] + carry
            out[i + j] = value & MASK
            carry = value >> SHIFT
        out[i + other.size] = carry
    return trimmed(address, count, one.exponent + other.exponent)


@inlined
def _length(number):
    """Exponent of the power of two just above a number that is not zero."""
    top = np.int64(pointer(number.address, np.uint64)[number.size - 1])
    return number.exponent + 32 * (number.size - 1) + bit_length(top)


@inlined
def _limb(number, k):
    return pointer(number.address, np.uint64)[k] if 0 <= k < number.size else np.uint64(0)


@inlined
def _word(number, place):
    """Take the 32 bits from 2^place on."""
    place -= number.exponent
    k, within = place >> 5, np.uint64(place & 31)
    return ((_limb(number, k) | _limb(number, k + 1) << SHIFT) >> within) & MASK


@inlined
def compare(one, other):
    """Tell the sign of one - other: -1, 0 or 1."""
    if one.size == 0 or other.size == 0:
        return min(one.size, 1) - min(other.size, 1)
    length = _length(one)
    if length != _length(other):
        return 1 if length > _length(other) else -1
    place, last = length - 32, min(one.exponent, other.exponent) - 32
    while place > last:
        mine, theirs = _word(one, place), _word(other, place)
        if mine != theirs:
            return 1 if mine > theirs else -1
        place -= 32
    return 0


@inlined
def value_of(number):
    """Round to float64, to within a few units in its last place; the number lies where those are normal."""
    limbs, high = pointer(number.address, np.uint64), min(number.size, 3)
    value = 0.0
    for k in range(high):
        value = value * 2.0**32 + np.float64(limbs[number.size - 1 - k])
    exponent = number.exponent + 32 * (number.size - high)
    return value * float64_of(np.int64(exponent + 1023) << np.int64(52))


@inlined
def nearest_root(numerator, denominator, guess, address):
    """Round the root of numerator / denominator to the nearest float32, ties to even; returns its bits.

    guess : that root in float64, to within 2^-40 of itself
    address : memory for four limbs more than the denominator has

    The guess lies between two neighbours, or next to one of them, so that the middle between both decides.
    """
    bits = bits_of(guess)
    if guess >= 2.0**-126:
        pattern = min((bits >> np.int64(29)) - (np.int64(896) << np.int64(23)), np.int64(0x7F7FFFFF))
    else:
        pattern = np.int64(guess * 2.0**149)
    field = pattern >> np.int64(23)
    fraction = pattern & np.int64(0x7FFFFF)
    if field > 0:
        fraction |= np.int64(0x800000)
    half = 2 * fraction + 1  # the middle is half * 2^exponent
    exponent = max(field, np.int64(1)) - np.int64(151)
    square = _of_integer(half * half, 2 * exponent, address)
    order = compare(numerator, product(square, denominator, address + 16))
    if order > 0 or (order == 0 and (pattern & 1) == 1):
        pattern += 1
    return pattern
