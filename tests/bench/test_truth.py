"""Exact answers, found without the library: those of fractions and integers."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import metrics
from helpers.answers import rows

from halfspace.bench import exact_hits, gaussian, midpoints, recall_and_false, wrong_answers


def by_fractions(vectors, directions, taus):
    """Ids of each direction, in rational arithmetic."""

    def dot(q, x):
        return sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(q, x, strict=True))

    taus = np.broadcast_to(np.asarray(taus, np.float64), len(directions))
    return [
        [i for i, x in enumerate(vectors) if dot(q, x) >= t] for q, t in zip(directions, taus.tolist(), strict=True)
    ]


def cancelling(rng):
    """Large numbers that cancel, so that float64 sums are wrong; small ones decide."""
    half = rng.standard_normal((60, 4)).astype(np.float32) * np.float32(2.0**40)
    small = (rng.standard_normal((60, 1)) * 2.0**-30).astype(np.float32)
    return np.hstack([half, -half, small]), np.hstack([np.ones((3, 8)), 2.0 ** -np.arange(3)[:, None]]).astype(
        np.float32
    )


@pytest.mark.parametrize("kind", ["cancelling", "ties", "gaussian", "float16", "tiny"])
def test_truth_is_that_of_fractions(kind, integers):
    rng = np.random.default_rng(3)
    vectors, directions, taus = *cancelling(rng), [0.0, 0.0, 1e-12]
    if kind == "ties":
        vectors, directions, taus = integers[0][:80], integers[1][:3], [0.0, 3.0, np.nextafter(3.0, 4)]
    if kind in ("gaussian", "float16"):
        vectors, directions = (rng.standard_normal((n, 9)).astype(np.float32) for n in (60, 3))
        taus = [float(np.dot(directions[j].astype(float), vectors[j].astype(float))) for j in range(3)]
    if kind == "float16":
        vectors, directions = vectors.astype(np.float16), directions.astype(np.float16)
    if kind == "tiny":
        vectors, directions, taus = vectors * np.float32(2.0**-149), directions, [5e-324, 0.0, -5e-324]
    assert rows(exact_hits(vectors, directions, taus)) == by_fractions(vectors, directions, taus)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", ["cancelling", "ties", "gaussian", "float16", "tiny", "huge"])
def test_truth_of_metrics_is_that_of_integers(kind, metric, integers):
    """Thresholds are cosines and distances of stored vectors, and their neighbours."""
    rng = np.random.default_rng(3)
    vectors, directions = (rng.standard_normal((n, 9)).astype(np.float32) for n in (60, 3))
    if kind == "cancelling":
        vectors, directions = cancelling(rng)
    if kind == "ties":
        vectors, directions = integers[0][:80], integers[1][:3]
    if kind in ("tiny", "huge"):
        vectors, directions = (
            part * np.float32(2.0 ** (-140 if kind == "tiny" else 120)) for part in (vectors, directions)
        )
    vectors, directions = metrics.nonzero(vectors, directions)
    if kind == "float16":
        vectors, directions = vectors.astype(np.float16), directions.astype(np.float16)
    directions[0] = vectors[7]
    for q in directions:
        for tau in [
            *metrics.boundary_taus(metric, rng, vectors, q, 2),
            0.0,
            -1.0,
            1.0,
            np.inf,
            -np.inf,
            1e-200,
            -1e-200,
        ]:
            found = exact_hits(vectors, q[None], tau, metric)
            assert rows(found) == [metrics.hits(metric, vectors, q.astype(np.float32), tau).tolist()]


def test_truth_at_the_ends():
    x = gaussian(50, 4, 0)
    assert rows(exact_hits(x, x[:3], [-np.inf, np.inf, 1e300])) == [list(range(50)), [], []]
    assert rows(exact_hits(x[:0], x[:2], 0.0)) == [[], []]
    for wrong in ((x.astype(np.float64), x), (x, x.astype(np.int64))):
        with pytest.raises(TypeError, match="must be float32 or float16"):
            exact_hits(*wrong, 0.0)


def test_truth_in_parts(monkeypatch, integers):
    whole = exact_hits(*integers, 2.0)
    taus = midpoints(*integers, 0.1)
    monkeypatch.setattr("halfspace.bench.truth._PAIRS", 100)
    assert rows(exact_hits(*integers, 2.0)) == rows(whole)
    np.testing.assert_array_equal(midpoints(*integers, 0.1), taus)


def test_midpoints_give_the_share():
    x, q = gaussian(1000, 8, 1), gaussian(7, 8, 2)
    for share, k in ((0.01, 10), (1e-9, 1), (0.5, 500), (1.0, 1000)):
        np.testing.assert_array_equal(np.diff(exact_hits(x, q, midpoints(x, q, share))[0]), k)
    for share in (0.0, -1.0, 1.1, np.nan):
        with pytest.raises(ValueError, match="share must be"):
            midpoints(x, q, share)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_midpoints_of_metrics_give_the_share(metric):
    x, q = gaussian(1000, 8, 1), gaussian(7, 8, 2)
    for share, k in ((0.01, 10), (0.5, 500), (1.0, 1000)):
        np.testing.assert_array_equal(np.diff(exact_hits(x, q, midpoints(x, q, share, metric), metric)[0]), k)


def test_answers_are_judged():
    truth = np.array([0, 2, 2, 3]), np.array([4, 7, 1])
    assert recall_and_false(truth, truth) == (1.0, 0)
    found = np.array([0, 3, 4, 4]), np.array([7, 4, 4, 9])  # one twice, one too many, one missing
    assert recall_and_false(found, truth) == (2 / 3, 2)
    assert wrong_answers(found, truth) == 3
    shuffled = np.array([0, 2, 2, 3]), np.array([7, 4, 1])
    assert wrong_answers(shuffled, truth) == 0
    none = np.array([0, 0]), np.array([], np.int64)
    assert recall_and_false(none, none) == (1.0, 0)
