"""Cosines and distances of whole indexes: sets exact in real arithmetic, scores rounded once, for every filter."""

import numpy as np
import pytest
from helpers import metrics, reference
from helpers.checking import DTYPES, build, check, equal
from helpers.families import EXTREME_TAUS, FAMILIES, MORE_FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from halfspace import HalfspaceIndex
from halfspace.cpu.filters import axes

SERVED = ["scan", "cells", "groups", "auto"]
every_metric = pytest.mark.parametrize("metric", ["cosine", "l2"])
every_filter = pytest.mark.parametrize("filter", SERVED)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_family = pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES)


def build_each(vectors, metric, dtype="float32", **options):
    return [build(vectors, metric=metric, filter=filter, dtype=dtype, **options) for filter in SERVED]


def questions(metric, rng, vectors, points):
    """Pairs, also for points that are stored, or next to one, or far away."""
    own = reference.store(vectors[:1], "float32")
    more = [own, np.nextafter(own, 0), -own, own * 0 + np.float32(1e30)]
    if metric == "cosine":
        more = [part for part in more if part.any()]
    return metrics.pairs(metric, rng, vectors, np.concatenate([points, *more]), 2)


@every_metric
@every_dtype
@every_family
def test_ten_thousand_adversarial_comparisons(metric, dtype, family, rng):
    """For each family, of few questions at once and of so many that cells are multiplied with them."""
    compared = 0
    for d in (1, 2, 17):
        vectors, points = metrics.made(metric, family, rng, 33, d, 2, dtype)
        indexes = build_each(vectors, metric, dtype)
        batch, taus = questions(metric, rng, vectors, points)
        assert len(batch) >= 80
        compared += check(indexes, vectors, batch, taus, metric=metric)
        few = rng.permutation(len(batch))[:6]
        compared += check(indexes, vectors, batch[few], taus[few], metric=metric)
    assert compared >= 10_000 * len(SERVED)


@every_metric
@every_dtype
def test_along_axes(metric, dtype, rng, monkeypatch):
    monkeypatch.setattr(axes, "DIMS", (64, 64))
    monkeypatch.setattr(axes, "ROWS", 0)
    monkeypatch.setattr(axes, "MOST_LEFT", 2.0)
    found = 0
    for family in FAMILIES + MORE_FAMILIES:
        vectors, points = metrics.made(metric, family, rng, 70, 64, 1, dtype)
        index = build(vectors, metric=metric, filter="cells", dtype=dtype)
        found += index._snapshot.sealed[0].data.axes is not None
        batch, taus = questions(metric, rng, vectors, points)
        for at in range(0, len(batch), 15):
            assert check([index], vectors, batch[at : at + 15], taus[at : at + 15], metric=metric) > 0
        index.verify()
    assert found >= 8


PATTERNS = st.one_of(
    st.sampled_from([0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x3F800001, 0xBF800000, 0x33800000, 0x7F7FFFFF]),
    st.integers(0x3F000000, 0x40000000),
    st.integers(0, 2**32 - 1),
).filter(lambda p: p >> 23 & 255 != 255)


@st.composite
def spaces(draw):
    d = draw(st.integers(1, 7))
    row = st.lists(PATTERNS, min_size=d, max_size=d)
    vectors = draw(st.lists(row, min_size=1, max_size=12))
    return reference.from_bits(vectors, "float32"), reference.from_bits([draw(row)], "float32")


@given(spaces(), st.sampled_from(["cosine", "l2"]), st.floats(allow_nan=False), st.integers(0, 2**32))
def test_any_floats_at_all(space, metric, tau, seed):
    vectors, points = metrics.nonzero(*space) if metric == "cosine" else space
    near = metrics.boundary_taus(metric, np.random.default_rng(seed), vectors, points[0], 8)
    taus = np.concatenate([near, [tau, tau / 2**1000]])
    batch = np.repeat(points, len(taus), axis=0)
    indexes = build_each(vectors, metric)
    assert check(indexes, vectors, batch, taus, metric=metric) > 0
    assert check(indexes, vectors, batch[-3:], taus[-3:], metric=metric) > 0


