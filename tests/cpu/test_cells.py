"""Cells: codes in two planes hold their vectors, bounds are true, and no test drops a hit, in rational arithmetic."""

import numpy as np
import pytest
from helpers import metrics
from helpers.cascade import adversaries, look_at, prepared, segment_of, table_of, verdicts_of
from helpers.checking import DTYPES
from helpers.codes import beyond, bfloat16, bounds_of_cells, by_halves, planes, units
from helpers.families import EXTREME_TAUS, FAMILIES, MORE_FAMILIES, gaussian, integers
from numba import njit

from halfspace.cpu.filters.matrix import pack_tile
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.job import DROP, LOOK, TAKE
from halfspace.cpu.runtime.jit import record_at, zeros
from halfspace.model.counters import STAGES, WORK_SHAPE, Column

every_metric = pytest.mark.parametrize("metric", metrics.METRICS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_family = pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES)


@njit
def _pack(table, first, words, columns, out):
    cells = record_at(table[0, 0].data, CELLS)
    pack_tile(cells, first, words, columns, out)


# What is stored


@every_family
@every_dtype
def test_cells_hold_their_vectors(family, dtype, rng):
    for n, d in ((70, 9), (1, 1), (17, 24)):
        vectors, _ = family(rng, n, d, 1, dtype)
        made = segment_of(vectors).data
        assert made.axes is None
        high, low = planes(made, n, d)
        codes = 16 * high + low - 128
        assert (abs(codes) <= 127).all()
        weights = made.weights[0]
        assert ((weights > 0) & (weights <= 1)).all()
        assert not (weights.view(np.uint32) & 0xFFFF).any()
        scales, radii = bfloat16(made.scales[0, :n]), bfloat16(made.radii[0, :, :n])
        assert np.isfinite(scales).all()
        assert ((scales == 0) | (scales >= 2.0**-126)).all()
        offset = (units(vectors) - units(made.centre[0])) << 150  # in 2**-299
        lattice = units(scales)[:, None] * units(weights)
        for doubled, radius in ((32 * high - 241, radii[0]), (2 * codes, radii[1])):
            rest = offset - lattice * doubled
            assert np.isfinite(radius).all()
            assert ((rest**2).sum(axis=1) <= (units(radius) << 150) ** 2).all()
        for most, doubled in zip(made.spans[0], (32 * high - 241, 2 * codes), strict=True):
            longest = int((doubled**2).sum(axis=1).max())
            assert longest <= 4 * most**2 * (1 + 2.0**-40)
            assert 4 * most**2 <= (longest or 1) * 1.001


