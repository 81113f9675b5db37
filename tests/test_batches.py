"""Batches of any size, on any number of threads: to the bit what one direction after another gives."""

import importlib
from functools import cache

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, FILTERS, build, check
from helpers.families import FAMILIES, MORE_FAMILIES, boundary_taus, gaussian, heavy_tailed
from hypothesis import given
from hypothesis import strategies as st

from halfspace import HalfspaceIndex
from halfspace.cpu.filters.matrix import LEAST

search = importlib.import_module("halfspace.cpu.search")
every_filter = pytest.mark.parametrize("filter", FILTERS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
SIZES = [1, 2, 15, 16, 17, 100, 1000]


def test_the_sizes_lie_on_both_sides_of_the_step():
    assert 15 < LEAST <= 16


def columns(hits):
    return hits.ids, reference.bits(hits.scores), hits.totals


def joined(parts, size):
    """Columns of the first answers, one after another."""
    return [np.concatenate(column) for column in zip(*(columns(part) for part in parts[:size]), strict=True)]


def taus_of(rng, products):
    """Thresholds of all kinds (m,): few hits, many, all, none, exact ties, zeros of both signs, negative ones."""
    m, ordered = len(products), np.sort(products, axis=1)
    kinds = [
        ordered[:, -5],
        ordered[:, -len(ordered[0]) // 2],
        ordered[:, 3],
        np.zeros(m),
        np.full(m, -0.0),
        np.full(m, np.inf),
        np.full(m, -np.inf),
        np.full(m, -1.5),
        np.full(m, 1e300),
        np.nextafter(ordered[:, -2], np.inf),
    ]
    shares = [0.4, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.2]
    return np.array([kinds[kind][k] for k, kind in enumerate(rng.choice(len(kinds), m, p=shares))], np.float64)


@cache
def world(dtype):
    """Vectors of unequal norms, many directions, and for each a threshold."""
    rng = np.random.default_rng(DTYPES.index(dtype))
    vectors, directions = heavy_tailed(rng, 1500, 20, 1000, dtype)
    vectors[::11] = vectors[0]
    directions[5], directions[6:9] = 0, vectors[:3].astype(np.float32)
    return vectors, directions, taus_of(rng, directions.astype(np.float64) @ vectors.astype(np.float64).T)


@cache
def living(filter, dtype):
    """An index of several segments and a tail, with rows deleted in all of them."""
    vectors, _, _ = world(dtype)
    index = HalfspaceIndex(20, filter=filter, dtype=dtype, threads=1)
    for part in (vectors[:1100], vectors[1100:1400], vectors[1400:]):
        index.insert(part)
    index.delete(np.arange(0, 1500, 7))
    return index


@every_dtype
@every_filter
def test_batches_are_their_directions(filter, dtype, monkeypatch):
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    vectors, directions, tau = world(dtype)
    index, inside = living(filter, dtype), np.setdiff1d(np.arange(1, 1500, 2), np.arange(0, 1500, 7))
    kept = np.setdiff1d(np.arange(1500), np.arange(0, 1500, 7))
    few = filter in ("balls", "sweep")  # which take one direction at a time, whatever the batch
    sizes = SIZES[:-1] if few else SIZES
    singles = [index.query(q, t) for q, t in zip(directions[: sizes[-1]], tau, strict=False)]
    within = [index.query(q, t, within=inside) for q, t in zip(directions[:100], tau, strict=False)]
    for k in range(0, len(singles), 13):
        ids, scores = reference.query(vectors[kept], directions[k], tau[k], ids=kept, faster=True)[0]
        assert singles[k].ids.tolist() == ids.tolist()
        assert reference.bits(singles[k].scores).tolist() == reference.bits(scores).tolist()
        if k < 100:
            assert within[k].ids.tolist() == ids[np.isin(ids, inside)].tolist()
    for size in sizes:
        expected = joined(singles, size)
        for threads in (1, 2, 5):
            if threads > 1 and ((size > 100 and threads == 2) or (few and size > 25)):
                continue
            hits = index.query(directions[:size], tau[:size], threads=threads)
            for ours, theirs in zip(columns(hits), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(np.diff(hits.offsets), hits.totals)
            counts = index.count(directions[:size], tau[:size], threads=threads)
            np.testing.assert_array_equal(counts, hits.totals)
            if size <= 100:
                plain = index.query(directions[:size], tau[:size], threads=threads, scores=False)
                np.testing.assert_array_equal(plain.ids, hits.ids)
                np.testing.assert_array_equal(plain.offsets, hits.offsets)
                some = index.query(directions[:size], tau[:size], within=inside, threads=threads)
                for ours, theirs in zip(columns(some), joined(within, size), strict=True):
                    np.testing.assert_array_equal(ours, theirs)
                counts = index.count(directions[:size], tau[:size], within=inside, threads=threads)
                np.testing.assert_array_equal(counts, some.totals)


@every_dtype
@pytest.mark.parametrize("threads", [1, 5])
def test_one_threshold_for_a_batch(threads, dtype, monkeypatch):
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    _, directions, _ = world(dtype)
    index = living("cells", dtype)
    for tau in (40.0, 0.0, -np.inf, np.inf):
        hits = index.query(directions[:40], tau, threads=threads, sort=True, limit=9)
        for q, found in zip(directions[:40], hits, strict=True):
            one = index.query(q, tau, sort=True, limit=9)
            for ours, theirs in zip(columns(found)[:2], columns(one)[:2], strict=True):
                np.testing.assert_array_equal(ours, theirs)
            assert found.totals.tolist() == one.totals.tolist()


@pytest.mark.parametrize("d", [1, 7, 8, 63, 64, 65, 200])
def test_matrix_products_of_any_width(d, rng):
    vectors, directions = gaussian(rng, 1100, d, 40, "float32")
    vectors[500:520] = vectors.mean(axis=0)
    index = build(vectors, filter="cells")
    tau = np.concatenate([boundary_taus(rng, vectors, q, 1)[:1] for q in directions])
    assert check([index], vectors, directions, tau, faster=True)
    assert check([index], vectors, directions[:16], tau[:16] + 1, faster=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES)
@pytest.mark.parametrize("threads", [1, 2])
def test_batches_on_any_data(threads, family, dtype, rng, monkeypatch):
    """Thresholds at real dot products and beside them, with more than one chunk and directions far apart in length."""
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    n, d = 1100, 6
    vectors, directions = family(rng, n, d, 4, dtype)
    index = build(vectors, filter="cells", dtype=dtype, threads=threads)
    with np.errstate(over="ignore"):
        scaled = np.concatenate([directions, directions * np.float32(2.0**-70), directions[:1] * np.float32(2.0**30)])
    directions = np.where(np.isfinite(scaled), scaled, 0).astype(np.float32)
    taus = [boundary_taus(rng, vectors, q, 1) for q in directions]
    batch = np.repeat(directions, 3, axis=0)
    assert check([index], vectors, batch, np.concatenate(taus), faster=True)
    index.delete(np.arange(0, n, 5))
    kept = np.setdiff1d(np.arange(n), np.arange(0, n, 5))
    assert check([index], vectors[kept], batch, np.concatenate(taus), ids=kept, faster=True)


@given(
    family=st.sampled_from(FAMILIES + MORE_FAMILIES),
    dtype=st.sampled_from(DTYPES),
    filter=st.sampled_from(FILTERS),
    n=st.integers(1, 200),
    d=st.integers(1, 40),
    m=st.sampled_from([1, 2, 15, 16, 17, 33, 70]),
    gone=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_any_batch_on_any_index(family, dtype, filter, n, d, m, gone, seed):
    rng = np.random.default_rng(seed)
    vectors, directions = family(rng, n, d, m, dtype)
    index = build(vectors, filter=filter, dtype=dtype)
    kept = np.arange(n)
    if gone:
        index.delete(kept[gone - 1 :: 4])
        kept = np.setdiff1d(kept, kept[gone - 1 :: 4])
    near = np.array([boundary_taus(rng, vectors, q, 1)[rng.integers(0, 3)] for q in directions])
    tau = np.where(rng.random(m) < 0.7, near, rng.choice([0.0, -0.0, np.inf, -np.inf, 1.0, -1e300], m))
    if kept.size == 0:
        assert not index.count(directions, tau).any()
        return
    assert check([index], vectors[kept], directions, tau, ids=kept, faster=True) > 0
    index.verify()


# Many hits


@pytest.mark.parametrize("filter", ["scan", "cells", "groups"])
def test_more_than_a_million_hits_of_one_direction(filter, rng):
    vectors = rng.integers(-50, 51, (1_100_000, 2)).astype(np.float32)
    index = build(vectors, filter=filter)
    products = (vectors @ np.array([3, -7], np.float32)).astype(np.float32)  # exact
    for tau in (-np.inf, -480.0):
        expected = np.flatnonzero(products >= tau)
        assert expected.size > 1_000_000
        for threads in (1, 2):
            hits = index.query([3, -7], tau, threads=threads)
            np.testing.assert_array_equal(hits.ids, expected)
            np.testing.assert_array_equal(hits.scores, products[expected])
        np.testing.assert_array_equal(index.query([3, -7], tau, scores=False).ids, expected)
        assert index.count([3, -7], tau) == expected.size


@pytest.mark.parametrize("m", [23, 30])
@pytest.mark.parametrize("threads", [1, 2])
def test_more_than_a_million_hits_of_a_batch(threads, m, rng, monkeypatch):
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    vectors = rng.integers(-50, 51, (60_000, 2)).astype(np.float32)
    directions = rng.integers(-9, 10, (m, 2)).astype(np.float32)
    index, products = build(vectors, filter="cells"), directions @ vectors.T
    tau = np.where(np.arange(m) % 5 == 0, 0.0, -350.0)
    hits = index.query(directions, tau, threads=threads)
    assert hits.totals.sum() > 1_000_000
    for k, found in enumerate(hits):
        expected = np.flatnonzero(products[k] >= tau[k])
        np.testing.assert_array_equal(found.ids, expected)
        np.testing.assert_array_equal(found.scores, products[k, expected])
    np.testing.assert_array_equal(index.count(directions, tau, threads=threads), hits.totals)


def test_buffers_grow_from_the_first_hit(rng):
    """Answers of every size around those at which memory is asked for again."""
    vectors = np.arange(5000, dtype=np.float32)[:, None] + 1
    for filter in ("scan", "cells"):
        index = build(vectors, filter=filter)
        for size in (0, 1, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2048, 2049, 4097, 5000):
            hits = index.query([1.0], 5001.0 - size)
            assert hits.ids.tolist() == list(range(5000 - size, 5000))
            assert hits.scores.tolist() == list(range(5001 - size, 5001))
            found = index.query(np.ones((30, 1)), np.full(30, 5001.0 - size))
            assert found.ids.tolist() == 30 * hits.ids.tolist()
