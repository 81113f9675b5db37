"""The promise: exactly the vectors whose real dot product reaches tau, scores rounded once, on the worst of data."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, EXTENDED, build, build_each, check, equal, identical
from helpers.families import EXTREME_TAUS, FAMILIES, boundary_taus, pairs
from hypothesis import given
from hypothesis import strategies as st

every_filter = pytest.mark.parametrize("filter", EXTENDED)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_dtype
def test_ten_thousand_adversarial_comparisons(dtype, rng):
    compared = 0
    for family in FAMILIES:
        for d in (1, 2, 3, 17):
            vectors, directions = family(rng, 33, d, 2, dtype)
            compared += check(build_each(vectors, dtype=dtype), vectors, *pairs(rng, vectors, directions))
    assert compared >= 10_000 * len(EXTENDED)


@every_dtype
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [1, 2, 3, 127, 128, 129, 4096])
def test_dimensions(family, d, dtype, rng):
    n, step = (8, 4) if d > 1000 else (20, 1)
    vectors, directions = family(rng, n, d, 2, dtype)
    directions, taus = pairs(rng, vectors, directions, k=1)
    indexes = build_each(vectors, dtype=dtype)
    assert check(indexes, vectors, directions[::step], taus[::step], faster=True) > 0


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097])
@pytest.mark.parametrize("compact", [True, False])
def test_sizes_around_blocks(n, compact, rng):
    for family, dtype in zip(FAMILIES, DTYPES * 4, strict=False):
        if n > 1000 and family in FAMILIES[5:-2]:
            continue
        vectors, directions = family(rng, n, 6, 1, dtype)
        indexes = build_each(vectors, dtype=dtype, compact=compact)
        taus = np.concatenate([boundary_taus(rng, vectors, directions[0], 2), [0.0, -np.inf]])
        compared = check(indexes, vectors, np.repeat(directions, len(taus), axis=0), taus, faster=True)
        assert compared == 8 * len(EXTENDED) * n


@every_dtype
def test_a_large_index(dtype, rng):
    vectors, directions = FAMILIES[0](rng, 5000, 128, 3, dtype)
    indexes = build_each(vectors, dtype=dtype)
    for q in directions:
        taus = np.concatenate([boundary_taus(rng, vectors, q, 2), [15.0, 30.0]])
        assert check(indexes, vectors, np.repeat(q[None], len(taus), axis=0), taus, faster=True) > 0


@pytest.mark.parametrize("family", FAMILIES)
@every_filter
@every_dtype
def test_options_agree_with_the_oracle(family, filter, dtype, rng):
    vectors, directions = family(rng, 80, 9, 3, dtype)
    index = build(vectors, filter=filter, dtype=dtype)
    directions, taus = pairs(rng, vectors, directions, k=1)
    expected = reference.query(vectors, directions, taus)
    batch = index.query(directions, taus)
    ranked, top = index.query(directions, taus, sort=True), index.query(directions, taus, sort=True, limit=5)
    few, plain = index.query(directions, taus, limit=5), index.query(directions, taus, scores=False)
    assert plain.scores is None
    for i, (ids, scores) in enumerate(expected):
        single = index.query(directions[i], taus[i])
        identical(single, batch[i])
        equal(single, (ids, scores))
        equal(ranked[i], reference.best(ids, scores))
        best = reference.best(ids, scores, 5)
        equal(top[i], best)
        equal(few[i], tuple(part[np.argsort(best[0])] for part in best))
        assert plain[i].ids.tolist() == ids.tolist()
        assert index.count(directions[i], taus[i]) == len(ids)
    for hits in (batch, ranked, top, few, plain):
        assert hits.totals.tolist() == index.count(directions, taus).tolist() == [len(ids) for ids, _ in expected]


SPECIAL32 = [0, 1, 2, 0x7FFFFF, 0x800000, 0x800001, 0x1FFFFFF, 0x3F800000, 0x3F800001, 0x33800000, 0x4B800000]
SPECIAL32 += [0x7149F2CA, 0x0DA24260, 0x5F000000, 0x1F800000, 0x7E967699, 0x7F7FFFFF]
PATTERNS = st.one_of(st.sampled_from(SPECIAL32 + [p | 1 << 31 for p in SPECIAL32]), st.integers(0, 2**32 - 1)).filter(
    lambda p: p >> 23 & 255 != 255
)


@st.composite
def spaces(draw):
    d = draw(st.integers(1, 9))
    row = st.lists(PATTERNS, min_size=d, max_size=d)
    vectors = draw(st.lists(row, min_size=1, max_size=20))
    return reference.from_bits(vectors, "float32"), reference.from_bits([draw(row)], "float32")


@given(spaces(), st.floats(allow_nan=False), st.integers(0, 2**32))
def test_any_floats_at_all(space, tau, seed):
    vectors, direction = space
    taus = [*boundary_taus(np.random.default_rng(seed), vectors, direction[0], 3).tolist(), tau]
    assert check(build_each(vectors), vectors, np.repeat(direction, len(taus), axis=0), taus) > 0


@given(
    family=st.sampled_from(FAMILIES),
    dtype=st.sampled_from(DTYPES),
    filter=st.sampled_from(EXTENDED),
    compact=st.booleans(),
    n=st.integers(1, 70),
    d=st.integers(1, 70),
    seed=st.integers(0, 2**32),
)
def test_any_family_shape_and_filter(family, dtype, filter, compact, n, d, seed):
    rng = np.random.default_rng(seed)
    vectors, directions = family(rng, n, d, 2, dtype)
    index = build(vectors, filter=filter, dtype=dtype, compact=compact)
    assert check([index], vectors, *pairs(rng, vectors, directions, k=2), faster=True) > 0


@every_filter
@pytest.mark.parametrize(
    ("vectors", "direction", "tau", "ids", "scores"),
    [
        ([[1e30, 1, -1e30], [1e30, -1, -1e30]], [1, 1, 1], 1, [0], [1]),
        ([[1e30, 1, -1e30]], [1, 1, 1], np.nextafter(1, 2), [], []),
        ([[3e38, 3e38], [3e38, -3e38], [-3e38, -3e38]], [3e38, 3e38], 0, [0, 1], [np.inf, 0]),
        ([[3e38, 3e38], [-3e38, -3e38]], [3e38, 3e38], -np.inf, [0, 1], [np.inf, -np.inf]),
        ([[3e38, 3e38]], [3e38, 3e38], 1e77, [0], [np.inf]),
        ([[3e38, 3e38]], [3e38, 3e38], 1e78, [], []),
        ([[1e-30], [-1e-30], [0]], [1e-30], 0, [0, 2], [0, 0]),
        ([[1e-30], [-1e-30], [0]], [1e-30], -5e-324, [0, 2], [0, 0]),
        ([[1e-30], [-1e-30], [0]], [1e-30], 5e-324, [0], [0]),
        ([[1e-30], [-1e-30], [0]], [1e-30], -1, [0, 1, 2], [0, -0.0, 0]),
        ([[1e-45], [-1e-45]], [1e-45], 0, [0], [0]),
        ([[1e-45, 1], [1e-45, 2]], [1, 0], 1e-45, [0, 1], [1e-45, 1e-45]),
        ([[0, 0], [-0.0, 0]], [1, -1], 0.0, [0, 1], [0, 0]),
        ([[0, 0], [-0.0, 0]], [1, -1], -0.0, [0, 1], [0, 0]),
        ([[1, 2], [-3, 4]], [0, 0], 0.0, [0, 1], [0, 0]),
        ([[1, 2], [-3, 4]], [0, 0], 5e-324, [], []),
        ([[1, 2], [-3, 4]], [0, 0], -5e-324, [0, 1], [0, 0]),
        ([[1, 2.0**-24], [1, 0]], [1, 1], 1 + 2.0**-30, [0], [1]),
    ],
)
def test_cases_worked_out_by_hand(vectors, direction, tau, ids, scores, filter):
    index = build(np.array(vectors, np.float32), filter=filter)
    equal(index.query(np.array(direction, np.float32), tau), (np.array(ids), np.array(scores, np.float32)))
    assert index.count(np.array(direction, np.float32), tau) == len(ids)


@every_filter
@every_dtype
@pytest.mark.parametrize("n", [1, 16, 100, 1000])
def test_every_vector_on_the_boundary(n, dtype, filter, rng):
    vectors, directions = FAMILIES[0](rng, 1, 33, 1, dtype)
    vectors = np.repeat(vectors, n, axis=0)
    index = build(vectors, filter=filter, dtype=dtype)
    at, above, below = boundary_taus(rng, vectors, directions[0], 1)
    product = reference.dot(directions[0], vectors[0])
    assert index.count(directions[0], below) == n
    assert index.count(directions[0], above) == 0
    assert index.count(directions[0], at) == (n if product >= Fraction(float(at)) else 0)
    whole = np.ones_like(directions[0])  # few bits on either side: the boundary is a float64
    vectors = np.full((n, 33), 0.75, reference.DTYPES[dtype])
    index = build(vectors, filter=filter, dtype=dtype)
    assert index.count(whole, 24.75) == n
    assert index.count(whole, np.nextafter(24.75, 25)) == 0


SOURCES = ["float64", "float32", "float16", "bfloat16", "int64", "int8", "uint8", "uint64"]


@every_dtype
@pytest.mark.parametrize("source", SOURCES)
def test_insert_rounds_once_to_nearest_even(source, dtype, rng):
    if source in reference.DTYPES:
        low = 120 if dtype == "float16" else 0  # float16 has no room for the scales of the others
        values = np.concatenate(
            [rng.standard_normal(400), np.ldexp(rng.standard_normal(400), rng.integers(low - 150, 10, 400))]
        )
        with np.errstate(under="ignore", over="ignore"):
            values = values.astype(reference.DTYPES[source])
        ties = (2 * np.arange(200) + 1) * 2.0**-9  # between two bfloat16; scaled, between two subnormal float16
        values = np.concatenate([values, ties.astype(values.dtype), (ties * 2.0**-16).astype(values.dtype)])
        if source == "float64":
            nudge = 1 + rng.choice([2.0**-40, 2.0**-52, -(2.0**-40), 0], (3, ties.size))  # which float32 cannot see
            values = np.concatenate([values, *([1 + 2 * ties, 1 + ties / 4, 1 + ties * 2.0**-16] * nudge)])
    else:
        info = np.iinfo(source)
        top = min(info.max, 60_000 if dtype == "float16" else info.max)
        values = rng.integers(max(info.min, -top), top, 1000, dtype=source)
        if info.bits == 64 and dtype != "float16":
            values[:100] = (1 << 40) + ((1 << 32) if dtype == "bfloat16" else (1 << 16)) + np.arange(-50, 50)
    vectors = values[: len(values) // 8 * 8].reshape(-1, 8)
    index = build(vectors, dtype=dtype)
    ours = index.vectors(np.arange(len(vectors)))
    assert ours.dtype == reference.DTYPES[dtype]
    np.testing.assert_array_equal(reference.bits(ours), reference.bits(reference.store(vectors, dtype)))


@pytest.mark.parametrize("source", ["float64", "float16", "bfloat16", "int64", "uint8"])
def test_a_direction_is_rounded_to_float32_first(source, rng):
    vectors = rng.integers(-3, 4, (50, 4)).astype(np.float32)
    values = (100 * (1 + rng.random((6, 4)))).astype(reference.DTYPES.get(source, source))
    if source == "int64":
        values += 1 << 40
    if source == "float64":
        values[0] = [1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-50, 1 + 3 * 2.0**-24, 2.0**-149 * 0.75]
    converted = reference.store(values, "float32")
    index = build(vectors)
    for q, stored in zip(values, converted, strict=True):
        taus = boundary_taus(rng, vectors, stored, 3)
        batch = index.query(np.repeat(q[None], len(taus), axis=0), taus)
        for ours, theirs in zip(batch, reference.query(vectors, [stored] * len(taus), taus), strict=True):
            equal(ours, theirs)


def test_extreme_taus_as_one_scalar_for_a_batch(rng):
    vectors, directions = FAMILIES[8](rng, 64, 5, 7, "float32")
    indexes = build_each(vectors)
    for tau in EXTREME_TAUS:
        assert check(indexes, vectors, directions, tau) == len(indexes) * 64 * 7
    for index in indexes:
        assert index.query(directions, np.inf).ids.size == 0
        assert index.query(directions, -np.inf).ids.size == 64 * 7