@every_metric
@every_dtype
def test_a_large_index(metric, dtype, rng):
    """Chunks, groups and blocks that are dropped or taken whole: clusters far from each other."""
    middles = rng.integers(-40, 41, (6, 24))
    vectors = reference.store((middles.repeat(400, axis=0) + rng.standard_normal((2400, 24))).astype(np.float32), dtype)
    vectors[::7] = reference.store(np.rint(vectors[::7].astype(np.float32)), dtype)
    points = reference.store(vectors[rng.integers(0, 2400, 3)], "float32") + rng.integers(0, 2, (3, 24)).astype("f4")
    near = [metrics.boundary_taus(metric, rng, vectors, q, 2) for q in points]
    plain = np.array([0.99, 0.2, -0.3] if metric == "cosine" else [5.0, 100.0, 300.0])
    batch, taus = np.repeat(points, 9, axis=0), np.concatenate([[*own, *plain] for own in near])
    indexes = build_each(vectors, metric, dtype)
    assert check(indexes, vectors, batch, taus, metric=metric) > 0
    for at in (2, 7, 16):
        assert check(indexes, vectors, batch[at : at + 2], taus[at : at + 2], metric=metric) > 0


def answers(metric, rows, q, tau, unless=None, within=None):
    """Ids and scores of the hits among ``rows``, by id, for each form of the question."""
    ids = np.array(sorted(rows), np.int64)
    found, scores = metrics.query(metric, np.stack([rows[i] for i in ids]), q, tau, ids=ids)[0]
    keep = np.ones(len(found), bool) if within is None else np.isin(found, within)
    if unless is not None:
        keep &= ~np.isin(found, answers(metric, rows, q, unless)[0])
    return found[keep], scores[keep]


def check_life(index, metric, rows, rng):
    """Every form of a question, at thresholds which rows reach just so."""
    assert sorted(rows) == index.ids.tolist()
    stored = np.stack([rows[i] for i in sorted(rows)])
    for _ in range(2):
        q = reference.store(rng.integers(-3, 4, 5) + 0.25, "float32")
        tau, _, unless = metrics.boundary_taus(metric, rng, stored, q, 1)
        chosen = rng.permutation(sorted(rows))[:50]
        for options in ({}, {"unless": unless}, {"within": chosen}, {"unless": unless, "within": chosen}):
            ids, scores = answers(metric, rows, q, tau, **options)
            equal(index.query(q, tau, **options), (ids, scores))
            assert index.count(q, tau, **options) == len(ids)
            assert index.query(q, tau, scores=False, **options).ids.tolist() == ids.tolist()
            equal(index.query(q, tau, sort=True, **options), metrics.best(metric, ids, scores))
            equal(index.query(q, tau, sort=True, limit=9, **options), metrics.best(metric, ids, scores, 9))
            few = np.sort(metrics.best(metric, ids, scores, 9)[0])
            equal(index.query(q, tau, limit=9, **options), (few, scores[np.isin(ids, few)]))


@every_metric
@every_filter
@every_dtype
def test_a_life(metric, filter, dtype, rng, tmp_path):
    index, rows = HalfspaceIndex(5, metric=metric, filter=filter, dtype=dtype), {}

    def insert(ids, **options):
        vectors = rng.integers(-3, 4, (len(ids), 5)) + np.where(rng.random((len(ids), 1)) < 0.5, 0.0, 1 / 3)
        vectors[~vectors.any(axis=1)] = 1
        index.insert(vectors, ids, **options)
        rows.update(zip(ids, reference.store(vectors, dtype), strict=True))

    insert(list(range(700)))
    index.compact()
    insert(rng.permutation(800)[:150].tolist(), replace=True)
    gone = rng.permutation(sorted(rows))[:120]
    index.delete(gone)
    for i in gone.tolist():
        del rows[i]
    check_life(index, metric, rows, rng)
    index.save(tmp_path / "index")
    for mmap in (False, True):
        loaded = HalfspaceIndex.load(tmp_path / "index", mmap=mmap)
        loaded.verify()
        assert loaded.metric == metric
        check_life(loaded, metric, rows, rng)
        del loaded
    insert(list(range(900, 940)))
    index.compact()
    check_life(index, metric, rows, rng)


