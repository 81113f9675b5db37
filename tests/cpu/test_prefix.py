"""A product along axes before that of whole codes: it keeps what reaches, and batches and joins stay exact."""

import importlib

import numpy as np
import pytest
from helpers import metrics, reference
from helpers.cascade import adversaries, job_of, prepared, segment_of
from helpers.checking import build, check, equal
from helpers.families import EXTREME_TAUS, FAMILIES, MORE_FAMILIES
from numba import njit

from halfspace import cpu
from halfspace.cpu.filters import axes
from halfspace.cpu.filters.prefix import PARTS, TWICE, WHOLE, judge, pack_prefix, part_of
from halfspace.cpu.filters.prepared import share
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.runtime.jit import record_at, zeros
from halfspace.model.layout import CHUNK, TILE
from halfspace.model.metrics import Metric
from halfspace.model.table import Table

search = importlib.import_module("halfspace.cpu.search")
every_family = pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES)
every_metric = pytest.mark.parametrize("metric", metrics.METRICS)
DIM = 64


@pytest.fixture
def eager(monkeypatch):
    """Axes wherever they are possible, and every batch shared."""
    monkeypatch.setattr(axes, "DIMS", (DIM, 1536))
    monkeypatch.setattr(axes, "ROWS", 0)
    monkeypatch.setattr(axes, "MOST_LEFT", 2.0)
    monkeypatch.setattr(search, "PREPARED", 1)
    monkeypatch.setattr(search, "MIN_BYTES", 1)


@njit
def _pack(table, metric, part, first, columns, out):
    pack_prefix(record_at(table[0, 0].data, CELLS), metric, part, first, columns, out)


@njit
def _judge(job, axes, tile, alive, blocks):
    judge(job[0], axes, tile, alive, blocks)
    return part_of(job[0], 1), part_of(job[0], 2)


def on_few_axes(rng, n, noise=0.02):
    """Vectors whose spread lies on few axes, about a centre that is not the origin."""
    frame = np.linalg.qr(rng.standard_normal((DIM, 6)))[0].T
    return ((rng.standard_normal((n, 6)) + 0.5) @ frame + noise * rng.standard_normal((n, DIM))).astype(np.float32)


