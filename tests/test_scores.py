"""Scores as thresholds, against the rounding of rationals."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import metrics, reference
from helpers.checking import build
from hypothesis import given
from hypothesis import strategies as st

from halfspace import HalfspaceIndex, threshold_of

MOST = np.finfo(np.float32).max
LEAST = np.float32(1e-45)
FLOATS = [0.0, -0.0, LEAST, -LEAST, 2.0**-126, -(2.0**-126), 1.0, -1.0, 0.99999997, 0.1, MOST, -MOST, np.inf, -np.inf]
STEP = Fraction(1, 2**400)


def rounded(number):
    """The float32 that a rational number is rounded to, by the oracle."""
    scaled = number * 2**500
    return reference.from_bits([reference.encode(int(scaled), -500, "float32")], "float32")[0]


def check(score):
    tau = threshold_of(score)
    assert type(tau) is float
    if tau == -np.inf:
        assert score == -np.inf
        return
    limit = Fraction(tau)
    assert rounded(limit + STEP) == score  # what is above it, however little, may have that score
    assert rounded(limit - STEP) < score  # what lies below has another one


@pytest.mark.parametrize("score", FLOATS)
def test_the_threshold_of_a_score_is_the_end_of_what_rounds_to_it(score):
    check(np.float32(score))
    check(float(np.float32(score)))


@given(st.floats(width=32, allow_nan=False))
def test_any_score(score):
    check(score)


@given(st.floats(width=32, allow_nan=False, min_value=0.0))
def test_the_radius_of_a_distance_is_the_end_of_what_rounds_to_it(score):
    radius = threshold_of(score, "l2")
    if radius == np.inf:
        assert score == np.inf
        return
    assert rounded(Fraction(radius) - STEP) == score
    assert rounded(Fraction(radius) + STEP) > score


def test_metrics_of_scores():
    assert threshold_of(0.5, "cosine") == threshold_of(0.5, metric="ip") == threshold_of(0.5)
    assert threshold_of(np.array([2.0, 3.0], np.float32), "l2").tolist() == [
        threshold_of(2.0, "l2"),
        threshold_of(3.0, "l2"),
    ]
    with pytest.raises(ValueError, match=r"must be a distance, got -1\.0"):
        threshold_of([0.5, -1.0], "l2")
    with pytest.raises(ValueError, match="metric must be one of"):
        threshold_of(0.5, "euclidean")


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_no_vector_with_that_cosine_or_distance_is_lost(metric, rng):
    vectors = rng.standard_normal((500, 3)).astype(np.float32)
    index = HalfspaceIndex(3, metric=metric)
    index.insert(vectors)
    lost = 0
    for q in vectors[:30]:
        _, scores = metrics.one(metric, vectors, q, np.inf if metric == "l2" else -np.inf)
        for score in np.sort(scores)[[1, 250, 498]]:
            same = (scores <= score if metric == "l2" else scores >= score).sum()
            lost += index.count(q, score) < same
            assert index.count(q, threshold_of(score, metric)) == same
    assert lost > 5


def test_arrays_and_what_is_refused():
    scores = np.array([[0.5, 1.0], [-2.0, np.inf]], np.float32)
    found = threshold_of(scores)
    assert found.dtype == np.float64
    assert found.tolist() == [[threshold_of(float(score)) for score in row] for row in scores]
    assert threshold_of(np.empty((0, 3), np.float32)).shape == (0, 3)
    with pytest.raises(ValueError, match=r"float32 number, as hits have them, got 0\.1"):
        threshold_of(0.1)
    with pytest.raises(ValueError, match="float32 number"):
        threshold_of(1e300)
    with pytest.raises(ValueError, match="nan"):
        threshold_of(np.array([1.0, np.nan], np.float32))
    with pytest.raises(ValueError, match="nan"):
        threshold_of(float("nan"))
    with pytest.raises(TypeError, match="floating-point"):
        threshold_of(np.array([1]))
    with pytest.raises(TypeError):
        threshold_of("1.0")
    with pytest.raises(TypeError):
        threshold_of(np.ma.masked_array([1.0, 2.0], [True, False]))
    assert threshold_of(np.float64(0.5)) == threshold_of(0.5)
    assert threshold_of([0.5, 1.0]).tolist() == [threshold_of(0.5), threshold_of(1.0)]
    assert threshold_of(torch.tensor([0.5])).tolist() == [threshold_of(0.5)]


def test_no_vector_with_that_score_is_lost(rng):
    """A score as tau loses about half of those that have it; its threshold loses none, and takes no lower score in."""
    vectors = rng.standard_normal((3000, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = build(vectors)
    lost = 0
    for q in vectors[:40]:
        hits = index.query(q, -np.inf, sort=True)
        score = hits[0].score
        same = int((hits.scores == np.float32(score)).sum())
        lost += index.count(q, score) < same
        assert index.count(q, threshold_of(score)) == same
    assert lost > 5


@pytest.mark.gpu
def test_scores_of_a_gpu_stay_there(gpu):
    scores = gpu.xp.asarray(np.array([0.5, 1.0], np.float32))
    found = threshold_of(scores)
    assert isinstance(found, gpu.xp.ndarray)
    assert found.get().tolist() == [threshold_of(0.5), threshold_of(1.0)]
