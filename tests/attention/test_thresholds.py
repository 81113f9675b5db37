"""Keys that are chosen on the CPU: certificates hold in real arithmetic, and are worth having; shares; estimates."""

import numpy as np
import pytest
from helpers import attention_reference as oracle
from helpers.caches import fill
from helpers.families import FAMILIES, MORE_FAMILIES, gaussian, heavy_tailed
from hypothesis import given
from hypothesis import strategies as st

from halfspace import cpu
from halfspace.datasets import load_keys
from halfspace.model.kv_cache import Aim

EPS = [1e-1, 1e-2, 1e-3]
FORMATS = ["float32", "float16", "bfloat16"]


def cache_of(keys, lengths=None, framed=True):
    """A cache of keys (batch, heads, rows, d), which are its values as well."""
    return fill(keys, keys, lengths, framed)


def same_as_given(cache, queries, tau, scale, found, forced=(0, 0), cap=0.0):
    """The keys that are kept are those of the thresholds, had they been given."""
    given = cpu.attend(cache, queries, tau, scale, *forced, 1, cap)
    np.testing.assert_array_equal(found.kept, given.kept)
    np.testing.assert_allclose(found.log_sum_exp, given.log_sum_exp, rtol=1e-5, atol=1e-5)
    finite = np.isfinite(found.output) & np.isfinite(given.output)  # sums of the largest numbers may overflow
    largest = np.abs(given.output[finite]).max(initial=1e-30)
    np.testing.assert_allclose(found.output[finite], given.output[finite], rtol=0, atol=1e-5 * largest)


def check(cache, keys, queries, eps, scale, lengths=None, cap=0.0):
    """Hold the bounds for queries (batch, query_heads, d) against what is dropped; returns how many keys are kept."""
    found, tau, dropped = cpu.attend_chosen(cache, queries, Aim(eps, None), scale, 0, 0, 2, cap)
    assert tau.dtype == dropped.dtype == np.float64
    assert tau.shape == dropped.shape == queries.shape[:2]
    same_as_given(cache, queries, tau, scale, found, cap=cap)
    group = queries.shape[1] // keys.shape[1]
    for b, g in np.ndindex(*tau.shape):
        own = keys[b, g // group, : keys.shape[2] if lengths is None else lengths[b]]
        lost = oracle.dropped_share(own, queries[b, g], tau[b, g], scale, cap)
        assert lost <= dropped[b, g] * (1 + 1e-9) + 1e-15  # the oracle adds in float64
        assert dropped[b, g] <= eps
    return found.kept


@pytest.mark.parametrize("eps", EPS)
def test_real_keys(eps):
    """Eight thousand keys of a language model: what is kept is little more than the smallest set that would do."""
    data, scale = load_keys(), 128**-0.5
    keys = data.keys[None, None]
    cache = cache_of(keys)
    ratios = []
    for step in range(0, 64, 16):
        queries = data.queries[None, :, step].astype(np.float32)
        kept = check(cache, keys, queries, eps, scale)[0]
        ratios += [k / oracle.smallest(data.keys, q, eps, scale) for k, q in zip(kept, queries[0], strict=True)]
    assert np.mean(ratios) <= 1.2
    assert max(ratios) <= 1.6


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES, ids=lambda family: family.__name__)
def test_awkward_keys(rng, family, dtype):
    keys, queries = family(rng, 80, 9, 2, dtype)
    for framed in (False, True):
        cache = cache_of(keys[None, None], framed=framed)
        for eps in (0.5, 1e-2):
            for scale, cap in ((1e-3, 0.0), (0.3, 0.0), (50.0, 0.0), (0.3, 2.0), (50.0, 30.0)):
                check(cache, keys[None, None], queries[None], eps, scale, cap=cap)


@pytest.mark.parametrize("cap", [0.5, 3.0, 50.0])
def test_capped_logits(rng, cap):
    """The certificate is of the capped softmax, and keeps little more than its smallest set."""
    data, scale = load_keys(), 128**-0.5
    keys = data.keys[None, None, :2000]
    queries = data.queries[None, :, 3].astype(np.float32)
    cache = cache_of(keys)
    for eps in EPS:
        kept = check(cache, keys, queries, eps, scale, cap=cap)[0]
        least = [oracle.smallest(keys[0, 0], q, eps, scale, cap) for q in queries[0]]
        assert (kept <= 1.3 * np.array(least) + 2).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FORMATS),
    rows=st.integers(1, 200),
    heads=st.integers(1, 2),
    group=st.sampled_from([1, 2, 4, 9]),
    eps=st.floats(1e-9, 0.99),
    scale=st.floats(1e-3, 10.0),
    cap=st.sampled_from([0.0, 0.01, 1.0, 30.0, 1e6]),
)
def test_any_share(seed, dtype, rows, heads, group, eps, scale, cap):
    rng = np.random.default_rng(seed)
    keys, queries = heavy_tailed(rng, heads * rows, 12, heads * group, dtype)
    keys = np.clip(keys.astype(np.float64), -30, 30).astype(keys.dtype).reshape(1, heads, rows, 12)
    check(cache_of(keys), keys, queries[None], eps, scale, cap=cap)


def test_equal_keys_stay_together(rng):
    """Where all weigh the same, none can be dropped alone."""
    keys, queries = gaussian(rng, 1, 16, 3, "float16")
    keys = np.repeat(keys, 500, axis=0)[None, None]
    cache = cache_of(keys)
    assert (check(cache, keys, queries[None], 0.9, 0.25) == 500).all()


def test_one_key_holds_it_all(rng):
    """A key far above the others is what is kept, and the bound says how little the others weigh."""
    keys = rng.standard_normal((1, 1, 3000, 32)).astype(np.float32)
    query = rng.standard_normal((1, 1, 32)).astype(np.float32)
    keys[0, 0, 1234] = 10 * query
    cache = cache_of(keys)
    assert check(cache, keys, query, 1e-3, 1.0) == 1


