"""Bands: what reaches one threshold but not another, by the oracle, for every filter."""

import importlib
from itertools import pairwise

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, EXTENDED, build, build_each, equal
from helpers.families import EXTREME_TAUS, FAMILIES, boundary_taus

from halfspace import HalfspaceIndex

every_family = pytest.mark.parametrize("family", FAMILIES)


def expected(vectors, q, tau, unless, ids=None):
    (reached,), (beyond,) = (reference.query(vectors, q[None], limit, ids=ids) for limit in (tau, unless))
    kept = ~np.isin(reached[0], beyond[0])
    return reached[0][kept], reached[1][kept]


@every_family
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_band_is_what_reaches_one_threshold_but_not_the_other(family, dtype, rng):
    vectors, directions = family(rng, 60, 7, 2, dtype)
    indexes = build_each(vectors, dtype=dtype)
    for q in np.ascontiguousarray(directions):
        edges = np.sort([*boundary_taus(rng, vectors, q, 2), 0.0, -np.inf, np.inf, *EXTREME_TAUS[:2]])
        pairs = [(edges[i], edges[j]) for i, j in rng.integers(0, len(edges), (6, 2))]
        for tau, unless in pairs:
            answer = expected(vectors, q, float(tau), float(unless))
            for index in indexes:
                equal(index.query(q, tau, unless=unless), answer)
                assert index.count(q, tau, unless=unless) == len(answer[0])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filter", EXTENDED)
def test_bands_that_share_an_edge_partition(filter, threads, rng):
    vectors = rng.integers(-3, 4, (3000, 5)).astype(np.float32)
    directions = rng.integers(-2, 3, (30, 5)).astype(np.float32)
    index = build(vectors, filter=filter, ids=rng.permutation(10_000)[:3000])
    edges = np.array([-np.inf, -6.0, 0.0, 1.0, 5.0, np.inf])
    seen = [[] for _ in directions]
    for low, high in pairwise(edges):
        hits = index.query(directions, low, unless=np.full(30, high), threads=threads)
        counts = index.count(directions, low, unless=high, threads=threads)
        assert counts.tolist() == hits.totals.tolist() == [len(own) for own in hits]
        for own, found in zip(hits, seen, strict=True):
            assert (np.diff(own.ids) > 0).all()
            found += own.ids.tolist()
    assert all(sorted(found) == index.ids.tolist() for found in seen)


@pytest.mark.parametrize("m", [1, 4, 40])
def test_order_and_limit_are_those_of_the_band(m, rng):
    vectors = rng.integers(-3, 4, (2000, 6)).astype(np.float32)
    directions = rng.integers(-2, 3, (m, 6)).astype(np.float32)
    index = build(vectors)
    whole = index.query(directions, 1.0, unless=8.0)
    for limit in (0, 1, 5, 10_000):
        for sort in (False, True):
            hits = index.query(directions, 1.0, unless=8.0, limit=limit, sort=sort)
            assert hits.totals.tolist() == whole.totals.tolist()
            for own, all_of_it in zip(hits, whole, strict=True):
                best = np.lexsort((all_of_it.ids, -all_of_it.scores))[:limit]
                best = best if sort else np.sort(best)
                assert own.ids.tolist() == all_of_it.ids[best].tolist()
                assert own.scores.tolist() == all_of_it.scores[best].tolist()
    without = index.query(directions, 1.0, unless=8.0, scores=False)
    assert without.scores is None
    assert without.ids.tolist() == whole.ids.tolist()
    own = index.ids[::3]
    inside = index.query(directions, 1.0, unless=8.0, within=own)
    for part, all_of_it in zip(inside, whole, strict=True):
        assert part.ids.tolist() == all_of_it.ids[np.isin(all_of_it.ids, own)].tolist()


def test_a_band_of_many_hits_is_cut_into_runs(rng, monkeypatch):
    monkeypatch.setattr(importlib.import_module("halfspace.cpu.collect"), "RUN", 100)
    vectors = rng.standard_normal((4000, 3)).astype(np.float32)
    directions = rng.standard_normal((7, 3)).astype(np.float32)
    index = build(vectors)
    for threads in (1, 3):
        hits = index.query(directions, -1.0, unless=0.5, threads=threads)
        for q, own in zip(directions, hits, strict=True):
            equal(own, expected(vectors, q, -1.0, 0.5))


def test_an_upside_down_band_is_empty(rng):
    index = build(rng.standard_normal((100, 4)).astype(np.float32))
    q = np.ones(4, np.float32)
    assert len(index.query(q, 0.5, unless=0.5)) == index.count(q, 0.5, unless=-np.inf) == 0
    assert len(HalfspaceIndex(4).query(q, 0.0, unless=1.0)) == 0


def test_what_is_refused(rng):
    index = build(rng.standard_normal((10, 2)))
    q = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="unless is nan"):
        index.query(q[0], 0.0, unless=np.nan)
    with pytest.raises(ValueError, match=r"unless\[1\] is nan"):
        index.count(q, 0.0, unless=[1, np.nan, 2])
    with pytest.raises(ValueError, match=r"unless must be a scalar or have shape \(3,\), got shape \(2,\)"):
        index.query(q, 0.0, unless=[1, 2])
    with pytest.raises(TypeError, match="unless must be a number"):
        index.query(q, 0.0, unless="1")


@pytest.mark.gpu
@pytest.mark.parametrize("filter", ["scan", "cells", "groups", "balls", "sweep"])
def test_a_gpu_finds_the_same_bands(gpu, filter, rng):
    vectors = rng.integers(-3, 4, (700, 5)).astype(np.float32)
    directions = rng.integers(-2, 3, (9, 5)).astype(np.float32)
    tau = rng.integers(-4, 5, 9).astype(np.float64)
    ours, theirs = (HalfspaceIndex(5, filter=filter, device=device) for device in ("cpu", "gpu"))
    ours.insert(vectors)
    theirs.insert(gpu.xp.asarray(vectors))
    for unless in (3.0, tau + 2.0):
        on_gpu = unless if isinstance(unless, float) else gpu.xp.asarray(unless)
        own = ours.query(directions, tau, unless=unless)
        there = theirs.query(gpu.xp.asarray(directions), gpu.xp.asarray(tau), unless=on_gpu)._on_host()
        assert there.ids.tolist() == own.ids.tolist()
        assert reference.bits(there.scores).tolist() == reference.bits(own.scores).tolist()
        assert there.offsets.tolist() == own.offsets.tolist()
        counts = theirs.count(gpu.xp.asarray(directions), gpu.xp.asarray(tau), unless=on_gpu)
        assert counts.get().tolist() == own.totals.tolist()
        best = theirs.query(gpu.xp.asarray(directions), 0.0, unless=on_gpu, limit=2, sort=True)._on_host()
        assert best.ids.tolist() == ours.query(directions, 0.0, unless=unless, limit=2, sort=True).ids.tolist()
    with pytest.raises(ValueError, match="takes no unless"):
        theirs.query(gpu.xp.asarray(directions), 0.0, unless=1.0, out=theirs.preallocate(10, 9))
    bad = gpu.xp.asarray(np.array([0, np.nan, *[1.0] * 7]))
    with pytest.raises(ValueError, match=r"unless\[1\] is nan"):
        theirs.query(gpu.xp.asarray(directions), 0.0, unless=bad)
