"""Keys that are chosen on a GPU: certificates hold in real arithmetic, and are worth having; shares; estimates."""

import importlib
from fractions import Fraction
from math import ceil, exp, floor, tanh

import numpy as np
import pytest
from helpers import reference
from helpers.families import FAMILIES, MORE_FAMILIES

from halfspace.attention import KVIndex
from halfspace.model.formats import as_bits, as_float32, as_numbers
from halfspace.model.kv_cache import Aim

pytestmark = pytest.mark.gpu

EPS = [1e-1, 1e-2, 1e-3]
FORMATS = ["float32", "float16", "bfloat16"]


@pytest.fixture(autouse=True)
def few(gpu, monkeypatch):
    """Choose among few keys, and in each call, whatever was of use in the one before."""
    choose, attend = (importlib.import_module(f"halfspace.gpu.attention.{name}") for name in ("choose", "attend"))
    monkeypatch.setattr(choose, "FEW_TO_CHOOSE", 0)
    monkeypatch.setattr(attend, "FEW", 0)
    monkeypatch.setattr(choose, "REST_SHARE", 2.0)
    return choose


def cache_of(gpu, keys, counts=None, *, framed=True, offload=False):
    """A cache of stored keys (batch, heads, n, d), coded in a frame of their own."""
    batch, heads, rows, dim = keys.shape
    cache = gpu.new_cache(batch, heads, dim, as_bits(keys).dtype, -(-max(rows, 1) // 64) * 64, offload)
    own = gpu.xp.asarray(as_bits(keys))
    gpu.extend(cache, own, own, None if counts is None else gpu.xp.asarray(counts))
    if framed:
        gpu.reframe(cache)
    return cache


def certified(gpu, cache, queries, eps, scale, keep=None, forced=(0, 0), cap=0.0):
    """Thresholds and bounds (batch, query_heads) for queries (batch, query_heads, d), on the host.

    The keys that are kept are those of the thresholds, had they been given.
    """
    asked = gpu.xp.asarray(as_bits(np.ascontiguousarray(queries)))
    found, tau, dropped = gpu.attend_chosen(cache, asked, Aim(eps, keep), scale, *forced, 1, cap)
    given = gpu.attend(cache, asked, tau, scale, *forced, 1, cap)
    np.testing.assert_array_equal(gpu.xp.asnumpy(found.kept), gpu.xp.asnumpy(given.kept))
    np.testing.assert_allclose(
        gpu.xp.asnumpy(found.log_sum_exp), gpu.xp.asnumpy(given.log_sum_exp), rtol=1e-5, atol=1e-5
    )
    return [gpu.xp.asnumpy(part) for part in (tau, dropped)]


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
        tau, dropped = certified(gpu, cache, queries, share, scale, cap=cap)
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
    for cap in (2.0, 50.0):  # logits are bent
        check(gpu, keys, queries, 30.0 / largest, eps=[1e-2], cap=cap)
    check(gpu, keys, queries, 4.0 / largest, eps=[0.5], framed=False)


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


def test_offloaded_keys(rng, gpu):
    """Where keys and values lie changes nothing."""
    keys = rng.standard_normal((1, 1, 300, 32)).astype(np.float32)
    queries = (0.4 * rng.standard_normal((1, 2, 32))).astype(np.float32)
    here, there = (
        certified(gpu, cache_of(gpu, keys, offload=offload), queries, 1e-1, 1.0) for offload in (False, True)
    )
    np.testing.assert_array_equal(here, there)
    check(gpu, keys, queries, 1.0, offload=True)


@pytest.mark.parametrize("dtype", FORMATS)
def test_many_rows(dtype, rng, gpu, monkeypatch):
    """Several blocks and lists that are full; forced rows; scores far above those of the sample that bins go by."""
    keys = rng.standard_normal((2, 1, 3000, 16)).astype(reference.DTYPES[dtype])
    queries = rng.standard_normal((2, 5, 16)).astype(reference.DTYPES[dtype])
    keys[0, 0, 1500] = 8 * queries[0, 1]
    keys[0, 0, 2000:] *= 4
    cache = cache_of(gpu, keys, np.array([3000, 2500]))
    for eps, keep in ((0.3, None), (1e-2, None), (None, 0.1), (None, 0.9)):
        tau, dropped = certified(gpu, cache, queries, eps, 1.0, keep, (9, 4))
        for b, g in np.ndindex(*tau.shape):
            own = keys[b, 0, : (3000, 2500)[b]]
            assert lost(own, np.float32(queries[b, g]), tau[b, g], 1.0) <= dropped[b, g] * (1 + 1e-12)


def test_full_lists(rng, gpu):
    """One block lists more rows than there is room for, and goes on when these are attended."""
    attend = importlib.import_module("halfspace.gpu.attention.attend")
    keys = rng.standard_normal((1, 1, 9000, 16)).astype(np.float16)
    queries = rng.standard_normal((1, 2, 16)).astype(np.float16)
    cache = cache_of(gpu, keys)
    attend.workspace_of(cache, 2).shared_out = 0
    tau, _ = certified(gpu, cache, queries, None, 1.0, 0.97)
    kept = (np.float64(keys[0, 0]) @ np.float64(queries[0]).T >= tau[0]).mean(axis=0)
    assert (kept > 0.95).all()


def test_more_sets_than_lanes(rng, gpu):
    """Sets of heads share blocks by what there is to do: here there are many, of lengths far apart."""
    keys = (2 * rng.standard_normal((3, 12, 150, 8))).astype(np.float16)
    queries = rng.standard_normal((3, 60, 8)).astype(np.float16)
    check(gpu, keys, queries, 1.0, np.array([150, 0, 9]), eps=[0.2])


def test_sets_that_look_share_the_blocks_of_those_that_rest(rng, gpu, few, monkeypatch):
    """Of 40 sets, whose sequences have lengths far apart, some rest after a call that keeps most of their keys."""
    keys = rng.standard_normal((2, 20, 70, 8)).astype(np.float16)
    queries = (rng.standard_normal((2, 20, 8)) * np.where(rng.random((2, 20, 1)) < 0.5, 0.0, 20.0)).astype(np.float16)
    rests = (queries == 0).all(axis=2)
    monkeypatch.setattr(few, "REST_SHARE", 0.5)
    counts = np.array([70, 4])
    cache = cache_of(gpu, keys, counts)
    asked = gpu.xp.asarray(as_bits(queries))
    for call in range(3):
        tau, dropped = (
            gpu.xp.asnumpy(part) for part in gpu.attend_chosen(cache, asked, Aim(0.2, None), 1.0, 0, 0, 1)[1:]
        )
        assert (tau[0, ~rests[0]] > -np.inf).all()
        assert ((tau == -np.inf) == rests)[0].all() == (call > 0)
        for b, g in np.ndindex(2, 20):
            assert lost(keys[b, g, : counts[b]], np.float32(queries[b, g]), tau[b, g], 1.0) <= dropped[b, g] * (
                1 + 1e-12
            )
            assert dropped[b, g] <= 0.2


@pytest.mark.parametrize("keep", [1e-3, 0.05, 0.4, 1.0])
def test_a_share_of_the_keys(keep, rng, gpu):
    """About the share that was asked for is kept, and what is dropped is bounded."""
    keys = rng.standard_normal((2, 1, 2000, 16)).astype(np.float16)
    queries = rng.standard_normal((2, 4, 16)).astype(np.float16)
    counts = np.array([2000, 700])
    tau, dropped = certified(gpu, cache_of(gpu, keys, counts), queries, None, 0.5, keep)
    for b, g in np.ndindex(*tau.shape):
        own = keys[b, 0, : counts[b]]
        kept = (np.float64(own) @ np.float64(queries[b, g]) >= tau[b, g]).sum()
        assert 0.7 * keep * counts[b] - 2 <= kept <= 1.4 * keep * counts[b] + 4
        assert lost(own, np.float32(queries[b, g]), tau[b, g], 0.5) <= dropped[b, g] * (1 + 1e-12)
        assert dropped[b, g] <= 1.0


def test_short_sequences_are_kept_whole(rng, gpu, few, monkeypatch):
    """Where there is room for few keys alone, and where there is room for more."""
    keys = rng.standard_normal((2, 1, 320, 16)).astype(np.float16)
    queries = (4 * rng.standard_normal((2, 2, 16))).astype(np.float16)
    for limit in (1000, 200):
        monkeypatch.setattr(few, "FEW_TO_CHOOSE", 2 * limit)
        tau, dropped = certified(gpu, cache_of(gpu, keys, np.array([320, 150])), queries, 0.1, 1.0)
        assert (tau[1] == -np.inf).all()
        assert (dropped[1] == 0.0).all()
        assert (tau[0] == -np.inf).all() == (limit == 1000)


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


def test_a_set_that_keeps_most_is_not_asked_each_time(rng, gpu, few, monkeypatch):
    """After a call that keeps most keys, the next ones keep all, unless other heads share them and keep few."""
    keys = rng.standard_normal((1, 2, 200, 8)).astype(np.float16)
    queries = np.zeros((1, 4, 8), np.float16)
    queries[0, 2:] = 20.0
    monkeypatch.setattr(few, "REST_SHARE", 0.5)
    cache = cache_of(gpu, keys)
    asked = gpu.xp.asarray(as_bits(queries))
    taus = np.array(
        [gpu.xp.asnumpy(gpu.attend_chosen(cache, asked, Aim(1e-2, None), 1.0, 0, 0, 1).tau[0]) for _ in range(34)]
    )
    np.testing.assert_array_equal(taus[:, :2] == -np.inf, [[i % 32 != 0] * 2 for i in range(34)])
    assert (taus[:, 2:] == taus[0, 2:]).all()
    assert (taus[:, 2:] > -np.inf).all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_how_far_an_output_is_off(dtype, rng, gpu):
    """The bound of the error holds, whether rows came one by one or many at once."""
    keys, values = (rng.standard_normal((2, 1, 90, 16)).astype(reference.DTYPES[dtype]) for _ in range(2))
    values[1, 0, 80] *= 20
    queries = (2 * rng.standard_normal((2, 3, 16))).astype(reference.DTYPES[dtype])
    index = KVIndex(1, 16, num_query_heads=3, batch_size=2, device="gpu", dtype=dtype)
    parts = [gpu.xp.asarray(as_bits(part)) for part in (keys, values)]
    numbers = [as_numbers(part) for part in parts]
    index.append(*(part[:, :, :85] for part in numbers))
    for row in range(85, 90):
        index.append(*(part[:, :, row : row + 1] for part in numbers))
    found = index.attend(as_numbers(gpu.xp.asarray(as_bits(queries))), eps=0.3, details=True)
    output, error, dropped = (gpu.xp.asnumpy(part) for part in (found.output, found.error, found.dropped))
    rounding = {"float32": 1e-5, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    assert (dropped > 0).any()
    for b, g in np.ndindex(*error.shape):
        own = values[b, 0].astype(np.float64)
        logits = keys[b, 0].astype(np.float64) @ queries[b, g].astype(np.float64) / 4
        weights = np.exp(logits - logits.max())
        largest = np.linalg.norm(own, axis=1).max()
        apart = np.linalg.norm(output[b, g].astype(np.float64) - weights @ own / weights.sum())
        assert apart <= error[b, g] + rounding * largest
        assert error[b, g] <= 2 * dropped[b, g] * largest * (1 + rounding)


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
