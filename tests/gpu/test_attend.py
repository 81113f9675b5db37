"""Attention on a GPU: exactly the keys that reach the threshold, however they are read; softmax as in float64."""

import importlib
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES
from helpers.families import FAMILIES, boundary_taus, gaussian, heavy_tailed, integers, one_hot

from halfspace.model.formats import as_bits, as_numbers

pytestmark = pytest.mark.gpu

WAYS = ["whole", "both planes", "in turn"]
"""How the keys of a space are read."""


class How(NamedTuple):
    """How keys are attended, and whether the output is held against the oracle, too."""

    scale: float = 0.5
    recent: int = 0
    sinks: int = 0
    softmax: bool = True
    cap: float = 0.0


PLAIN = How()


@pytest.fixture(params=WAYS)
def way(request, gpu, monkeypatch):
    """Have spaces read one way, whatever was of use before."""
    attend = importlib.import_module("halfspace.gpu.attention.attend")
    monkeypatch.setattr(attend, "FEW", 1 << 40 if request.param == "whole" else 0)
    monkeypatch.setattr(attend, "MANY", 0 if request.param == "in turn" else 1 << 30)
    monkeypatch.setattr(attend, "DENSE_SHARE", 2.0)
    monkeypatch.setattr(attend, "CASCADE_SHARE", 2.0)
    return request.param