@pytest.mark.parametrize("n", [1, 15, 16, 63, 64, 65, 1023, 1024, 1025, 3000])
def test_peaks_are_the_longest_of_each_chunk(n, rng):
    vectors = (rng.standard_normal((n, 3)) * rng.pareto(1.5, (n, 1))).astype(np.float32)
    peaks, x = segment_of(vectors).data.peaks, units(vectors)
    assert peaks.shape == (1, -(-n // 1024))
    for chunk, peak in enumerate(peaks[0]):
        longest = (x[1024 * chunk : 1024 * chunk + 1024] ** 2).sum(axis=1).max()
        assert longest <= units(np.array([peak]))[0] ** 2 <= longest * 1.001


@every_dtype
def test_threads_and_frames_that_are_taken_over_make_the_same_cells(dtype, rng):
    vectors, _ = gaussian(rng, 5000, 40, 1, dtype)
    one = segment_of(vectors).data
    for again in (segment_of(vectors, 3).data, segment_of(vectors, 2, like=one).data):
        for name, part in vars(one).items():
            np.testing.assert_array_equal(getattr(again, name), part, err_msg=name)
    first = segment_of(vectors[:100], like=one).data
    np.testing.assert_array_equal(first.high[0, :6], one.high[0, :6])
    np.testing.assert_array_equal(first.centre, one.centre)
    np.testing.assert_array_equal(first.weights, one.weights)


def test_weights_follow_spreads(rng):
    """Few dimensions that vary much leave the others their digits."""
    spreads = np.where(np.arange(64) < 4, 100.0, 1.0)
    vectors = (rng.standard_normal((500, 64)) * spreads).astype(np.float32)
    made = segment_of(vectors).data
    assert made.weights[0, 4:].max() < 0.1 < 0.5 < made.weights[0, :4].min()
    assert np.median(bfloat16(made.radii[0, 1, :500])) < 3.0  # 127 steps of 300 for all would leave 5.5
    constant = segment_of(np.full((70, 3), 7.0, np.float32)).data
    assert (constant.weights == 1).all()
    assert not constant.scales.any()


# Bounds and verdicts


@every_family
@every_dtype
def test_bounds_are_true(family, dtype, rng):
    """Value and width bound the product of every vector's offset from the centre, from above and from below."""
    n, d = 70, 13
    vectors, directions = family(rng, n, d, 2, dtype)
    segment = segment_of(vectors)
    cells = segment.data
    x = units(vectors) - units(cells.centre[0])
    directions = adversaries(cells, vectors, directions)
    seen = look_at(segment, prepared(directions))
    assert seen.matrix.order.size == 0
    finite = 0
    for q, view, digits in zip(directions, seen.views, seen.digits, strict=True):
        products = x @ units(q)
        np.testing.assert_array_equal(digits[2:], by_halves(digits[:2]))
        for value, width in zip(*bounds_of_cells(cells, view, digits[:2], n, d), strict=True):
            assert beyond(value + width, products) == 0
            assert beyond(width - value, -products) == 0
            finite += np.isfinite(width).sum()
    assert finite == 2 * n * len(directions)


@every_metric
@every_family
@every_dtype
@pytest.mark.parametrize("row_bytes", [1, 1000])
def test_verdicts_are_true(row_bytes, metric, family, dtype, rng):
    """Rows enough for two passes: the first eight blocks decide how the others are tested."""
    n, d = 300, 13
    vectors, directions = metrics.made(metric, family, rng, n, d, 2, dtype)
    segment = segment_of(vectors, metric=metric)
    for q in adversaries(segment.data, vectors, directions, metric):
        at = metrics.measures(metric, vectors, q)
        for tau in [*metrics.boundary_taus(metric, rng, vectors, q, 3), *EXTREME_TAUS]:
            hit = metrics.reaches(metric, at, tau)
            ready = prepared(q[None], tau, metric)
            verdicts, counted, work = verdicts_of(segment, ready, row_bytes=row_bytes)
            assert counted == 0
            assert set(verdicts.tolist()) <= {DROP, LOOK, TAKE}
            assert not hit[verdicts == DROP].any()
            assert hit[verdicts == TAKE].all()
            again, counted, same = verdicts_of(segment, ready, True, row_bytes)
            np.testing.assert_array_equal(again, np.where(verdicts == TAKE, DROP, verdicts))
            assert counted == np.count_nonzero(verdicts == TAKE)
            assert all((work[name] == same[name]).all() for name in STAGES)


def test_finer_codes_decide_more(rng):
    tested, left, dropped = (Column.TESTED, Column.LEFT, Column.DROPPED)
    vectors, directions = gaussian(rng, 1024, 64, 8, "float32")
    segment = segment_of(vectors)
    total = np.zeros(WORK_SHAPE, np.int64)
    for q in directions:
        tau = float(np.sort(vectors @ q)[-10])
        _, _, work = verdicts_of(segment, prepared(q[None], tau))
        total += np.stack(list(work.values()))
    high, low = (total[STAGES.index(name)] for name in ("high", "low"))
    assert high[tested] == 8 * 1024
    assert 80 <= high[left] < 0.4 * high[tested]
    assert high[left] == low[tested]
    assert low[dropped] > 0.7 * low[tested]
    assert low[left] < 0.05 * high[tested]


# Many directions


def reaching(cells, seen, n, d):
    """Which vectors (m, n) the test in float32 leaves to each direction of a matrix product, as it is described."""
    high, low = planes(cells, n, d)
    codes, matrix = 16 * high + low, seen.matrix
    scale, radius = (bfloat16(part).astype(np.float64) for part in (cells.scales[0, :n], cells.radii[0, 1, :n]))
    with np.errstate(all="ignore"):
        inverse = np.where(scale > 0, 1 / scale, 0).astype(np.float32)
        ratio = np.where(scale > 0, radius / scale, np.inf).astype(np.float32)
    left = np.zeros((*matrix.order.shape[1:], n), bool)
    for place, k in enumerate(matrix.order[0]):
        product = (codes @ matrix.digits[0, place, :d].astype(np.int64)).astype(np.float32)
        with np.errstate(all="ignore"):
            needed = matrix.levels[0, place] * inverse - matrix.factors[0, place] * ratio + matrix.offsets[0, place]
            if cells.lengths is not None:
                needed = needed + matrix.lifts[0, place] * (cells.lengths[0, :n] * inverse)
        assert needed.dtype == np.float32
        left[k] = ~(product < needed)
    return left


@every_metric
@every_family
@every_dtype
def test_matrix_products_leave_every_hit(metric, family, dtype, rng):
    n, d = 100, 13
    vectors, directions = metrics.made(metric, family, rng, n, d, 2, dtype)
    segment = segment_of(vectors, metric=metric)
    cells = segment.data
    directions, tau = metrics.pairs(metric, rng, vectors, adversaries(cells, vectors, directions, metric))
    seen = look_at(segment, prepared(directions, tau, metric))
    if cells.peaks.max() > 2.0**60:
        assert seen.matrix.order.size == 0  # which float32 could not test
        return
    order, reach = seen.matrix.order[0], seen.matrix.reach[0]
    assert sorted(order.tolist()) == list(range(len(tau)))
    assert (reach[1:] >= reach[:-1]).all()
    left, peak = reaching(cells, seen, n, d), float(cells.peaks[0, 0])
    for place, k in enumerate(order):
        hits = metrics.hits(metric, vectors, directions[k], tau[k])
        assert left[k, hits].all()
        if hits.size:
            assert reach[place] <= peak * (1 + 2.0**-40)
    assert not seen.matrix.digits[0, len(tau) :].any()
    assert (seen.matrix.levels[0, len(tau) :] == np.inf).all()


@every_metric
@pytest.mark.parametrize("family", [gaussian, integers])
def test_matrix_products_leave_little_else(metric, family, rng):
    vectors, directions = metrics.made(metric, family, rng, 500, 64, 40, "float32")
    segment = segment_of(vectors, metric=metric)
    directions = np.concatenate([directions, directions[:2]])
    tau = np.array([np.sort(nearness(metric, vectors, q))[-5] for q in directions])
    tau[-2:] = np.inf, 1e300  # which nothing reaches
    if metric == "l2":
        tau = -tau
    seen = look_at(segment, prepared(directions, tau, metric))
    largest = abs(seen.matrix.digits[0, : len(tau)].astype(np.int64)).max(axis=1)
    assert ((largest == 127) | (largest == 0)).all()  # the unit is no larger than it must be
    left = reaching(segment.data, seen, 500, 64)
    assert not left[-2:].any()
    assert 5 * 40 <= left.sum() < 0.08 * left.size


def nearness(metric, vectors, q):
    """Scores (n,), about: larger is nearer."""
    x, q = vectors.astype(np.float64), q.astype(np.float64)
    if metric == "l2":
        return -np.linalg.norm(x - q, axis=1)
    return x @ q / (np.linalg.norm(x, axis=1) * np.linalg.norm(q) if metric == "cosine" else 1.0)


def test_points_next_to_the_centre_lose_nothing(rng):
    """Their digits have units so small that lifts are beyond float32."""
    half = rng.standard_normal((50, 8)).astype(np.float32)
    for scale in (2.0**-60, 2.0**-30, 2.0**-12, 1.0):
        vectors = np.concatenate([half, -half]) * np.float32(scale)
        segment = segment_of(vectors, metric="l2")
        assert not segment.data.centre.any()
        radii = np.sort(np.linalg.norm(vectors.astype(np.float64), axis=1))[::4] * (1 + 1e-9)
        for size in (2.0**-149, 2.0**-140, 2.0**-126, 2.0**-100):
            points = np.zeros((25, 8), np.float32)
            points[:, 0] = size
            seen = look_at(segment, prepared(points, radii, "l2"))
            left = reaching(segment.data, seen, 100, 8)
            for own, q, radius in zip(left, points, radii, strict=True):
                assert own[metrics.hits("l2", vectors, q, radius)].all()


@pytest.mark.parametrize("d", [1, 8, 9, 64, 65, 100])
def test_tiles_are_joined_from_both_planes(d, rng):
    vectors, _ = gaussian(rng, 100, d, 1, "float32")
    vectors[3] = vectors.mean(axis=0)
    segment = segment_of(vectors, metric="l2")
    high, low = planes(segment.data, 100, d)
    words, columns = -(-d // 8), -(-d // 64)
    for first in (0, 64):
        tile = zeros((4, 16 * columns, 16, 4), np.uint8)
        inverses, ratios, rises = np.empty((3, 64), np.float32)
        _pack(table_of(segment), first, words, columns, (tile.ctypes.data, inverses, ratios, rises))
        rows = tile.transpose(0, 2, 1, 3).reshape(64, -1)
        count = min(64, 100 - first)
        expected = (16 * high + low)[first : first + 64]
        np.testing.assert_array_equal(rows[:count, :d], expected)
        scale, radius = (
            bfloat16(part[first : first + 64]) for part in (segment.data.scales[0], segment.data.radii[0, 1])
        )
        known = scale > 0
        np.testing.assert_array_equal(inverses[known], (1 / scale[known].astype(np.float64)).astype(np.float32))
        np.testing.assert_array_equal(
            ratios[known], (radius[known].astype(np.float64) / scale[known]).astype(np.float32)
        )
        np.testing.assert_array_equal(rises, segment.data.lengths[0, first : first + 64] * inverses)
        assert (inverses[~known] == 0).all()
        assert (ratios[~known] == np.inf).all()
        assert (~known).sum() >= 128 - 100 if first else known.sum() >= 63