def left_of(segment, directions, tau, metric):
    """Which rows each part of the axes leaves for directions (m, d): bool (2, m, n)."""
    table, n, m = Table.of([segment], cpu), segment.rows, len(directions)
    ready = prepared(directions, tau, metric)
    _, (_, _, seen) = share(table, ready, 1)
    order, padded = seen.matrix.order[0], seen.prefix.digits.shape[1]
    columns = seen.prefix.digits.shape[2] // TILE
    codes, quotients = zeros((4, 16 * columns, 16, 4), np.uint8), np.empty((4, TILE), np.float32)
    left = np.ones((PARTS, m, -(-n // TILE) * TILE), np.bool_)
    assert np.isposinf(seen.prefix.numbers[:, 0, m:padded]).all()
    for part in range(PARTS):
        for first in range(0, n, TILE):
            codes[...] = 0
            _pack(table.records, int(Metric.named(metric)), part, first, columns, (codes.ctypes.data, quotients))
            rows = codes.transpose(0, 2, 1, 3).reshape(TILE, -1).astype(np.int64)
            product = (seen.prefix.digits[part, :m].astype(np.int64) @ rows.T).astype(np.float32)
            level, factor, offset, remainder, lift = seen.prefix.numbers[part, :, :m, None]
            with np.errstate(invalid="ignore", over="ignore"):
                needed = offset - factor * quotients[1] + level * quotients[0]
                needed = needed + remainder * quotients[2] + lift * quotients[3]
                left[part, order, first : first + TILE] = ~(product < needed)
    return left[:, :, :n]


@every_metric
@every_family
def test_no_part_of_the_axes_drops_a_hit(metric, family, rng, eager):
    """At thresholds that a vector reaches exactly, next to them, and at extreme ones."""
    vectors, directions = metrics.made(metric, family, rng, 70, DIM, 2, "float32")
    segment = segment_of(vectors, metric=metric)
    if segment.data.axes is None:
        return
    directions = adversaries(segment.data, vectors, directions, metric)
    directions = np.concatenate([directions, segment.data.axes.axes[0, :1]])
    taus = [np.concatenate([metrics.boundary_taus(metric, rng, vectors, q, 1), EXTREME_TAUS[:2]]) for q in directions]
    asked, tau = np.repeat(directions, [len(own) for own in taus], axis=0), np.concatenate(taus)
    tau = np.where(np.isnan(tau), 0.0, tau)
    left = left_of(segment, asked, tau, metric)
    for k, (q, level) in enumerate(zip(asked, tau, strict=True)):
        hit = metrics.reaches(metric, metrics.measures(metric, vectors, q), level)
        assert left[:, k][:, hit].all()


@every_metric
@pytest.mark.parametrize("scale", [2.0**-30, 1.0, 2.0**50])
def test_parts_of_the_axes_rule_most_out(metric, scale, rng, eager):
    vectors = on_few_axes(rng, 500) * np.float32(scale)
    directions = vectors[:32]
    segment = segment_of(vectors, metric=metric)
    wide = vectors.astype(np.float64)
    products, norms = wide[:32] @ wide.T, np.linalg.norm(wide, axis=1)
    scores = {
        "ip": products,
        "cosine": products / norms[:32, None] / norms,
        "l2": -np.linalg.norm(wide[:32, None] - wide, axis=2),
    }[metric]
    tau = np.sort(scores, axis=1)[:, -5]
    left = left_of(segment, directions, -tau if metric == "l2" else tau, metric)
    assert left.mean(axis=(1, 2)).max() < 0.1
    assert left_of(segment, directions, -np.inf if metric == "l2" else np.inf, metric).mean() < 0.02


def test_what_is_next_to_the_centre_is_left(rng, eager):
    """Rows whose scale is a tiny part of the largest norm, and directions without any part along the axes."""
    vectors = on_few_axes(rng, 300)
    segment = segment_of(vectors)
    again = vectors.copy()
    again[7] = segment.data.centre[0]
    again[8] = np.nextafter(again[7], np.float32(np.inf))
    other = segment_of(again, like=segment.data)
    wide = rng.standard_normal(DIM)
    matrix = segment.data.axes.axes[0].astype(np.float64)
    across = (wide - matrix.T @ (matrix @ wide)).astype(np.float32)
    directions = np.concatenate([np.repeat(across[None], 15, axis=0), np.zeros((2, DIM), np.float32)])
    for level in (1e-30, 0.0, -1e-30, 1e300, -1e300):
        left = left_of(other, directions, np.full(17, level), "ip")
        for k, q in enumerate(directions):
            assert left[:, k][:, reference.reaches(*reference.dots(again, q), level)].all()


# Batches and joins


@every_metric
@every_family
def test_batches_with_axes_are_exact(metric, family, rng, eager):
    vectors, directions = metrics.made(metric, family, rng, 150, DIM, 3, "float32")
    index = build(vectors, filter="cells", metric=metric, threads=1)
    asked, tau = metrics.pairs(metric, rng, vectors, directions, 1)
    assert len(asked) >= 16
    assert check([index], vectors, asked, np.where(np.isnan(tau), 0.0, tau), metric=metric) > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_that_stop_wherever_they_may(threads, rng, eager, monkeypatch):
    """Steps are chosen anew, and the same ones, when a search goes on; rows are gone from some chunks."""
    vectors = on_few_axes(rng, 3 * CHUNK + 70)
    vectors[CHUNK : 2 * CHUNK] = rng.standard_normal((CHUNK, DIM))
    index = build(vectors, filter="cells")
    index.delete(np.arange(5, len(vectors), 3))
    directions = np.concatenate([vectors[:60], rng.standard_normal((10, DIM)).astype(np.float32)])
    tau = np.where(np.arange(70) % 7, 6.0, 0.5)
    work, find = [], cpu.search
    monkeypatch.setattr(cpu, "search", lambda question: work.append(find(question)) or work[-1])
    expected = index.query(directions, tau, threads=1)
    kept = index.ids
    for k in (0, 1, 33, 69):
        found, scores = reference.one_faster(vectors[kept], directions[k], tau[k])
        equal(expected[k], (kept[found], scores))
    monkeypatch.setattr(search, "TURN", -1.0)
    monkeypatch.setattr(search, "ROOM", CHUNK)
    hits = index.query(directions, tau, threads=threads)
    np.testing.assert_array_equal(hits.ids, expected.ids)
    np.testing.assert_array_equal(hits.offsets, expected.offsets)
    np.testing.assert_array_equal(work[0].work, work[-1].work)


@every_metric
@pytest.mark.parametrize("seed", range(3))
def test_joins_with_axes_are_exact(metric, seed, eager):
    """Ties on the threshold, duplicates, a zero row, and blocks whose rows before are gone."""
    rng = np.random.default_rng(seed)
    vectors = on_few_axes(rng, 190)
    vectors[100:120] = vectors[50]
    vectors[130:140] = rng.integers(-2, 3, (10, DIM))
    if metric != "cosine":
        vectors[5] = 0
    index = build(vectors, filter="cells", metric=metric)
    assert index._snapshot.sealed[0].data.axes is not None
    scores = np.sort(index.pairs(np.inf if metric == "l2" else -np.inf).scores.astype(np.float64))
    for tau in (scores[40 if metric == "l2" else -40], scores[len(scores) // 2]):
        found = metrics.query(metric, vectors, vectors, tau)
        expected = {(own, int(other)) for own, (hits, _) in enumerate(found) for other in hits if own < other}
        pairs = index.pairs(float(tau))
        assert set(zip(pairs.ids_a.tolist(), pairs.ids_b.tolist(), strict=True)) == expected
        assert len(pairs) == len(expected)


# What pays


def test_which_part_is_chosen():
    """The first tile tries half of the axes, the second all, if that might cost less; then the cheapest goes on."""
    directions, words, count = 1000, 48, 96
    blocks = 4 * directions

    def after(first, second):
        job = job_of(8 * words, 1)
        tried, chosen = _judge(job, count, 0, directions, int(first * blocks))
        if tried == 1:
            _, chosen = _judge(job, count, 1, directions, int(second * blocks))
        return tried, chosen

    assert after(0.0, 0.0) == (0, 0)  # half leaves nothing: all cannot cost less
    assert after(0.3, 0.01) == (1, 1)
    assert after(0.3, 0.3) == (1, 0)
    assert after(0.7, 0.6) == (1, WHOLE)
    assert after(1.0, 0.0) == (WHOLE, WHOLE)  # not worth another try
    assert TWICE * 0.5 >= 1.0  # from half of the blocks on, tiles are multiplied whole
