"""Thresholds of attention on a GPU: certificates hold in real arithmetic, and are worth having; estimates."""

from fractions import Fraction
from math import ceil, exp, floor, tanh

import numpy as np
import pytest
from helpers import reference
from helpers.families import FAMILIES, MORE_FAMILIES

from halfspace.model.formats import as_bits, as_float32, as_numbers

pytestmark = pytest.mark.gpu

EPS = [1e-1, 1e-2, 1e-3]
FORMATS = ["float32", "float16", "bfloat16"]


def cache_of(gpu, keys, counts=None, *, framed=True, offload=False):
    """A cache of stored keys (batch, heads, n, d), coded in a frame of their own."""
    batch, heads, rows, dim = keys.shape
    cache = gpu.new_cache(batch, heads, dim, as_bits(keys).dtype, -(-max(rows, 1) // 64) * 64, offload)
    own = gpu.xp.asarray(as_bits(keys))
    gpu.extend(cache, own, own, None if counts is None else gpu.xp.asarray(counts))
    if framed:
        gpu.reframe(cache)
    return cache


def certified(gpu, cache, queries, eps, scale, cap=0.0):
    """Thresholds and bounds (batch, query_heads) for queries (batch, query_heads, d), on the host."""
    found = gpu.certify(cache, gpu.xp.asarray(as_bits(np.ascontiguousarray(queries))), eps, scale, 1, cap)
    return [gpu.xp.asnumpy(part) for part in found]


def lost(keys, query, tau, scale, cap=0.0):
    """The share of the softmax over keys (n, d) that lies below tau, from dot products in whole numbers."""
    products, exponent = reference.dots(keys, query)
    unit = Fraction(2) ** exponent
    most = max(products)
    if cap:
        logits = [cap * tanh(float(p * unit * Fraction(scale)) / cap) for p in products]
        weights = [exp(logit - max(logits)) for logit in logits]
    else:
        weights = [exp(max((p - most) * unit * Fraction(scale), -(10**6))) for p in products]
    if tau == -np.inf:
        return 0.0
    return sum(w for w, p in zip(weights, products, strict=True) if p * unit < Fraction(tau)) / sum(weights)


def check(gpu, keys, queries, scale, counts=None, eps=EPS, cap=0.0, **options):
    """Hold the bounds for queries (batch, query_heads, d) against what is lost; returns the last thresholds."""
    batch, heads, rows, _ = keys.shape
    cache = cache_of(gpu, keys, counts, **options)
    group = queries.shape[1] // heads
    for share in eps:
        tau, dropped = certified(gpu, cache, queries, share, scale, cap)
        assert tau.dtype == dropped.dtype == np.float64
        assert (dropped <= share).all()
        assert not np.isnan(tau).any()
        for b in range(batch):
            own = keys[b, :, : rows if counts is None else counts[b]]
            for g in range(queries.shape[1]):
                if own.shape[1] == 0:
                    assert tau[b, g] == -np.inf
                    assert dropped[b, g] == 0.0
                else:
                    share_lost = lost(own[g // group], np.float32(queries[b, g]), tau[b, g], scale, cap)
                    assert share_lost <= dropped[b, g] * (1 + 1e-12)
    return tau


@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("dtype", FORMATS)
def test_certificates_hold(family, dtype, rng, gpu):
    """For awkward keys and queries, in units of every size, whatever the certificate is worth there."""
    keys, queries = family(rng, 2 * 40, 16, 4, dtype)
    keys, queries = keys.reshape(1, 2, 40, 16), queries.reshape(1, 4, 16)
    if dtype == "float16":
        queries = np.clip(queries, -60000, 60000)
    largest = max(float(np.abs(np.float64(queries)).max() * np.abs(np.float64(keys)).max()), 1e-300)
    for scale in (0.25, 1.0 / largest, 30.0 / largest, 1e6 / largest):
        check(gpu, keys, queries, scale, eps=[1e-2])
    check(gpu, keys, queries, 4.0 / largest, eps=[0.5], framed=False)
    for cap in (2.0, 50.0):  # logits are bent
        check(gpu, keys, queries, 30.0 / largest, eps=[1e-2], cap=cap)


@pytest.mark.parametrize("dim", [8, 24, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 3, 4, 6])
def test_dimensions_and_groups(dim, group, rng, gpu):
    """Heads that share keys, in every number; sequences of unequal length, empty and of one key among them."""
    keys = rng.standard_normal((4, 2, 150, dim)).astype(np.float16) * np.exp(rng.normal(0, 0.5, (4, 2, 150, 1))).astype(
        np.float16
    )
    queries = (3 * rng.standard_normal((4, 2 * group, dim))).astype(np.float16)
    tau = check(gpu, keys, queries, dim**-0.5, np.array([150, 0, 1, 77]), eps=[1e-1])
    assert (tau[0] > -np.inf).all()


@pytest.mark.parametrize("queries_in", ["float32", "bfloat16"])
def test_queries_of_either_kind(queries_in, rng, gpu):
    keys = rng.standard_normal((1, 2, 100, 32)).astype(reference.DTYPES["bfloat16"])
    queries = (2 * rng.standard_normal((1, 4, 32))).astype(reference.DTYPES[queries_in])
    assert (check(gpu, keys, queries, 0.5) > -np.inf).all()


def test_all_scores_alike(rng, gpu):
    """Where all keys weigh the same, none can be dropped; where one weighs far more, the others can."""
    keys = np.zeros((1, 1, 100, 16), np.float16) + np.float16(0.5)
    queries = np.ones((1, 1, 16), np.float16)
    check(gpu, keys, queries, 1.0)
    keys[0, 0, 50, 0] = 20.0
    tau = check(gpu, keys, queries, 1.0)
    assert 8.0 < tau[0, 0] <= 27.5


def test_keys_that_weigh_nothing(rng, gpu):
    """Heads that attend to one key, and heads that attend to all: the smallest sets are found, nearly."""
    keys = rng.standard_normal((1, 1, 3000, 64)).astype(np.float16)
    queries = rng.standard_normal((1, 4, 64)).astype(np.float16) * np.array([8.0, 2.0, 0.5, 0.01], np.float16)[:, None]
    cache = cache_of(gpu, keys)
    scores = np.float64(keys[0, 0]) @ np.float64(queries[0]).T / 8.0
    for eps in EPS:
        tau, dropped = certified(gpu, cache, queries, eps, 0.125)
        for g in range(4):
            weights = np.sort(np.exp(scores[:, g] - scores[:, g].max()))[::-1]
            total = np.cumsum(weights)
            smallest = (total < (1 - eps) * total[-1]).sum() + 1
            kept = (scores[:, g] * 8.0 >= tau[0, g]).sum()
            assert smallest <= kept <= 1.6 * smallest + 2
            assert weights[kept:].sum() / total[-1] <= dropped[0, g] <= eps


def test_exact_scores_sharpen_brackets(rng, gpu):
    """Offloaded keys are not read: what is certified holds, but more is kept."""
    keys = rng.standard_normal((1, 1, 2000, 32)).astype(np.float32)
    keys[:, :, ::7] *= 30.0
    queries = (0.4 * rng.standard_normal((1, 2, 32))).astype(np.float32)
    here, there = (
        certified(gpu, cache_of(gpu, keys, offload=offload), queries, 1e-1, 1.0)[0] for offload in (False, True)
    )
    assert (here >= there).all()
    assert (here > there).any()
    check(gpu, keys[:, :, :300], queries, 1.0, offload=True)


def test_calls_follow_one_another(rng, gpu):
    """Nothing of a call is left for the next; appended keys are counted."""
    keys = rng.standard_normal((1, 2, 120, 16)).astype(np.float16)
    queries = (4 * rng.standard_normal((1, 4, 16))).astype(np.float16)
    cache = cache_of(gpu, keys)
    first = certified(gpu, cache, queries, 1e-2, 0.5)
    certified(gpu, cache, np.float16(2) * queries, 1e-1, 0.5)
    np.testing.assert_array_equal(certified(gpu, cache, queries, 1e-2, 0.5), first)
    cache.lengths[:] = 60
    crop = certified(gpu, cache, queries, 1e-2, 0.5)
    for g in range(4):
        assert lost(keys[0, g // 2, :60], np.float32(queries[0, g]), crop[0][0, g], 0.5) <= crop[1][0, g]
    bad = queries.copy()
    bad[0, 1, 3] = np.nan
    tau, dropped = certified(gpu, cache, bad, 1e-2, 0.5)
    assert tau[0, 1] == -np.inf
    assert dropped[0, 1] == 0.0
    np.testing.assert_array_equal(tau[0, [0, 2, 3]], crop[0][0, [0, 2, 3]])


def test_a_head_that_keeps_most_is_not_asked_each_time(rng, gpu):
    """After a call that keeps most of many keys, the next ones keep all, unless one head of a group does not."""
    keys = rng.standard_normal((1, 2, 4200, 8)).astype(np.float16)
    queries = np.zeros((1, 4, 8), np.float16)
    queries[0, 3] = 20.0
    cache = cache_of(gpu, keys)
    taus = np.array([certified(gpu, cache, queries, 1e-2, 1.0)[0][0] for _ in range(18)])
    np.testing.assert_array_equal(taus[:, :2] == -np.inf, [[i % 16 != 0] * 2 for i in range(18)])
    assert (taus[:, 2:] == taus[0, 2:]).all()
    assert (taus[:, 2:] > -np.inf).all()


@pytest.mark.parametrize("estimator", ["budget", "max", "gap"])
@pytest.mark.parametrize("keep", [1e-4, 0.02, 0.3, 1.0])
def test_estimates(estimator, keep, rng, gpu):
    """Thresholds are those that the sample says, for sequences with fewer keys than the sample and with more."""
    counts = np.array([1500, 37, 1, 0])
    keys = rng.standard_normal((4, 1, 1500, 16)).astype(np.float16)
    queries = rng.standard_normal((4, 2, 16)).astype(np.float16)
    cache = cache_of(gpu, keys, counts)
    tau = gpu.xp.asnumpy(gpu.estimate(cache, gpu.xp.asarray(as_bits(queries)), keep, estimator, 1))
    sample = gpu.xp.asnumpy(cache.sample)
    for b, count in enumerate(counts):
        for g in range(2):
            if count == 0:
                assert tau[b, g] == -np.inf
                continue
            own = sample[b][sample[b] >= 0]
            scores = np.float64(keys[b, 0, own]) @ np.float64(queries[b, g])
            m, ordered = len(own), np.sort(scores)[::-1]
            if estimator == "budget":
                expected = ordered[max(1, ceil(keep * m)) - 1]
            elif estimator == "max":
                few = max(1, round(1 / keep) - 1)
                expected = scores[(np.arange(m) * few + m // 2) % m < few].max()
            else:
                first = min(m, max(1, floor(keep * m / 2)))
                last = min(m, max(first + 1, ceil(2 * keep * m)))
                among = ordered[first - 1 : last]
                gaps = among[:-1] - among[1:]
                expected = among[0] if m == first else (among[gaps.argmax()] + among[gaps.argmax() + 1]) / 2
            np.testing.assert_allclose(tau[b, g], expected, rtol=1e-4, atol=1e-5)


def test_numbers_are_read_as_they_are_stored(rng, gpu):
    """Estimates for every format, and for float32 queries."""
    for dtype in FORMATS:
        keys = rng.standard_normal((1, 1, 50, 24)).astype(reference.DTYPES[dtype])
        for queries in (np.ones((1, 1, 24), np.float32), np.ones((1, 1, 24)).astype(keys.dtype)):
            cache = cache_of(gpu, keys)
            tau = gpu.xp.asnumpy(gpu.estimate(cache, gpu.xp.asarray(as_bits(queries)), 1e-9, "budget", 1))
            most = as_float32(as_bits(keys)).astype(np.float64).sum(axis=3).max()
            np.testing.assert_allclose(tau, [[most]], rtol=1e-5)
            assert as_numbers(as_bits(queries)).dtype == queries.dtype