@every_filter
def test_what_has_no_cosine_is_refused(filter):
    index = HalfspaceIndex(3, metric="cosine", filter=filter)
    with pytest.raises(ValueError, match="zero"):
        index.insert([[1, 0, 0], [0, -0.0, 0]])
    with pytest.raises(ValueError, match="zero"):
        index.insert([[1e-60, 0, 0]])
    assert len(index) == 0
    index.insert(np.eye(3))
    index.compact()
    with pytest.raises(ValueError, match="zero"):
        index.insert([[0, 0, 0]], [1], replace=True)
    for batch in ([[1, 0, 0], [0, 0, 0], [0, 1, 0]], [[0, 0, 0]] * 30):
        with pytest.raises(ValueError, match=r"directions\[\d+\] is zero"):
            index.query(batch, 0.5)
        with pytest.raises(ValueError, match=r"directions\[\d+\] is zero"):
            index.count(batch, 0.5)
    assert index.vectors([1]).tolist() == [[0, 1, 0]]


@every_metric
@every_filter
def test_thresholds_that_hold_nothing_or_everything(metric, filter):
    index = build(np.array([[1, 0], [0, 2], [-3, 0]], np.float32), metric=metric, filter=filter)
    q = np.array([1, 0], np.float32)
    none, everything = ([1.1, np.inf], [-1.0, -1.5, -np.inf]) if metric == "cosine" else ([-1e-9, -np.inf], [4, np.inf])
    for batch in (1, 40):
        points = np.repeat(q[None], batch, axis=0)
        for tau in none:
            assert index.count(points, tau).tolist() == [0] * batch
        for tau in everything:
            assert index.count(points, tau).tolist() == [3] * batch
            assert index.query(points, tau).ids.tolist() == [0, 1, 2] * batch
        for bad in (np.nan, np.full(batch, np.nan)):
            with pytest.raises(ValueError, match="is nan"):
                index.query(points, bad)
    with pytest.raises(ValueError, match=r"directions\[0, 1\] is inf"):
        index.query([[1, np.inf]], 0.5)
    with pytest.raises(ValueError, match="nan"):
        index.count([np.nan, 1], 0.5)


def test_the_other_filters_serve_inner_products_only():
    for filter in ("balls", "sweep"):
        for metric in ("cosine", "l2"):
            with pytest.raises(ValueError, match="serves the metric 'ip'"):
                HalfspaceIndex(8, metric=metric, filter=filter)


@every_metric
def test_extreme_thresholds_for_every_extreme_scale(metric, rng):
    """Rows whose sizes go from the least to the largest float32, asked from each of them."""
    sizes = np.float32([1e-45, 1e-40, 2.0**-126, 1e-30, 1e-19, 1, 1e19, 1e30, 3e38])
    vectors = np.repeat(sizes, 4)[:, None] * np.tile(np.float32([[1, 0], [0, -1], [0.75, 0.5], [-1, 1]]), (9, 1))
    vectors = vectors[vectors.any(axis=1)]
    radii = [float(size) * factor for size in sizes for factor in (0.5, 1.0, np.nextafter(1.0, 2), 2.0)]
    plain = [0.6, -0.6, 1.0, -1.0, np.nextafter(1, 0)] if metric == "cosine" else radii
    indexes = build_each(vectors, metric)
    for q in vectors[::3]:
        taus = np.concatenate([metrics.boundary_taus(metric, rng, vectors, q, 6), plain, EXTREME_TAUS])
        assert check(indexes, vectors, np.repeat(q[None], len(taus), axis=0), taus, metric=metric) > 0
        assert check(indexes, vectors, np.repeat(q[None], 9, axis=0), taus[:9], metric=metric) > 0
