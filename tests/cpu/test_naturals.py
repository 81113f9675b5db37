"""Natural numbers in scratch memory, against those of Python."""

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from helpers import metrics, reference
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from halfspace.cpu import naturals

ROOM = 400


@njit
def _natural(limbs, exponent):
    return naturals.trimmed(np.int64(limbs.ctypes.data), limbs.size, exponent)


@njit
def _compare(one, exponent, other, other_exponent):
    return naturals.compare(_natural(one, exponent), _natural(other, other_exponent))


@njit
def _product(one, exponent, other, other_exponent, out):
    return naturals.product(_natural(one, exponent), _natural(other, other_exponent), np.int64(out.ctypes.data))


@njit
def _of_float(value, out):
    return naturals.of_float(value, np.int64(out.ctypes.data))


@njit
def _value_of(limbs, exponent):
    return naturals.value_of(_natural(limbs, exponent))


@njit
def _nearest_root(one, exponent, other, other_exponent, guess, out):
    parts = _natural(one, exponent), _natural(other, other_exponent)
    return naturals.nearest_root(parts[0], parts[1], guess, np.int64(out.ctypes.data))


def limbs(number, before=0, after=0):
    """The limbs of a Python int, with zeros before and after."""
    count = -(-number.bit_length() // 32)
    words = [number >> 32 * k & 0xFFFFFFFF for k in range(count)]
    return np.array([0] * before + words + [0] * after + [0], np.uint64)[: before + count + after]


def read(natural, memory):
    """The Fraction that a natural number in this memory stands for."""
    address, size, exponent = natural
    first = (address - memory.ctypes.data) // 8
    words = memory[first : first + size].tolist()
    assert all(0 <= word < 2**32 for word in words)
    assert not words or (words[0] and words[-1])
    return sum(word << 32 * k for k, word in enumerate(words)) * Fraction(2) ** exponent


NUMBERS = st.one_of(
    st.integers(0, 5),
    st.integers(0, 2**64),
    st.builds(lambda n, e: n << e, st.integers(1, 2**40), st.integers(0, 600)),
    st.builds(lambda e, n: 2**e + n, st.integers(10, 640), st.integers(-2, 2)),
    st.integers(0, 2**640),
)
EXPONENTS = st.integers(-700, 100)


@given(NUMBERS, EXPONENTS, NUMBERS, EXPONENTS, st.integers(0, 3), st.integers(0, 3))
def test_products_and_comparisons(one, e, other, f, before, after):
    a, b, out = limbs(one, before, after), limbs(other, after, before), np.full(ROOM, 7, np.uint64)
    first, second = (one << 32 * before) * Fraction(2) ** e, (other << 32 * after) * Fraction(2) ** f
    assert read(_product(a, e, b, f, out), out) == first * second
    assert (out[a.size + b.size :] == 7).all()
    assert _compare(a, e, b, f) == (first > second) - (first < second)
    assert _compare(b, f, a, e) == (first < second) - (first > second)


@given(NUMBERS, st.integers(0, 640), st.integers(-1, 1))
def test_numbers_that_are_written_in_two_ways_are_equal(number, shift, more):
    assert _compare(limbs(number), 0, limbs(max(0, (number << shift) + more)), -shift) == (
        (more < 0 and number > 0) - (more > 0)
    )


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_floats_are_written_exactly(value):
    out = np.full(ROOM, 7, np.uint64)
    assert read(_of_float(value, out), out) == abs(Fraction(value))
    assert (out[2:] == 7).all()


@given(NUMBERS.filter(bool), st.integers(-300, 100))
def test_values_are_near(number, exponent):
    exact = number * Fraction(2) ** exponent
    assert abs(Fraction(_value_of(limbs(number), exponent)) - exact) <= exact * Fraction(2) ** -50


@st.composite
def quotients(draw):
    """A numerator and a denominator; the root of their quotient is often midway between two float32, or nearly so."""
    scale = draw(st.integers(1, 2**60))
    if draw(st.booleans()):
        middle = 2 * draw(st.integers(2**23, 2**24 - 1)) + 1
        square = middle * middle * scale * scale
        return max(1, square + draw(st.sampled_from([0, 0, 1, -1, 2**20, -(2**20)]))), scale * scale
    return draw(st.integers(1, 2**200)), scale


@given(quotients(), st.integers(-320, 300), st.sampled_from([0.0, 2.0**-45, -(2.0**-45)]))
def test_roots_are_rounded_once(quotient, exponent, error):
    numerator, denominator = quotient
    bits = 2 * (200 + denominator.bit_length())
    root = isqrt((numerator << bits) // denominator) * Fraction(2) ** (exponent - bits // 2)
    if not Fraction(2) ** -900 < root < Fraction(2) ** 900:
        return
    guess, out = float(root) * (1.0 + error), np.full(ROOM, 7, np.uint64)
    ours = _nearest_root(limbs(numerator), 2 * exponent, limbs(denominator), 0, guess, out)
    assert ours == metrics.root(numerator, denominator, exponent)


@pytest.mark.parametrize(
    ("numerator", "exponent", "expected"),
    [
        (0, 0, 0.0),
        (1, 0, 1.0),
        (25, 0, 5.0),
        ((2**25 + 1) ** 2, 0, 2.0**25),  # ties, to even
        ((2**25 + 3) ** 2, 0, 2.0**25 + 4),
        ((2**25 + 1) ** 2 + 1, 0, 2.0**25 + 2),
        ((2**25 - 1) ** 2, 103, np.inf),
        ((2**25 - 1) ** 2 - 1, 103, 2.0**128 - 2.0**104),
        (1, 200, np.inf),
        (1, -149, 2.0**-149),
        (1, -150, 0.0),
        (9, -150, 2.0**-148),
        (10, -150, 2.0**-148),
        (9 * 2**40 - 1, -170, 2.0**-149),
        ((2**24 - 1) ** 2, -150, 2.0**-126),
    ],
)
def test_roots_worked_out_by_hand(numerator, exponent, expected):
    guess, out = float(np.sqrt(float(numerator)) * 2.0**exponent), np.zeros(ROOM, np.uint64)
    pattern = _nearest_root(limbs(numerator), 2 * exponent, limbs(1), 0, guess, out)
    assert pattern == reference.bits(np.float32(expected))
