"""The k best, by the oracle: real scores, ties by id, for every metric, filter and format."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from helpers import metrics, reference
from helpers.checking import DTYPES, EXTENDED, build, build_each
from helpers.families import FAMILIES

import halfspace.nearest as nearest_module
from halfspace import HalfspaceIndex
from halfspace.backend import load
from halfspace.model.arrays import host
from halfspace.model.filters import FILTERS
from halfspace.model.metrics import Metric
from halfspace.model.question import Question
from halfspace.state import snapshot


def expected(vectors, q, k, ids=None, tau=-np.inf):
    """Ids of the k best, and their rounded scores."""
    ids = np.arange(len(vectors)) if ids is None else np.asarray(ids)
    products, exponent = reference.dots(vectors, q)
    reached = np.flatnonzero(reference.reaches(products, exponent, tau))
    best = sorted(reached.tolist(), key=lambda row: (-products[row], ids[row]))[:k]
    scores = [reference.encode(products[row], exponent, "float32") for row in best]
    return ids[best].tolist(), reference.from_bits(scores, "float32") if scores else np.empty(0, np.float32)


def nearest(metric, vectors, q, k, ids=None, tau=None):
    """Ids of the k nearest by cosine or distance, and their rounded scores."""
    ids = np.arange(len(vectors)) if ids is None else np.asarray(ids)
    squares = numerators, denominators, exponent = metrics.measures(metric, vectors, q)
    reached = range(len(vectors)) if tau is None else np.flatnonzero(metrics.reaches(metric, squares, tau)).tolist()
    keys = [Fraction(n, d) for n, d in zip(numerators, denominators, strict=True)]
    sign = 1 if metric == "l2" else -1
    best = sorted(reached, key=lambda row: (sign * keys[row], ids[row]))[:k]
    return ids[best].tolist(), metrics.roots((numerators[best], denominators[best], exponent))


def build_metric(metric, vectors, *, filter="auto", dtype="float32", ids=None):
    index = HalfspaceIndex(vectors.shape[1], metric=metric, filter=filter, dtype=dtype)
    index.insert(vectors, ids=ids)
    index.compact()
    return index


def suited(metric, dim):
    """Filters that know a metric."""
    return [name for name in EXTENDED if name == "auto" or FILTERS[name].why_not(dim, metric) is None]


def same(hits, answer):
    ids, scores = answer
    assert hits.ids.tolist() == ids
    assert reference.bits(hits.scores).tolist() == reference.bits(np.asarray(scores, np.float32)).tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_k_best_are_found_in_order(family, dtype, rng):
    vectors, directions = family(rng, 60, 7, 3, dtype)
    indexes = build_each(vectors, dtype=dtype, ids=(ids := rng.permutation(500)[:60] - 40))
    for k in (1, 5, 60, 100):
        answers = [expected(vectors, q, k, ids) for q in directions]
        for index in indexes:
            for own, answer in zip(index.search(directions, k), answers, strict=True):
                same(own, answer)
            same(index.search(directions[0], k), answers[0])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_k_nearest_are_found_in_order(family, dtype, metric, rng):
    vectors, directions = metrics.nonzero(*family(rng, 50, 7, 2, dtype))
    directions[0] = vectors[3].astype(np.float32)
    ids = rng.permutation(500)[:50] - 40
    indexes = [build_metric(metric, vectors, filter=name, dtype=dtype, ids=ids) for name in suited(metric, 7)]
    taus = [metrics.boundary_taus(metric, rng, vectors, q, 1)[0] for q in directions]
    for k in (1, 5, 100):
        answers = [nearest(metric, vectors, q, k, ids) for q in directions]
        limited = [nearest(metric, vectors, q, k, ids, tau) for q, tau in zip(directions, taus, strict=True)]
        for index in indexes:
            for own, answer in zip(index.search(directions, k), answers, strict=True):
                same(own, answer)
            for own, answer in zip(index.search(directions, k, tau=taus), limited, strict=True):
                same(own, answer)


@pytest.mark.parametrize("filter", EXTENDED)
def test_more_vectors_than_the_sample(filter, rng, monkeypatch):
    monkeypatch.setattr(snapshot, "SAMPLED", 200)
    vectors = (rng.standard_normal((5000, 6)) * rng.pareto(1.5, (5000, 1))).astype(np.float32)
    directions = rng.standard_normal((30, 6)).astype(np.float32)
    index = build(vectors[:4990], filter=filter)
    index.insert(vectors[4990:])
    index.delete(index.ids[::7])
    present = index.ids
    for k in (1, 10, 300):
        hits = index.search(directions, k, threads=2)
        assert hits.totals.tolist() == [k] * 30
        for q, own in zip(directions, hits, strict=True):
            same(own, expected(vectors[present], q, k, present))
    inside = present[::5]
    for q, own in zip(directions[:5], index.search(directions[:5], 20, within=inside), strict=True):
        same(own, expected(vectors[inside], q, 20, inside))
    mask = np.zeros(5000, np.bool_)
    mask[inside] = True
    same(index.search(directions[0], 20, within=mask), expected(vectors[inside], directions[0], 20, inside))


def test_a_sample_that_misleads_is_repaired(rng, monkeypatch):
    """The sample sees the lowest scores alone, or the highest: thresholds too low are slow, too high are lowered."""
    vectors = np.sort(rng.standard_normal((3000, 1)).astype(np.float32), axis=0)
    index = build(vectors)
    for part in (vectors[:50], vectors[-50:]):
        monkeypatch.setattr(snapshot.Snapshot, "sample", part.copy(), raising=True)
        for k in (1, 7, 100):
            same(index.search([1.0], k), expected(vectors, np.ones(1, np.float32), k))


def test_ties_in_float32_are_told_apart(rng, monkeypatch):
    """Scores that round to one float32, and differ: their order is that of real numbers, and then of ids."""
    monkeypatch.setattr("halfspace.nearest.AT_ONCE", 16)
    rest = rng.integers(-8, 9, (200, 3)).astype(np.float32) * np.float32(2.0**-30)
    vectors = np.concatenate([np.ones((200, 1), np.float32), rest], axis=1)
    vectors[::9] = vectors[0]
    q = np.array([1.0, 1.0, 2.0, -1.0], np.float32)
    index = build(vectors, ids=(ids := rng.permutation(200)))
    assert len(set(index.query(q, -np.inf).scores.tolist())) < 5
    for k in (1, 2, 30, 199, 200):
        same(index.search(q, k), expected(vectors, q, k, ids))
        same(index.search(q, k, tau=1.0), expected(vectors, q, k, ids, tau=1.0))


def test_scores_in_the_middle_between_two_float32_are_among_their_ties():
    """A product of 2^24 + 1 rounds to 2^24, and comes before those; a distance may lie there, too."""
    vectors = np.full((40, 2), 4096.0, np.float32)
    vectors[:, 1] = np.arange(40) >= 30
    q, index = np.array([4096.0, 1.0], np.float32), build(vectors)
    assert set(index.query(q, -np.inf).scores.tolist()) == {2.0**24}
    for k in (1, 5, 12, 40):
        for own in (q, -q):
            same(index.search(own, k), expected(vectors, own, k))
            same(index.search(np.stack([own, own]), k)[1], expected(vectors, own, k))
    vectors = np.full((5, 1), 1.0 - 2.0**-23, np.float32)
    vectors[3:] = 1.0
    q, index = np.array([-2.0], np.float32), build_metric("l2", vectors)
    assert set(index.query(q, np.inf).scores.tolist()) == {3.0}
    for k in (1, 2, 4):
        same(index.search(q, k), nearest("l2", vectors, q, k))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_ties_of_metrics_are_told_apart(metric, rng, monkeypatch):
    """Cosines and distances that round to one float32: those that differ, those that are equal, and zeros."""
    monkeypatch.setattr("halfspace.nearest.AT_ONCE", 16)
    rest = rng.integers(-3, 4, (200, 3)).astype(np.float32) * np.float32(2.0**-30)
    vectors = np.concatenate([np.ones((200, 1), np.float32), rest], axis=1)
    vectors[::9] = vectors[0]
    vectors[5::9] *= np.float32(2) if metric == "cosine" else np.float32(1)  # multiples have the same cosine
    ids = rng.permutation(200)
    index = build_metric(metric, vectors, ids=ids)
    for q in (
        np.array([1, 1, 2, -1], np.float32),
        np.array([1, 0, 0, 0], np.float32),
        np.array([0, 1, 1, 0], np.float32),
        np.array([0, 2.0**-149, 0, 0], np.float32),
        vectors[3],
    ):
        for k in (1, 2, 30, 199, 200):
            same(index.search(q, k), nearest(metric, vectors, q, k, ids))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_nearest_of_more_vectors_than_the_sample(metric, rng, monkeypatch):
    monkeypatch.setattr(snapshot, "SAMPLED", 200)
    vectors = (rng.standard_normal((3000, 6)) * rng.pareto(1.5, (3000, 1)) + 1).astype(np.float32)
    directions = rng.standard_normal((8, 6)).astype(np.float32)
    index = build_metric(metric, vectors)
    inside = np.arange(0, 3000, 5)
    for k in (1, 10, 300):
        hits = index.search(directions, k, threads=2)
        part = index.search(directions, k, within=inside)
        for q, own, kept in zip(directions, hits, part, strict=True):
            same(own, nearest(metric, vectors, q, k))
            same(kept, nearest(metric, vectors[inside], q, k, inside))


def test_thresholds_count_too(rng):
    vectors = rng.integers(-3, 4, (1000, 5)).astype(np.float32)
    directions = rng.integers(-2, 3, (4, 5)).astype(np.float32)
    index, tau = build(vectors), np.array([3.0, -np.inf, 12.0, np.inf])
    hits = index.search(directions, 40, tau=tau)
    for q, limit, own in zip(directions, tau, hits, strict=True):
        same(own, expected(vectors, q, 40, tau=limit))
    assert hits.totals.tolist() == np.diff(hits.offsets).tolist()
    same(index.search(directions[0], 40, tau=3.0), expected(vectors, directions[0], 40, tau=3.0))


def test_edges(rng):
    index = HalfspaceIndex(3)
    q = np.ones(3, np.float32)
    assert len(index.search(q, 5)) == 0
    assert index.search(q[None], 5).totals.tolist() == [0]
    assert len(index.search(np.empty((0, 3)), 5)) == 0
    index.insert([[1, 2, 3]], ids=[9])
    assert [(hit.id, hit.score) for hit in index.search(q, 5)] == [(9, 6.0)]
    assert len(index.search(q, 0)) == 0
    assert len(index.search(q, 1, within=[])) == 0
    for wrong, error in ((-1, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="k must be"):
            index.search(q, wrong)
    with pytest.raises(ValueError, match=r"directions\[0, 1\] is nan"):
        index.search([1, np.nan, 1], 2)
    with pytest.raises(KeyError, match="id 4 in within"):
        index.search(q, 1, within=[4])


@pytest.mark.parametrize("rows", [0, 3])
def test_directions_are_refused_where_nothing_is_searched(rows):
    index = HalfspaceIndex(3, metric="cosine")
    index.insert(np.eye(3)[:rows])
    for value, word in ((0.0, r"\[0\] is zero"), (np.nan, r"\[0, 0\] is nan")):
        q = np.full(3, value, np.float32)
        for k, options in ((0, {}), (0, {"tau": 2.0}), (2, {"within": []})):
            with pytest.raises(ValueError, match=f"directions{word}"):
                index.search(q, k, **options)
        with pytest.raises(ValueError, match=f"directions{word}"):
            index.explain(q, k=0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("filter", "metric"), [("scan", "ip"), ("cells", "ip"), ("groups", "ip"), ("cells", "cosine"), ("groups", "l2")]
)
def test_a_gpu_finds_the_same(gpu, filter, metric, rng):
    vectors = rng.integers(1, 8, (600, 5)).astype(np.float32)
    directions = rng.standard_normal((9, 5)).astype(np.float32)
    index = HalfspaceIndex(5, filter=filter, metric=metric, device="gpu")
    index.insert(gpu.xp.asarray(vectors))
    best, tau = (expected, 2.0) if metric == "ip" else (partial(nearest, metric), 0.5 if metric == "cosine" else 6.0)
    for k in (1, 12, 700):
        hits = index.search(gpu.xp.asarray(directions), k)
        assert isinstance(hits.ids, gpu.xp.ndarray)
        for q, own in zip(directions, hits._on_host(), strict=True):
            same(own, best(vectors, q, k))
    one = gpu.xp.asarray(directions[3])
    same(index.search(one, 7, tau=tau)._on_host(), best(vectors, directions[3], 7, tau=tau))
    assert index.explain(one, k=7).hits == 7
    least = np.inf if metric == "l2" else -np.inf
    whole = index.query(gpu.xp.asarray(directions), least, sort=True)._on_host()
    limited = index.query(gpu.xp.asarray(directions), least, sort=True, limit=9)
    assert isinstance(limited.totals, gpu.xp.ndarray)
    for all_of_it, own in zip(whole, limited._on_host(), strict=True):
        assert own.ids.tolist() == all_of_it.ids[:9].tolist()
        assert own.scores.tobytes() == all_of_it.scores[:9].tobytes()
    assert limited._on_host().totals.tolist() == [600] * 9


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_searches_are_explained(metric, rng):
    vectors = rng.standard_normal((6000, 8)).astype(np.float32)
    q = rng.standard_normal(8).astype(np.float32)
    index = build_metric(metric, vectors)
    explained = index.explain(q, k=10)
    assert explained.hits == 10
    assert explained.vectors == 6000
    assert 10 <= explained.stage("verify").tested < 600
    assert explained == index.explain(q, k=10)
    edge = float(index.search(q, 4).scores[-1])
    few = index.explain(q, edge, k=10)  # rounding may leave the last one out
    assert few.hits == len(index.search(q, 10, tau=edge)) <= 4
    assert index.explain(q, k=10**30).hits == index.explain(q, k=6000).hits == 6000
    assert index.explain(q, k=0).hits == 0
    assert index.explain(q, k=0).stages == ()
    assert index.explain(q, edge).hits == index.count(q, edge)


def test_explanations_add_what_lowered_thresholds_cost(rng, monkeypatch):
    """A sample that suggests a threshold far too high: the searches behind the answer are counted together."""
    vectors = rng.standard_normal((3000, 6)).astype(np.float32)
    index = build_metric("ip", vectors, filter="scan")
    once = index.explain(vectors[0], k=5).stage("scan").tested
    assert once == 3000
    guess, tried = nearest_module._Guess.thresholds, []

    def too_high(self):
        tau = guess(self)
        tried.append(tau)
        return tau if len(tried) > 2 else tau + 1e30

    monkeypatch.setattr(nearest_module._Guess, "thresholds", too_high)
    assert index.explain(vectors[0], k=5).hits == 5
    assert len(tried) == 3
    assert index.search(vectors[0], 5).ids.size == 5


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_thresholds_that_were_too_high_are_lowered_alone(metric, rng, monkeypatch):
    """Of some directions of a batch once, of others thrice; their rows take the places of what was found before."""
    vectors = rng.standard_normal((3000, 6)).astype(np.float32)
    directions = rng.standard_normal((7, 6)).astype(np.float32)
    index = build_metric(metric, vectors)
    guess, tried = nearest_module._Guess.thresholds, []

    def too_high(self):
        tau = guess(self)
        tried.append(len(tau))
        high = np.zeros(len(tau), np.bool_)
        high[1 :: len(tried)] = len(tried) < 4
        return np.where(high, 0.5 * tau if metric == "l2" else 1.5 * tau, tau)

    monkeypatch.setattr(nearest_module._Guess, "thresholds", too_high)
    for k in (1, 40):
        tried.clear()
        hits = index.search(directions, k)
        assert tried[0] == 7
        assert len(tried) > 1
        answer = expected if metric == "ip" else partial(nearest, metric)
        for q, own in zip(directions, hits, strict=True):
            same(own, answer(vectors, q, k))
        tried.clear()
        least = np.inf if metric == "l2" else -np.inf
        same(index.query(directions, least, sort=True, limit=k)[2], answer(vectors, directions[2], k))


def test_what_explain_needs(rng):
    index = build_metric("ip", rng.standard_normal((10, 3)).astype(np.float32))
    with pytest.raises(TypeError, match="explain needs tau, the threshold of a query, or k, of a search"):
        index.explain(np.ones(3))
    with pytest.raises(ValueError, match="k must be at least 0"):
        index.explain(np.ones(3), k=-1)
    with pytest.raises(TypeError, match="k"):
        index.explain(np.ones(3), k=1.5)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_limits_without_a_threshold(metric, rng, monkeypatch):
    """They keep what is best by rounded scores and then by id, all that could share the last score considered."""
    monkeypatch.setattr(snapshot, "SAMPLED", 200)
    for vectors in (
        rng.standard_normal((3000, 5)).astype(np.float32),
        rng.integers(1, 4, (3000, 5)).astype(np.float32),  # many ties
        (1 + rng.integers(0, 3, (3000, 5)) * np.float32(2.0**-23)).astype(np.float32),  # ties of rounded scores alone
        np.ones((3000, 5), np.float32),
    ):
        ids = rng.permutation(3000)
        index = build_metric(metric, vectors, ids=ids)
        directions = rng.standard_normal((4, 5)).astype(np.float32)
        directions[0] = 1
        tau = np.inf if metric == "l2" else -np.inf
        inside = ids[::3]
        for options in ({}, {"within": inside}):
            whole = index.query(directions, tau, sort=True, **options)
            for limit in (0, 1, 9, 100, 1500):
                ordered = index.query(directions, tau, sort=True, limit=limit, **options)
                plain = index.query(directions, [tau] * 4, limit=limit, **options)
                assert ordered.totals.tolist() == plain.totals.tolist() == whole.totals.tolist()
                for own, other, all_of_it in zip(ordered, plain, whole, strict=True):
                    assert own.ids.tolist() == all_of_it.ids[:limit].tolist()
                    assert own.scores.tobytes() == all_of_it.scores[:limit].tobytes()
                    order = np.argsort(own.ids)
                    assert other.ids.tolist() == own.ids[order].tolist()
                    assert other.scores.tobytes() == own.scores[order].tobytes()


def test_a_limit_without_a_threshold_reads_little(rng):
    index = build_metric("ip", rng.standard_normal((20_000, 8)).astype(np.float32))
    asked = []
    search = index._backend.search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index._backend, "search", lambda question: asked.append(search(question)) or asked[-1])
        index.query(np.ones(8), -np.inf, limit=10)
    assert sum(found.hits for found in asked) < 400


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_guesses_are_scores_at_a_rank_of_the_sample_and_never_below_the_floor(device, rng, request):
    """Small integers have no rounding errors; infinite by infinite is no number, and no guess."""
    module = load(device) if device == "cpu" else request.getfixturevalue("gpu")
    xp, floors = module.xp, np.array([-np.inf, 0.5, 1e9, -4.0, -np.inf, -7.0])
    sample, directions = (rng.integers(-3, 4, (rows, 5)).astype(np.float32) for rows in (700, 6))
    descending = -np.sort(-(directions.astype(np.float64) @ sample.T), axis=1)
    question = Question(None, sample[:0], xp.asarray(directions), xp.asarray(floors))
    for rank in (1, 2, 60, 700):
        guessed = host(module.guess(question, xp.asarray(sample), rank))
        assert guessed.tolist() == np.maximum(descending[:, rank - 1], floors).tolist()
    vast = xp.asarray(np.full((9, 2), 3e38, np.float32))
    cosine = Question(None, vast[:0], vast[:1], xp.asarray(floors[3:4]), metric=Metric.COSINE)
    assert host(module.guess(cosine, vast, 2)).tolist() == [-4.0]
