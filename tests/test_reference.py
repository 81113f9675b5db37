"""The oracle itself: against Python's own exact arithmetic, and on cases worked out by hand."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES
from helpers.families import FAMILIES, pairs
from hypothesis import given
from hypothesis import strategies as st

FINITE32 = st.integers(0, 2**32 - 1).filter(lambda p: p >> 23 & 255 != 255)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_decode_and_encode_are_inverse(dtype, rng):
    unsigned, width, fraction = reference.FORMATS[dtype]
    patterns = rng.integers(0, (2**width - 1) << fraction, 500).astype(unsigned)
    patterns[:4] = [0, 1, (1 << fraction) - 1, 1 << fraction]
    mantissa, exponent = reference.decode(reference.from_bits(patterns, dtype))
    assert [reference.encode(m, e, dtype) for m, e in zip(mantissa.tolist(), exponent.tolist(), strict=True)] == (
        patterns.tolist()
    )
    values = reference.from_bits(patterns, dtype).astype(np.float64).tolist()
    assert [int(m) * Fraction(2) ** int(e) for m, e in zip(mantissa, exponent, strict=True)] == list(
        map(Fraction, values)
    )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_store_rounds_like_numpy(dtype, rng):
    patterns = np.concatenate([rng.integers(0, 0x7FF << 52, 2000), np.arange(50)]).astype(np.uint64)
    near = rng.standard_normal(2000) * 2.0 ** rng.integers(-30, 20, 2000)
    halfway = (np.arange(1000) + 0.5) * 2.0**-24
    for values in (reference.from_bits(patterns, "float64"), near, halfway, -halfway, np.array([-0.0, 0.0])):
        with np.errstate(over="ignore", under="ignore"):
            expected = values.astype(dtype)
        np.testing.assert_array_equal(reference.bits(reference.store(values, dtype)), reference.bits(expected))


def test_store_rounds_once_to_bfloat16():
    just_above_halfway = 1 + 2.0**-8 + 2.0**-40  # by way of float32 this would be a tie, and go down to 1
    assert float(reference.store([just_above_halfway], "bfloat16")[0]) == 1 + 2.0**-7
    assert float(reference.store([1 + 2.0**-8], "bfloat16")[0]) == 1
    assert float(reference.store([2**40 + 2**32 + 1], "bfloat16")[0]) == 2**40 + 2**33


@given(st.lists(st.tuples(FINITE32, FINITE32), min_size=1, max_size=6))
def test_dot_equals_the_fraction(entries):
    direction, vector = reference.from_bits(np.array(entries).T, "float32")
    expected = sum(
        (Fraction(float(a)) * Fraction(float(b)) for a, b in zip(direction, vector, strict=True)), Fraction()
    )
    assert reference.dot(direction, vector) == expected


@pytest.mark.parametrize(
    ("direction", "vector", "expected"),
    [
        ([1, 1, 1], [1e30, 1, -1e30], 1.0),
        ([1, 1], [1, 2.0**-24], 1.0),
        ([1, 1, 1], [1, 2.0**-24, 2.0**-60], 1 + 2.0**-23),
        ([1, 2.0**-24], [1 + 2.0**-23, 1], 1 + 2.0**-22),
        ([3e38, 3e38], [1, 1], np.inf),
        ([-3e38, 3e38], [3e38, -3e38], -np.inf),
        ([2.0**-100], [2.0**-49], 2.0**-149),
        ([2.0**-100], [2.0**-50], 0.0),
        ([-(2.0**-100)], [2.0**-50], -0.0),
        ([-(2.0**-100), 1], [2.0**-100, 0], -0.0),
        ([-1, 1], [0, 0], 0.0),
        ([1, -1], [2, 2], 0.0),
        ([2.0**-75, 2.0**-75], [2.0**-75, 2.0**-120], 2.0**-149),
        ([2.0**64], [2.0**63 * (2 - 2.0**-23)], 2.0**127 * (2 - 2.0**-23)),
        ([1, 1], [2.0**127 * (2 - 2.0**-23), 2.0**103], np.inf),
        ([1, 1], [2.0**127 * (2 - 2.0**-23), 2.0**102], 2.0**127 * (2 - 2.0**-23)),
    ],
)
def test_score_rounds_once(direction, vector, expected):
    ours = reference.score(np.array(direction, np.float32), np.array(vector, np.float32))
    assert reference.bits(ours) == reference.bits(np.float32(expected))


def test_hits_include_the_boundary_and_compare_before_rounding():
    vectors = np.array([[1, 0], [1, 2.0**-60], [1, -(2.0**-60)], [0, 0]], np.float32)
    direction = np.ones(2, np.float32)
    assert reference.hits(vectors, direction, 1.0).tolist() == [0, 1]
    assert reference.hits(vectors, direction, np.nextafter(1.0, 2)).tolist() == []
    assert reference.hits(vectors, direction, 0.0).tolist() == [0, 1, 2, 3]
    assert reference.hits(vectors, direction, 5e-324).tolist() == [0, 1, 2]
    assert reference.hits(vectors, direction, -np.inf).tolist() == [0, 1, 2, 3]
    assert reference.hits(vectors, direction, np.inf).tolist() == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [1, 2, 9])
def test_the_faster_oracle_gives_the_same_answers(family, dtype, d, rng):
    vectors, directions = family(rng, 20, d, 2, dtype)
    directions, taus = pairs(rng, vectors, directions)
    plain, faster = (reference.query(vectors, directions, taus, faster=f) for f in (False, True))
    for (ids, scores), (other_ids, other_scores) in zip(plain, faster, strict=True):
        assert ids.tolist() == other_ids.tolist()
        assert reference.bits(scores).tolist() == reference.bits(other_scores).tolist()


def test_best_orders_by_score_then_id():
    ids, scores = np.array([1, 2, 5, 9]), np.array([0.0, 3.0, -0.0, 3.0], np.float32)
    assert reference.best(ids, scores)[0].tolist() == [2, 9, 1, 5]
    assert reference.best(ids, scores, 3)[0].tolist() == [2, 9, 1]