def fill(gpu, keys, values, lengths, capacity=None, framed=True):
    """A cache of keys and values (batch, heads, rows, d), of which each sequence has so many rows."""
    batch, heads, rows, dim = keys.shape
    bits = as_bits(keys), as_bits(values)
    cache = gpu.new_cache(batch, heads, dim, bits[0].dtype, capacity or max(64, -(-rows // 64) * 64), False)
    gpu.extend(cache, *(gpu.xp.asarray(part) for part in bits), gpu.xp.asarray(np.asarray(lengths, np.int64)))
    if framed:
        gpu.reframe(cache)
    return cache


def ask(gpu, cache, queries, tau, scale=0.5, recent=0, sinks=0, cap=0.0):
    """The answer, on the host, as numbers."""
    bits = as_bits(queries)
    answer = gpu.attend(cache, gpu.xp.asarray(bits), gpu.xp.asarray(tau), scale, recent, sinks, 1, cap)
    output, lse, kept = (gpu.xp.asnumpy(part) for part in answer)
    return as_numbers(output), lse, kept


def kept_rows(keys, query, tau, recent, sinks):
    """Positions (n,) that are to be kept, by exact arithmetic."""
    rows = len(keys)
    found = reference.query(keys, query[None], np.array([tau]))[0][0]
    keep = np.zeros(rows, bool)
    keep[found] = True
    keep[:sinks] = True
    keep[max(rows - recent, 0) :] = True
    return keep


def expected(keys, values, query, keep, scale, cap=0.0):
    """Output (d,) and log-sum-exp in float64."""
    if not keep.any():
        return np.zeros(values.shape[1]), -np.inf
    products, exponent = reference.dots(keys[keep], query)
    logits = np.array([float(Fraction(int(p)) * Fraction(2) ** int(exponent)) for p in products]) * scale
    if cap:
        logits = cap * np.tanh(logits / cap)
    weights = np.exp(logits - logits.max())
    return weights @ values[keep].astype(np.float64) / weights.sum(), logits.max() + np.log(weights.sum())


def check(keys, values, queries, tau, lengths, answer, how=PLAIN):
    """Hold an answer against the oracle."""
    output, lse, kept = answer
    batch, query_heads, _ = queries.shape
    group = query_heads // keys.shape[1]
    narrow = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(output.dtype.name, 0.0)
    for b in range(batch):
        for h in range(query_heads):
            own, theirs = keys[b, h // group, : lengths[b]], values[b, h // group, : lengths[b]]
            query = np.asarray(queries[b, h], np.float32)
            keep = kept_rows(own, query, tau[b, h], how.recent, how.sinks)
            assert kept[b, h] == keep.sum(), (b, h)
            if how.softmax:
                exact, level = expected(own, theirs, query, keep, how.scale, how.cap)
                largest = np.abs(theirs[keep].astype(np.float64)).max(initial=0.0)
                np.testing.assert_allclose(
                    output[b, h].astype(np.float64), exact, rtol=narrow, atol=(2e-5 + narrow) * largest
                )
                np.testing.assert_allclose(lse[b, h], level, rtol=1e-5, atol=1e-5)


def quantiles(keys, queries, share, lengths):
    """Thresholds that this share of the keys reaches, ties among them."""
    batch, query_heads, _ = queries.shape
    group = query_heads // keys.shape[1]
    tau = np.full((batch, query_heads), -np.inf)
    for b in range(batch):
        for h in range(query_heads):
            if lengths[b]:
                own = keys[b, h // group, : lengths[b]].astype(np.float64)
                scores = np.sort(own @ queries[b, h].astype(np.float64))
                tau[b, h] = scores[-max(1, int(share * len(scores)))]
    return tau


def data(rng, batch, heads, rows, dim, group, dtype, family=gaussian):
    keys, queries = family(rng, batch * heads * rows, dim, batch * heads * group, dtype)
    values = rng.standard_normal((batch, heads, rows, dim)).astype(reference.DTYPES[dtype])
    keys, queries = np.ascontiguousarray(keys), np.ascontiguousarray(queries)
    return keys.reshape(batch, heads, rows, dim), values, queries.reshape(batch, heads * group, dim)


@pytest.mark.parametrize(
    ("dim", "dtype"),
    [
        *((64, dtype) for dtype in DTYPES),
        (80, "float16"),
        (96, "bfloat16"),
        (128, "float16"),
        (128, "float32"),
        (256, "float32"),
        (256, "bfloat16"),
    ],
)
def test_dimensions(dim, dtype, way, rng, gpu):
    """Every number of dimensions, in one format or more: each pair is compiled anew."""
    keys, values, queries = data(rng, 1, 2, 300, dim, 3, dtype)
    cache = fill(gpu, keys, values, [300])
    for share in (0.03, 0.6):
        tau = quantiles(keys, queries, share, [300])
        for cap in (0.0, 1.5):
            answer = ask(gpu, cache, queries, tau, cap=cap)
            check(keys, values, queries, tau, [300], answer, How(cap=cap))


@pytest.mark.parametrize("group", [1, 2, 4, 5, 8])
def test_lengths_and_groups(group, way, rng, gpu):
    """Sequences of unequal length, one of them empty; what is forced; queries as they are stored."""
    lengths = [0, 1, 70, 333]
    keys, values, queries = data(rng, 4, 2, 333, 64, group, "float16")
    queries = queries.astype(np.float16)
    cache = fill(gpu, keys, values, lengths, capacity=512)
    for share, recent, sinks in ((0.05, 0, 0), (0.02, 7, 3), (1.0, 400, 0)):
        tau = quantiles(keys, queries, share, lengths)
        answer = ask(gpu, cache, queries, tau, 0.3, recent, sinks)
        assert answer[0].dtype == np.float16
        check(keys, values, queries, tau, lengths, answer, How(0.3, recent, sinks))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", [*FAMILIES, heavy_tailed], ids=lambda family: family.__name__)
def test_thresholds_on_the_boundary(family, dtype, way, rng, gpu):
    """Which keys are kept, where tau is a score or one of its neighbours, and where it is extreme."""
    keys, values, queries = data(rng, 1, 1, 75, 16, 5, dtype, family)
    cache = fill(gpu, keys, values, [75])
    taus = [np.concatenate([boundary_taus(rng, keys[0, 0], q, 2), [0.0, -np.inf, np.inf, 1e300]]) for q in queries[0]]
    for tau in np.transpose(taus):
        answer = ask(gpu, cache, queries, tau[None].copy(), 2.0**-20)
        check(keys, values, queries, tau[None], [75], answer, How(2.0**-20, softmax=False))


@pytest.mark.parametrize("family", [integers, one_hot, heavy_tailed], ids=lambda family: family.__name__)
def test_many_rows(family, way, rng, gpu):
    """Several tiles for each warp, lists that are full before the tiles are through, ties."""
    keys, values, queries = data(rng, 1, 1, 9000, 32, 2, "float16", family)
    cache = fill(gpu, keys, values, [9000], framed=family is heavy_tailed)
    importlib.import_module("halfspace.gpu.attention.attend").workspace_of(cache, 2).splits = 1  # one block
    scores = queries[0].astype(np.float64) @ keys[0, 0].astype(np.float64).T
    for share in (0.01, 0.97):
        tau = np.sort(scores, axis=1)[:, -int(share * 9000)][None].copy()
        output, lse, kept = ask(gpu, cache, queries, tau, 0.25)
        keep = scores >= tau[0][:, None]
        assert kept[0].tolist() == keep.sum(axis=1).tolist()
        logits = np.where(keep, 0.25 * scores, -np.inf)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        exact = weights @ values[0, 0].astype(np.float64) / weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(output[0], exact, rtol=0, atol=3e-5)
        np.testing.assert_allclose(lse[0], logits.max(axis=1) + np.log(weights.sum(axis=1)), rtol=1e-5)


def test_ways_change(rng, gpu):
    """A space is read whole after a step of which much was of use, and by its codes again after one of little."""
    keys, values, queries = data(rng, 1, 1, 4500, 64, 2, "float16")
    cache = fill(gpu, keys, values, [4500])
    shares = []
    for share in (0.01, 0.9, 0.9, 0.01, 0.01):
        tau = quantiles(keys, queries, share, [4500])
        check(keys, values, queries, tau, [4500], ask(gpu, cache, queries, tau))
        shares.append(float(cache.kept["attend 2"].shares[0]))
    assert max(shares[0], shares[4]) < 0.1 < 0.9 < shares[2]


def test_steps_in_a_row(rng, gpu, monkeypatch):
    """Tokens appended or taken back between steps, other ways of reading, trouble: each begins while the last ends."""
    batch, heads, rows = 2, 2, 4600
    attend = importlib.import_module("halfspace.gpu.attention.attend")
    keys, values, queries = data(rng, batch, heads, rows, 64, 4, "float16")
    cache = fill(gpu, keys, values, [4490, 66], capacity=4608)
    lengths = np.array([4490, 66])
    taus = {share: quantiles(keys, queries, share, [rows, rows]) for share in (0.01, 0.9)}
    bits, levels = gpu.xp.asarray(as_bits(queries)), {share: gpu.xp.asarray(tau) for share, tau in taus.items()}
    steps, answers = [], []

    def step(share, many=1 << 30):
        monkeypatch.setattr(attend, "FEW", 64)
        monkeypatch.setattr(attend, "MANY", many)
        steps.append((share, lengths.copy()))
        answers.append(gpu.attend(cache, bits, levels[share], 0.5, 0, 0, 1))

    def append(count):
        for _ in range(count):
            row = lengths % rows
            token = [np.stack([part[b, :, row[b] : row[b] + 1] for b in range(batch)]) for part in (keys, values)]
            gpu.extend(cache, *(gpu.xp.asarray(as_bits(part)) for part in token), None)
            lengths[:] += 1
            step(0.01, many=0 if count % 2 else 1 << 30)

    append(5)
    append(40)
    for share in (0.9, 0.9, 0.01, 0.01):
        step(share)
    lengths[:] = 4400, 3
    cache.lengths[:] = gpu.xp.asarray(lengths)  # as crop does
    step(0.01, many=0)
    lengths[:] = 40, 0
    cache.lengths[:] = gpu.xp.asarray(lengths)
    step(0.01)
    append(3)
    for (share, known), answer in zip(steps, answers, strict=True):
        parts = [gpu.xp.asnumpy(part) for part in answer]
        check(keys, values, queries, taus[share], known, (as_numbers(parts[0]), *parts[1:]))
    cache.status[0] = 1
    step(0.01)
    assert np.isnan(as_numbers(gpu.xp.asnumpy(answers[-1].output))[0]).all()


@pytest.mark.parametrize("length", [90, 4500])
def test_infinite_thresholds_leave_no_doubt(length, rng, gpu):
    """All keys are kept, or none, without an exact sum: a row in doubt would count once for each head."""
    keys, values, queries = data(rng, 1, 1, length, 64, 2, "float16")
    cache = fill(gpu, keys, values, [length])
    for tau in (-np.inf, -np.inf, np.inf, np.inf):
        kept = ask(gpu, cache, queries, np.full((1, 2), tau))[2]
        assert kept.tolist() == [[0 if tau > 0 else length] * 2]
        assert float(cache.kept["attend 2"].shares[0]) <= 1.0


def test_trouble(rng, gpu):
    """A sequence with a status is answered with NaN, as is a query that is not finite; the others as ever."""
    keys, values, queries = data(rng, 3, 1, 70, 64, 2, "float16")
    cache = fill(gpu, keys, values, [70, 70, 70])
    cache.status[1] = 1
    queries[2, 1, 5] = np.nan
    tau = np.full((3, 2), -np.inf)
    output, lse, kept = ask(gpu, cache, queries, tau)
    assert np.isnan(output[1]).all()
    assert np.isnan(lse[1]).all()
    assert np.isnan(output[2, 1]).all()
    assert kept[1].tolist() == [0, 0]
    part = output[:1], lse[:1], kept[:1]
    check(keys[:1], values[:1], queries[:1], tau[:1], [70], part)


def test_no_keys_are_kept(way, rng, gpu):
    keys, values, queries = data(rng, 1, 1, 100, 64, 1, "bfloat16")
    cache = fill(gpu, keys, values, [100])
    output, lse, kept = ask(gpu, cache, queries, np.full((1, 1), np.inf))
    assert not output.any()
    assert (lse[0, 0], kept[0, 0]) == (-np.inf, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("power", [-135, -60, 0, 60, 105])
def test_float32_queries_of_every_size(power, dtype, rng, gpu):
    """Queries that half formats cannot hold, beside keys that they do: which are kept, at scores as thresholds."""
    keys, values, _ = data(rng, 1, 1, 90, 24, 4, dtype)
    queries = np.ldexp(rng.standard_normal((1, 4, 24)), power).astype(np.float32)
    cache = fill(gpu, keys, values, [90])
    taus = np.stack([boundary_taus(rng, keys[0, 0], query, 3) for query in queries[0]], axis=1)
    for tau in taus:
        answer = ask(gpu, cache, queries, tau[None].copy(), 2.0**-power if power > -120 else 1.0)
        how = How(2.0**-power, softmax=power > -120)
        check(keys, values, queries, tau[None], [90], answer, how)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_light_keys(dtype, gpu):
    """Keys that weigh next to nothing each count together."""
    rows = 4000
    keys = np.zeros((1, 1, rows, 16), reference.DTYPES[dtype])
    keys[..., 0] = -20
    keys[0, 0, 77, 0] = 0
    values = np.full((1, 1, rows, 16), 64, reference.DTYPES[dtype])
    values[0, 0, 77] = 0
    queries = np.zeros((1, 1, 16), np.float32)
    queries[..., 0] = 1
    output, lse, kept = ask(gpu, fill(gpu, keys, values, [rows]), queries, np.full((1, 1), -np.inf), 1.0)
    light = (rows - 1) * np.exp(-20.0)
    assert kept[0, 0] == rows
    np.testing.assert_allclose(output[0, 0], 64 * light / (1 + light), rtol=1e-4)
    np.testing.assert_allclose(lse, np.log1p(light), atol=1e-6)


def test_refused_dimensions(gpu):
    cache = gpu.new_cache(1, 1, 264, np.dtype(np.uint16), 64, False)
    with pytest.raises(ValueError, match="264"):
        gpu.attend(cache, gpu.xp.zeros((1, 1, 264), np.float32), gpu.xp.zeros((1, 1)), 1.0, 0, 0, 1)