def test_sequences_of_unequal_length(rng):
    """An empty one keeps all of nothing."""
    keys, queries = gaussian(rng, 3 * 2 * 1100, 24, 3 * 4, "float16")
    keys, queries = keys.reshape(3, 2, 1100, 24), queries.reshape(3, 4, 24)
    lengths = [1100, 0, 5]
    cache = cache_of(keys, lengths)
    assert (check(cache, keys, queries, 0.1, 1.0, lengths)[1] == 0).all()


@pytest.mark.parametrize("aim", [Aim(0.1, None), Aim(None, 0.03)])
def test_runs_of_rows_and_threads(rng, aim):
    """Rows of several runs, of levels far apart, and forced ones: no bit depends on the number of threads."""
    lengths = [9000, 5000]
    keys, queries = gaussian(rng, 2 * 2 * 9000, 16, 2 * 4, "float32")
    keys = keys.reshape(2, 2, 9000, 16)
    keys[:, :, 4096:8192] *= 4
    keys[0, 0, :3000] += 30
    queries = queries.reshape(2, 4, 16)
    cache = cache_of(keys, lengths)
    found, tau, dropped = cpu.attend_chosen(cache, queries, aim, 0.5, 7, 5, 1)
    same_as_given(cache, queries, tau, 0.5, found, (7, 5))
    for threads in (2, 5):
        again = cpu.attend_chosen(cache, queries, aim, 0.5, 7, 5, threads)
        for one, other in zip((*found, tau, dropped), (*again.attention, again.tau, again.dropped), strict=True):
            np.testing.assert_array_equal(one, other)


def test_rows_that_are_all_forced(rng):
    keys, queries = gaussian(rng, 300, 16, 2, "float16")
    found = cpu.attend_chosen(cache_of(keys[None, None]), queries[None], Aim(0.5, None), 1.0, 200, 100, 1).attention
    assert (found.kept == 300).all()


@pytest.mark.parametrize("keep", [1e-3, 0.02, 0.3, 1.0])
def test_a_share_of_the_keys(rng, keep):
    """The share that is kept is the one that was asked for, nearly, and what is dropped is bounded."""
    lengths = [2500, 0, 7]
    keys, queries = gaussian(rng, 3 * 2 * 2500, 12, 3 * 6, "bfloat16")
    keys, queries = keys.reshape(3, 2, 2500, 12), queries.reshape(3, 6, 12)
    cache = cache_of(keys, lengths)
    found, tau, dropped = cpu.attend_chosen(cache, queries, Aim(None, keep), 0.3, 0, 0, 2)
    same_as_given(cache, queries, tau, 0.3, found)
    for b, g in np.ndindex(*tau.shape):
        assert keep * lengths[b] <= found.kept[b, g] <= 1.05 * keep * lengths[b] + 3
        lost = oracle.dropped_share(keys[b, g // 3, : lengths[b]], queries[b, g], tau[b, g], 0.3)
        assert lost <= dropped[b, g] * (1 + 1e-9) <= 1 + 1e-9


def test_a_share_that_lies_far_below_the_largest_score(rng):
    """One score beyond all others: the share is not that of what comes near it."""
    keys = rng.standard_normal((1, 1, 3000, 32)).astype(np.float32)
    query = rng.standard_normal((1, 1, 32)).astype(np.float32)
    keys[0, 0, 1234] = 1000 * query
    found, tau, dropped = cpu.attend_chosen(cache_of(keys), query, Aim(None, 0.05), 1.0, 0, 0, 1)
    assert 100 <= found.kept <= 160
    assert tau > -50
    assert dropped <= 1


@pytest.mark.parametrize("estimator", ["budget", "max", "gap"])
@pytest.mark.parametrize("keep", [1e-3, 0.02, 0.3, 1.0])
def test_estimates_are_read_off_the_sample(rng, estimator, keep):
    lengths = [2500, 0, 7, 1]
    keys, queries = gaussian(rng, 4 * 2 * 2500, 12, 4 * 6, "bfloat16")
    keys, queries = keys.reshape(4, 2, 2500, 12), queries.reshape(4, 6, 12)
    tau = cpu.estimate(cache_of(keys, lengths), queries, keep, estimator, 2)
    for b, g in np.ndindex(*tau.shape):
        sample = oracle.reservoir(lengths[b], 1024)
        expected = oracle.estimate(keys[b, g // 3], queries[b, g], sample, keep, estimator)
        np.testing.assert_allclose(tau[b, g], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimator", ["budget", "gap"])
def test_estimates_keep_about_the_share_asked_for(estimator):
    data = load_keys()
    cache = cache_of(data.keys[None, None])
    shares = []
    for step in range(0, 64, 8):
        queries = data.queries[None, :, step].astype(np.float32)
        tau = cpu.estimate(cache, queries, 0.05, estimator, 2)
        shares.append(cpu.attend(cache, queries, tau, 0.1, 0, 0, 2).kept.mean() / 8192)
    assert 0.025 < np.mean(shares) < 0.1


@pytest.mark.parametrize("length", [300, 1000, 1500])
def test_the_largest_of_few_is_not_that_of_the_first(length):
    """Keys of which only the early ones are long: the few that "max" looks at are spread over all of them."""
    keys = np.zeros((1, 1, length, 4), np.float16)
    keys[0, 0, :, 0] = np.arange(length, 0, -1)
    tau = cpu.estimate(cache_of(keys), np.eye(1, 4, dtype=np.float32)[None], 0.1, "max", 1)
    assert tau[0, 0] < 0.97 * length
