"""Cosines and distances, read and decided exactly: sets in real arithmetic, and scores rounded once."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import metrics, reference
from helpers.cascade import prepared
from helpers.checking import DTYPES, equal
from helpers.families import EXTREME_TAUS, FAMILIES
from numba import njit

from halfspace import HalfspaceIndex, cpu
from halfspace.cpu import directions, exact
from halfspace.cpu.job import DROP, LOOK, TAKE
from halfspace.cpu.metrics import cosine, euclidean
from halfspace.model import rounding
from halfspace.model.formats import as_bits
from halfspace.model.metrics import Metric

every_metric = pytest.mark.parametrize("metric", ["cosine", "l2"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_family = pytest.mark.parametrize("family", FAMILIES)


def build(vectors, metric, dtype="float32", compact=True):
    index = HalfspaceIndex(vectors.shape[1], metric=metric, filter="scan", dtype=dtype)
    index.insert(vectors)
    if compact:
        index.compact()
    return index


def check(metric, index, vectors, points, taus):
    """Hold a batch, its count, and a single question against the oracle; how many pairs were compared."""
    expected = metrics.query(metric, vectors, points, taus)
    hits = index.query(points, taus)
    for ours, theirs in zip(hits, expected, strict=True):
        equal(ours, theirs)
    assert index.count(points, taus).tolist() == [len(found) for found, _ in expected]
    assert index.query(points, taus, scores=False).ids.tolist() == hits.ids.tolist()
    equal(index.query(points[0], float(np.broadcast_to(taus, len(points))[0])), expected[0])
    return len(vectors) * len(points)


def exact_tests(index, point, tau):
    """How many vectors were decided by `decide_hairline`."""
    return sum(stage.tested for stage in index.explain(point, tau).stages if stage.name == "exact")


@every_metric
@pytest.mark.parametrize("family", FAMILIES[::3])
@pytest.mark.parametrize("d", [127, 128, 129, 1030])
def test_dimensions(metric, family, d, rng):
    vectors, points = metrics.made(metric, family, rng, 10, d, 1, "float32")
    taus = np.concatenate([metrics.boundary_taus(metric, rng, vectors, points[0], 2), [0.0, 1.0, 1e9]])
    check(metric, build(vectors, metric), vectors, np.repeat(points, len(taus), axis=0), taus)


@every_metric
@every_dtype
def test_points_that_are_stored(metric, dtype, rng):
    """And their neighbours, twins and opposites: distances of 0, cosines of 1 and -1."""
    for family in FAMILIES:
        vectors, _ = metrics.made(metric, family, rng, 12, 5, 1, dtype)
        vectors = np.concatenate([vectors, vectors, -vectors])
        points = vectors[rng.integers(0, len(vectors), 3)].astype(np.float32)
        points = reference.store(vectors[rng.integers(0, len(vectors), 3)], "float32")
        taus = np.array([1.0, np.nextafter(1.0, 0), -1.0, np.nextafter(-1.0, 0), *EXTREME_TAUS])
        batch = np.repeat(points, len(taus), axis=0)
        assert check(metric, build(vectors, metric, dtype), vectors, batch, np.tile(taus, 3)) > 0


@pytest.mark.parametrize(
    ("metric", "vectors", "point", "tau", "ids", "scores"),
    [
        ("l2", [[3, 4], [0, 5], [5, 2.0**-40]], [0, 0], 5.0, [0, 1], [5, 5]),
        ("l2", [[3, 4], [0, 5], [5, 2.0**-40]], [0, 0], np.nextafter(5, 6), [0, 1, 2], [5, 5, 5]),
        ("l2", [[3, 4], [0, 5]], [0, 0], np.nextafter(5, 0), [], []),
        ("l2", [[1, 1]], [0, 0], np.sqrt(2.0), [0], [np.sqrt(2.0)]),  # which is above the root
        ("l2", [[1, 1], [1, 0]], [0, 0], np.nextafter(np.sqrt(2.0), 0), [1], [1]),
        ("l2", [[1e30, 1], [1e30, 2]], [1e30, 0], 1.5, [0], [1]),
        ("l2", [[1e-30], [0]], [0], 1e-31, [1], [0]),
        ("l2", [[1e-45], [0], [-1e-45]], [0], 2.0**-149, [0, 1, 2], [1e-45, 0, 1e-45]),
        ("l2", [[1e-45], [0], [-1e-45]], [0], np.nextafter(2.0**-149, 0), [1], [0]),
        ("l2", [[1e-45], [0], [-1e-45]], [1e-45], 0.0, [0], [0]),
        ("l2", [[1e-45], [0], [-1e-45]], [1e-45], -0.0, [0], [0]),
        ("l2", [[1e-45], [0]], [1e-45], -5e-324, [], []),
        ("l2", [[3e38], [0]], [-3e38], np.inf, [0, 1], [np.inf, 3e38]),
        ("l2", [[3e38], [0]], [-3e38], 1e300, [0, 1], [np.inf, 3e38]),
        ("l2", [[3e38], [0]], [-3e38], 5e38, [1], [3e38]),
        ("l2", [[2.0**26 + 8], [0]], [1], 2.0**26 + 7, [0, 1], [2.0**26 + 8, 1]),
        ("l2", [[0, 0]], [2.0**24 + 2, 2.0**12], 2.0**24 + 2.5, [0], [2.0**24 + 2]),
        ("cosine", [[1, 1], [-1, 1], [-1, -1]], [1, 1], 1.0, [0], [1]),
        ("cosine", [[1, 1], [-1, 1], [-1, -1]], [1, 1], 0.0, [0, 1], [1, 0]),
        ("cosine", [[1, 1], [-1, 1], [-1, -1]], [1, 1], 5e-324, [0], [1]),
        ("cosine", [[1, 1], [-1, 1], [-1, -1]], [1, 1], -5e-324, [0, 1], [1, 0]),
        ("cosine", [[1, 1], [-1, 1], [-1, -1]], [1, 1], -1.0, [0, 1, 2], [1, 0, -1]),
        ("cosine", [[1, 1], [-1, 1], [-1, -1]], [1, 1], np.nextafter(-1, 0), [0, 1], [1, 0]),
        ("cosine", [[1, 1], [2, 1]], [1, 0], 1 / np.sqrt(2.0), [0, 1], [1 / np.sqrt(2.0), 2 / np.sqrt(5.0)]),
        ("cosine", [[3, 4], [3, 4.000001]], [5, 0], 0.6, [0], [0.6]),  # the float is below three fifths
        ("cosine", [[4, 3], [4, 2.5]], [5, 0], 0.8, [1], [4 / np.hypot(4, 2.5)]),  # and this one above four
        ("cosine", [[3, 4], [4, 3]], [1, 0], 0.75, [1], [0.8]),
        ("cosine", [[1, 2.0**-149], [1, 0]], [1, 0], 1.0, [1], [1]),
        ("cosine", [[1, 2.0**-149], [1, 0]], [1, 0], np.nextafter(1, 0), [0, 1], [1, 1]),
        ("cosine", [[3e38, 3e38]], [3e38, 3e38], 1.0, [0], [1]),
        ("cosine", [[1e-45, 0]], [1e-45, 0], 1.0, [0], [1]),
        ("cosine", [[-1e-45, 1], [1e-45, 3e38]], [1, 0], -1e-300, [1], [0]),
        ("cosine", [[-1e-45, 3e38], [1e-45, 3e38]], [1, 0], -1e-40, [0, 1], [-0.0, 0]),
        ("cosine", [[1, 0], [0, 1]], [1, 0], np.inf, [], []),
        ("cosine", [[1, 0], [0, 1]], [1, 0], -np.inf, [0, 1], [1, 0]),
        ("cosine", [[1, 0], [0, 1]], [1, 0], np.nextafter(1, 2), [], []),
    ],
)
def test_cases_worked_out_by_hand(metric, vectors, point, tau, ids, scores):
    index, point = build(np.array(vectors, np.float32), metric), np.array(point, np.float32)
    equal(index.query(point, tau), (np.array(ids), np.array(scores, np.float32)))
    assert index.count(point, tau) == len(ids)


@every_metric
def test_ties_of_integers(metric, rng):
    """Every radius is a distance, every threshold a cosine: Pythagorean numbers, which float64 has."""
    a, b = rng.integers(-20, 21, (2, 200))
    sides = np.stack([a * a - b * b, 2 * a * b, a * a + b * b], axis=1)[(a != 0) & (b != 0)]
    vectors = rng.permuted(sides[:, :2], axis=1).astype(np.float32)
    point = np.array([1, 0], np.float32) if metric == "cosine" else np.zeros(2, np.float32)
    values = vectors[:, 0] / sides[:, 2] if metric == "cosine" else sides[:, 2]
    index = build(vectors, metric)
    for tau in np.unique(values)[:40]:
        for threshold in (np.nextafter(tau, -np.inf), tau, np.nextafter(tau, np.inf)):
            equal(index.query(point, threshold), metrics.one(metric, vectors, point, threshold))


@every_metric
def test_radii_between_two_float64(metric, rng):
    """The nearest float64 to a score is below it or above: both must come."""
    vectors, points = FAMILIES[0](rng, 200, 9, 1, "float32")
    index, at = build(vectors, metric), metrics.measures(metric, vectors, points[0])
    taus = metrics.roots(at, "float64")
    missed = 0
    for k in range(len(vectors)):
        own = tuple(part[k : k + 1] for part in at[:2]) + at[2:]
        reached = metrics.reaches(metric, own, taus[k])[0]
        assert (k in index.query(points[0], taus[k]).ids) == reached
        assert exact_tests(index, points[0], taus[k]) >= 1
        missed += not reached
    assert 40 < missed < 160


@every_metric
@every_dtype
def test_few_vectors_need_integers(metric, dtype, rng):
    vectors, points = FAMILIES[0](rng, 5000, 64, 1, dtype)
    index = build(vectors, metric, dtype)
    at = metrics.roots(metrics.measures(metric, vectors[:100], points[0]))
    for tau in np.sort(at.astype(np.float64))[[20, 50, 80]] + 1e-9:
        assert 500 < index.count(points[0], tau) < 4500
        assert exact_tests(index, points[0], tau) == 0


def test_integers_need_no_long_sums_for_distances(rng):
    vectors = rng.integers(-3, 4, (2000, 16)).astype(np.float32)
    point = rng.integers(-3, 4, 16).astype(np.float32)
    index = build(vectors, "l2")
    for square in (36, 64, 75, 100):
        assert index.count(point, np.sqrt(square)) > 0
        assert exact_tests(index, point, np.sqrt(square)) == 0


@every_metric
def test_nearest_first(metric, rng):
    vectors, points = metrics.made(metric, FAMILIES[1], rng, 300, 5, 2, "float32")
    index = build(vectors, metric)
    tau = 0.2 if metric == "cosine" else 7.5
    for point in points:
        ids, scores = metrics.one(metric, vectors, point, tau)
        assert len(ids) > 20
        equal(index.query(point, tau, sort=True), metrics.best(metric, ids, scores))
        equal(index.query(point, tau, sort=True, limit=7), metrics.best(metric, ids, scores, 7))


def test_directions_without_a_cosine_are_refused_by_row():
    index = build(np.eye(3, dtype=np.float32), "cosine")
    with pytest.raises(ValueError, match=r"directions\[1\] is zero"):
        index.query([[1, 0, 0], [0, 0, 0], [0, 1, 0]], 0.5)
    with pytest.raises(ValueError, match=r"is zero"):
        index.count([0, -0.0, 0], 0.5)
    with pytest.raises(ValueError, match=r"directions\[0, 2\] is inf"):
        index.query([[1, 0, np.inf]], 0.5)
    assert build(np.eye(3, dtype=np.float32), "l2").count([0, 0, 0], 1.0) == 3


# The lemmas


@njit
def _verdicts_of_cosines(vectors, norms, direction, verdicts):
    cosine.classify_rows(vectors, norms.ctypes.data, direction, (0, verdicts.size), verdicts)


@njit
def _verdicts_of_distances(vectors, norms, direction, verdicts):
    euclidean.classify_rows(vectors, norms.ctypes.data, direction, (0, verdicts.size), verdicts)


@every_metric
@every_family
@every_dtype
def test_verdicts_of_a_scan_are_true(metric, family, dtype, rng):
    vectors, points = metrics.made(metric, family, rng, 100, 13, 2, dtype)
    stored = as_bits(np.ascontiguousarray(vectors))
    norms, _ = cpu.measure(stored[None], 1)
    classify = _verdicts_of_cosines if metric == "cosine" else _verdicts_of_distances
    for q in points:
        for tau in [*metrics.boundary_taus(metric, rng, vectors, q, 3), *EXTREME_TAUS]:
            hit = np.isin(np.arange(100), metrics.hits(metric, vectors, q, tau))
            ready, verdicts = prepared(q[None], tau, metric), np.empty(100, np.int32)
            classify(stored, norms[0], ready.records[0], verdicts)
            assert not hit[verdicts == DROP].any()
            assert hit[verdicts == TAKE].all()
            assert set(verdicts.tolist()) <= {DROP, LOOK, TAKE}


@every_metric
def test_a_scan_decides_most(metric, rng):
    vectors, points = FAMILIES[0](rng, 1000, 64, 1, "float32")
    norms, _ = cpu.measure(vectors[None], 1)
    classify, level = (_verdicts_of_cosines, 0.2) if metric == "cosine" else (_verdicts_of_distances, 11.0)
    ready = prepared(points, level, metric)
    verdicts = np.empty(1000, np.int32)
    classify(vectors, norms[0], ready.records[0], verdicts)
    assert np.count_nonzero(verdicts == LOOK) < 3
    assert min(np.count_nonzero(verdicts == DROP), np.count_nonzero(verdicts == TAKE)) > 30


@njit
def _square(values, out):
    for k in range(values.size):
        out[k, 0], out[k, 1] = directions._square(values[k])


@njit
def _reachable(tau, metric):
    return exact.reachable(tau, metric)


def test_squares_have_no_error(rng):
    values = np.concatenate([np.ldexp(rng.random(2000), rng.integers(-148, 200, 2000)), [2.0**-149, 2.0**200]])
    out = np.empty((len(values), 2))
    _square(values, out)
    for value, (square, low) in zip(values.tolist(), out.tolist(), strict=True):
        assert Fraction(square) + Fraction(low) == Fraction(value) ** 2
        assert square == value * value


def test_thresholds_are_brought_to_where_scores_are():
    least = 2.0**-600
    cosines = [(0.5, 0.5), (1.0, 1.0), (np.nextafter(1, 2), np.inf), (-1.0, -np.inf), (-np.inf, -np.inf)]
    cosines += [(np.inf, np.inf), (5e-324, least), (least, least), (-5e-324, 0.0), (-least, -least), (0.0, 0.0)]
    for tau, expected in cosines:
        assert _reachable(tau, int(Metric.COSINE)) == expected
    distances = [(-0.5, -0.5), (5e-324, np.inf), (1.0, np.inf), (np.inf, np.inf), (-np.inf, -np.inf)]
    distances += [(0.0, 0.0), (-0.0, 0.0), (-5e-324, 0.0), (-(2.0**-149), -(2.0**-149)), (-(2.0**200), -np.inf)]
    for tau, expected in distances:
        assert _reachable(tau, int(Metric.L2)) == expected


def test_thresholds_of_sums_pay_for_their_slope(rng):
    slope, intercept = rounding.distance32_slope(64), rounding.distance32_intercept(64)
    for radius in [0.0, *np.ldexp(1.0 + rng.random(50), rng.integers(-149, 199, 50)).tolist()]:
        within = rounding.sum32_within(radius, slope, intercept)
        beyond = rounding.sum32_beyond(radius, slope, intercept)
        r, s, i = map(Fraction, (radius, slope, intercept))
        if within >= 0.0:
            assert Fraction(within) * (1 + s) ** 2 <= (r - i) ** 2
        if beyond < np.inf:
            assert Fraction(beyond) * (1 - s) ** 2 >= (r + i) ** 2
        assert within < beyond
    assert rounding.sum32_within(-np.inf, slope, intercept) == rounding.sum32_beyond(-np.inf, slope, intercept) == -1.0
    assert rounding.sum32_within(np.inf, slope, intercept) == rounding.sum32_beyond(np.inf, slope, intercept) == np.inf
    assert rounding.sum32_within(1.0, np.inf, intercept) == -1.0
    assert rounding.sum32_beyond(1.0, np.inf, intercept) == np.inf


def test_more_than_float64_can_see():
    """A sum of squares that float64 cuts off, and a cosine of which only integers tell that it is not 1."""
    vectors = np.full((2, 1000), 2.0**-30, np.float32)
    vectors[:, 0] = 1
    vectors[1, -1] = 0
    origin = np.zeros(1000, np.float32)
    (square, other), _, exponent = metrics.distances(vectors, origin)
    assert square > other
    radius = metrics.roots(([other], [1], exponent), "float64")[0]
    index = build(vectors, "l2")
    for tau in (radius, np.nextafter(radius, 2), np.nextafter(radius, 0)):
        equal(index.query(origin, tau), metrics.one("l2", vectors, origin, tau))
    near = np.array([[1, 2.0**-40], [1, 0], [-1, 2.0**-40]], np.float32)
    index = build(near, "cosine")
    for tau in (1.0, np.nextafter(1.0, 0), np.nextafter(-1.0, 0)):
        equal(index.query([1, 0], tau), metrics.one("cosine", near, np.array([1, 0], np.float32), tau))
