"""The oracle itself: against Python's own exact arithmetic, and on cases worked out by hand."""

from fractions import Fraction
from operator import mul

import numpy as np
import pytest
from helpers import metrics, reference
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [1, 2, 9])
def test_sets_of_other_metrics_are_those_of_fractions(family, dtype, d, rng):
    vectors, directions = metrics.nonzero(*family(rng, 12, d, 2, dtype))
    for q in directions:
        wide = [Fraction(float(c)) for c in q]
        rows = [[Fraction(float(c)) for c in row] for row in vectors]
        dots = [sum(map(mul, row, wide)) for row in rows]
        squares = [sum(map(mul, row, row)) * sum(map(mul, wide, wide)) for row in rows]
        apart = [sum((a - b) ** 2 for a, b in zip(row, wide, strict=True)) for row in rows]
        for tau in metrics.boundary_taus("cosine", rng, vectors, q, 4):
            t = Fraction(float(tau))
            expected = [k for k in range(12) if dots[k] * abs(dots[k]) >= t * abs(t) * squares[k]]
            assert metrics.hits("cosine", vectors, q, tau).tolist() == expected
        for radius in metrics.boundary_taus("l2", rng, vectors, q, 4):
            r = Fraction(float(radius))
            expected = [k for k in range(12) if apart[k] <= r * abs(r)]
            assert metrics.hits("l2", vectors, q, radius).tolist() == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_roots_are_the_nearest(dtype, rng):
    for _ in range(500):
        n, d = (int(rng.integers(2**61, 2**62)) >> int(rng.integers(0, 62)) for _ in range(2))
        pattern = metrics.root(n, d, 0, dtype)
        near = reference.from_bits([pattern - 1, pattern, pattern + 1], dtype)
        below, found, above = (Fraction(float(value)) for value in near)
        assert ((below + found) / 2) ** 2 <= Fraction(n, d) <= ((above + found) / 2) ** 2
        assert metrics.root(-n, d, 0, dtype) > pattern


@pytest.mark.parametrize(
    ("metric", "direction", "vector", "expected"),
    [
        ("l2", [3, 4], [0, 0], 5.0),
        ("l2", [0, 0], [0, 0], 0.0),
        ("l2", [1e30, 1], [1e30, 3], 2.0),
        ("l2", [3e38], [-3e38], np.inf),
        ("l2", [2.0**127], [-(2.0**127 * (1 - 2.0**-24))], np.inf),
        ("l2", [2.0**127], [-(2.0**127 * (1 - 2.0**-23))], 2.0**128 - 2.0**104),
        ("l2", [1], [-(1 - 2.0**-24)], 2.0),
        ("l2", [1 + 2.0**-23], [-(1 - 2.0**-24)], 2.0),
        ("l2", [2.0**-149], [0], 2.0**-149),
        ("l2", [2.0**-149] * 3, [0, 0, 0], 2.0**-148),
        ("cosine", [1, 1], [2, 2], 1.0),
        ("cosine", [1, 1], [-2, -2], -1.0),
        ("cosine", [1, 0], [0, 1], 0.0),
        ("cosine", [1, 0], [3, 4], np.float32(0.6)),
        ("cosine", [1, 0], [2.0**-149, 2.0**100], 0.0),
        ("cosine", [1, 0], [-(2.0**-149), 2.0**100], -0.0),
        ("cosine", [1, 0], [2.0**-148, 1], 2.0**-148),
        ("cosine", [1, 0], [2.0**-149, 1], 2.0**-149),
        ("cosine", [1, 0], [2.0**-149, 2], 0.0),
        ("cosine", [1e-40, 1e-40], [1e-45, 1e-45], 1.0),
    ],
)
def test_scores_of_other_metrics_round_once(metric, direction, vector, expected):
    ours = metrics.score(metric, np.array(direction, np.float32), np.array(vector, np.float32))
    assert reference.bits(ours) == reference.bits(np.float32(expected))


def test_distances_are_compared_before_rounding_and_include_the_boundary():
    vectors = np.array([[3, 4], [5, 0], [5, 2.0**-30], [0, 0]], np.float32)
    origin = np.zeros(2, np.float32)
    assert metrics.hits("l2", vectors, origin, 5.0).tolist() == [0, 1, 3]
    assert metrics.hits("l2", vectors, origin, np.nextafter(5.0, 6)).tolist() == [0, 1, 2, 3]
    assert metrics.hits("l2", vectors, origin, 0.0).tolist() == [3]
    assert metrics.hits("l2", vectors, origin, -5e-324).tolist() == []
    assert metrics.hits("l2", vectors, origin, np.inf).tolist() == [0, 1, 2, 3]
    assert metrics.hits("l2", vectors, origin, -np.inf).tolist() == []


def test_cosines_are_compared_before_rounding_and_include_the_boundary():
    vectors = np.array([[3, 4], [4, 3], [-3, 4], [1, 2.0**-40], [0, 2]], np.float32)
    q = np.array([2, 0], np.float32)
    for tau, expected in [
        (1.0, []),
        (np.nextafter(1.0, 0), [3]),
        (0.75, [1, 3]),
        (0.0, [0, 1, 3, 4]),
        (5e-324, [0, 1, 3]),
        (-0.0, [0, 1, 3, 4]),
        (-0.5, [0, 1, 3, 4]),
        (-0.625, [0, 1, 2, 3, 4]),
        (np.inf, []),
        (-np.inf, [0, 1, 2, 3, 4]),
    ]:
        assert metrics.hits("cosine", vectors, q, tau).tolist() == expected
