"""Balls of every kind: partitions are partitions, balls hold their vectors, bounds are true, in rational arithmetic."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from helpers import metrics, reference
from helpers.cascade import job_of, prepared
from helpers.checking import DTYPES
from helpers.families import EXTREME_TAUS, FAMILIES, boundary_taus
from numba import njit

from halfspace import cpu
from halfspace.cpu.filters import gates, tree
from halfspace.cpu.filters.records import GROUPS
from halfspace.cpu.filters.sweep import sweep
from halfspace.cpu.job import DROP, LOOK, TAKE
from halfspace.cpu.partition import partition
from halfspace.cpu.runtime.jit import record_at
from halfspace.cpu.runtime.records import tabulate
from halfspace.model.formats import as_bits
from halfspace.model.metrics import Metric
from halfspace.model.segment import Segment
from halfspace.state.build import Builder

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_metric = pytest.mark.parametrize("metric", metrics.METRICS)
every_family = pytest.mark.parametrize("family", FAMILIES)
COLUMNS = [np.array(columns) for columns in ([0, 9], [0, 2, 5, 9], range(10))]
LARGEST = np.finfo(np.float32).max


def units(array):
    """Finite numbers of any stored format as Python ints: multiples of 2**-149."""
    integers, exponent = reference.whole(array)
    return integers << (exponent + 149)


def subnormal(numbers):
    """Which numbers a processor may take for zero."""
    return (reference.bits(numbers) << 1 != 0) & (reference.bits(numbers) & 0x7F800000 == 0)


def centres(codes, at, count, base):
    """Centres (count, d) of the first balls of ``codes``, in units; ``base`` is what they are coded around."""
    lanes = codes.codes[at].transpose(0, 2, 1, 3).reshape(codes.scales.shape[1], -1)
    assert not codes.scales[at, count:].any()
    assert not codes.radii[at, count:].any()
    assert not subnormal(codes.scales[at]).any()
    assert not subnormal(codes.radii[at]).any()
    lattice = lanes[:count, : base.shape[-1]].astype(object) - 128
    assert (abs(lattice) <= 127).all()
    return base + units(codes.scales[at, :count])[:, None] * lattice


def outside(vectors, centre, radius):
    """How many of ``vectors`` (in units) lie outside of balls with these centres and radii."""
    finite = radius < np.inf
    squares = ((vectors - centre) ** 2).sum(axis=1)[finite]
    return np.count_nonzero(squares > units(radius[finite]) ** 2)


def segment_of(vectors, filter, metric="ip", **options):
    """Vectors (n, d), sealed for a filter."""
    stored = as_bits(np.ascontiguousarray(vectors))[None]
    norms, grain = cpu.measure(stored, 1)
    plain = Segment(stored, np.arange(len(vectors)), norms, grain)
    return Builder(cpu, filter, options.get("subspaces"), options.get("group_size"), 1, Metric.named(metric)).derive(
        plain, filter
    )


def check_partition(vectors, columns, size):
    """Whether each subspace names every row once, and the number of threads changes nothing; returns the rows."""
    stored = as_bits(np.ascontiguousarray(vectors))
    done = []
    order = partition(stored, columns, size, 1, done.append)
    assert order.shape == (len(columns) - 1, len(vectors))
    assert sum(done) == pytest.approx(vectors.size)
    for rows in order:
        np.testing.assert_array_equal(np.sort(rows), np.arange(len(vectors)))
    for threads in (2, 3):
        np.testing.assert_array_equal(partition(stored, columns, size, threads), order)
    return order


# Partitions


@every_family
@every_dtype
def test_partitions_name_each_row_once(family, dtype, rng):
    for n, size in ((70, 4), (70, 1), (1, 4), (3, 4), (129, 64), (64, 16)):
        vectors, _ = family(rng, n, 9, 1, dtype)
        for columns in COLUMNS:
            check_partition(vectors, columns, size)


@pytest.mark.parametrize("n", [1, 5, 16, 17, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("size", [1, 3, 4, 16, 5000])
def test_on_a_line_groups_are_runs(n, size, rng):
    vectors = rng.standard_normal((n, 1)).astype(np.float32)
    (order,) = check_partition(vectors, np.array([0, 1]), size)
    groups = [np.sort(vectors[order[at : at + size], 0]) for at in range(0, n, size)]
    np.testing.assert_array_equal(np.concatenate(groups), np.sort(vectors[:, 0]))


@pytest.mark.parametrize("size", [1, 4, 1000, 16_384, 20_000, 40_000, 2**62])
def test_partitions_of_many_rows(size, rng):
    vectors = rng.standard_normal((20_001, 3)).astype(np.float32)
    order = check_partition(vectors, np.array([0, 1, 3]), size)
    groups = [np.sort(vectors[order[0, at : at + size], 0]) for at in range(0, len(vectors), size)]
    np.testing.assert_array_equal(np.concatenate(groups), np.sort(vectors[:, 0]))


@pytest.mark.parametrize(
    "line",
    [
        lambda k, n: 0 * k,
        lambda k, n: (-1) ** k * LARGEST,
        lambda k, n: np.where(k == n // 2, LARGEST, -LARGEST),
        lambda k, n: k * 2.0**-149,
        lambda k, n: (k == 0) * 2.0**-149,
        lambda k, n: np.minimum(k, n - k),
        lambda k, n: -k,
        lambda k, n: k % 2,
    ],
    ids=["equal", "alternating", "one apart", "subnormal", "one subnormal", "up and down", "descending", "two values"],
)
def test_degenerate_rows(line):
    for n in (2, 100, 17_000):
        vectors = np.repeat(line(np.arange(n), n).astype(np.float32)[:, None], 3, axis=1)
        for columns in ([0, 3], [0, 1, 2, 3]):
            check_partition(vectors, np.array(columns), 4)


# Balls hold their vectors


@every_family
@every_dtype
@pytest.mark.parametrize("columns", COLUMNS, ids=["one", "three", "all"])
def test_balls_hold_their_vectors(columns, family, dtype, rng):
    for n, size in ((70, 4), (1, 4), (37, 100), (9, 1)):
        vectors, _ = family(rng, n, 9, 1, dtype)
        made = cpu.enclose(as_bits(np.ascontiguousarray(vectors))[None], columns, size, 1)
        assert (made.size, made.columns.tolist()) == (size, columns.tolist())
        x, centre = units(vectors), units(made.centre[0])
        for part, (low, high) in enumerate(pairwise(columns)):
            members, holders = made.members[0, part], made.holders[0, part]
            np.testing.assert_array_equal(np.sort(members), np.arange(n))
            np.testing.assert_array_equal(holders[members], np.arange(n) // size)
            middle = centres(made.groups, part, -(-n // size), centre[low:high])
            assert outside(x[:, low:high], middle[holders], made.groups.radii[part, holders]) == 0


def test_balls_of_many_tasks_hold_their_vectors(rng):
    vectors = rng.integers(-100, 100, (16_402, 3)).astype(np.float32)
    made, again = (cpu.enclose(vectors[None], np.array([0, 1, 3]), 1, threads) for threads in (1, 3))
    for name in ("members", "holders", "centre"):
        np.testing.assert_array_equal(getattr(made, name), getattr(again, name))
    for name in ("codes", "scales", "radii"):
        np.testing.assert_array_equal(getattr(made.groups, name), getattr(again.groups, name))
    x, centre = units(vectors), units(made.centre[0])
    for part, (low, high) in enumerate(((0, 1), (1, 3))):
        holders = made.holders[0, part]
        middle = centres(made.groups, part, len(vectors), centre[low:high])
        assert outside(x[:, low:high], middle[holders], made.groups.radii[part, holders]) == 0


@every_family
@every_dtype
def test_groups_and_chunks_hold_their_vectors(family, dtype, rng):
    for n, d in ((1100, 3), (40, 9), (1, 2)):
        vectors, _ = family(rng, n, d, 1, dtype)
        segment = segment_of(vectors, "groups")
        np.testing.assert_array_equal(segment.ids[segment.by_id], np.arange(n))
        np.testing.assert_array_equal(segment.vectors[0], as_bits(vectors)[segment.ids])
        x, base, rows = units(vectors)[segment.ids], units(segment.data.centre[0]), np.arange(n)
        for level, size in ((segment.data.chunks, 1024), (segment.data.groups, 16), (segment.data.cells, 1)):
            balls = -(-n // size)
            middle = centres(level, 0, balls, base)
            assert outside(x, middle[rows // size], level.radii[0, rows // size]) == 0
            base = middle[np.arange(-(-n // 16)) // 64] if size == 1024 else middle[rows // 16]


def test_balls_are_no_larger_than_they_need_be(rng):
    vectors, _ = FAMILIES[0](rng, 1100, 6, 1, "float32")
    wide = vectors.astype(np.float64)
    segment = segment_of(vectors, "groups")
    levels = segment.data
    for chosen, level, size in ((segment, levels.groups, 16), (segment, levels.chunks, 1024)):
        sets = np.split(wide[chosen.ids], range(size, 1100, size))
        spread = np.array([np.linalg.norm(rows - rows.mean(axis=0), axis=1).max() for rows in sets])
        assert (level.radii[0, : len(sets)] < 1.05 * spread + 0.01).all()
    made = segment_of(vectors, "balls", subspaces=2).data
    for part in range(2):
        sets = wide[made.members[0, part].reshape(-1, 4), 3 * part : 3 * part + 3]
        spread = np.linalg.norm(sets - sets.mean(axis=1, keepdims=True), axis=2).max(axis=1)
        assert (made.groups.radii[part, :275] < 1.01 * spread + 0.05).all()
    assert np.median(levels.cells.radii[0, :1100]) < 0.02  # codes around groups: 127 steps for what they span


# Bounds and verdicts


@njit
def _verdicts_of_balls(record, job, rows):
    return gates._classify_balls(job, record, rows, 0, rows)


@njit
def _verdicts_of_groups(table, directions, job, dim):
    """Verdicts (3, rows) of chunks, of groups and of cells, and a bit for each chunk that is not dropped."""
    segment, rows = table[0, 0], table[0, 0].rows
    verdicts = np.empty((3, rows), np.int32)
    chunks = tree.prepare_groups(table, 0, directions, dim, 0)
    count = (rows + 1023) // 1024
    groups, view = record_at(segment.data, GROUPS), chunks.views[0]
    open_chunks = tree._classify_chunks(job, segment, chunks, view, 0, count, True)
    for chunk in range(count):
        low, high = 1024 * chunk, min(1024 * chunk + 1024, rows)
        verdicts[:, low:high] = chunks.verdicts[0, chunk]
        if chunks.verdicts[0, chunk] != LOOK:
            continue
        for b in range(4):
            job.blocks[b] = 4 * chunk + b
            job.below[b], job.above[b] = chunks.chunk_below[0, chunk], chunks.chunk_above[0, chunk]
        listed, left, _ = tree._classify_groups(job, segment, groups, view, low, high)
        verdicts[1:, low:high] = DROP
        for at in range(left):
            verdicts[1:, job.rows[at]] = TAKE
        for at in range(listed):
            start = 16 * job.blocks[at]
            verdicts[1, start : min(start + 16, high)] = LOOK
        left, _ = tree._classify_rows(job, segment, groups, view, listed, 0)
        for at in range(left):
            verdicts[2, job.rows[at]] = job.kinds[at]
    return verdicts, open_chunks


def check_verdicts(verdicts, hit):
    """Nothing that is a hit is dropped, and nothing else is taken."""
    assert set(verdicts.tolist()) <= {DROP, LOOK, TAKE}
    assert not hit[verdicts == DROP].any()
    assert hit[verdicts == TAKE].all()


def members_of(bitmap, rows):
    return np.unpackbits(bitmap, count=rows, bitorder="little").astype(bool)


@every_family
@every_dtype
def test_bounds_of_balls_are_true(family, dtype, rng):
    vectors, directions = family(rng, 70, 9, 2, dtype)
    made = cpu.enclose(as_bits(np.ascontiguousarray(vectors))[None], COLUMNS[1], 4, 1)
    x = units(vectors)
    for q in directions:
        bounds = gates.bound(made, 0, q, -np.inf, 1).bounds
        assert not np.isnan(bounds).any()
        assert not subnormal(bounds).any()
        for part, (low, high) in enumerate(pairwise(COLUMNS[1])):
            products = x[:, low:high] @ units(q)[low:high]
            lower, upper = bounds[part, made.holders[0, part]].T
            for bound, sign in ((lower, 1), (upper, -1)):
                finite = np.isfinite(bound)
                assert (sign * (units(bound[finite]) << 149) <= sign * products[finite]).all()
                assert (bound[~finite] == -sign * np.inf).all()


def test_bounds_pay_for_what_float64_loses():
    """Added one by one, the small parts of this product are lost, and float32 has a neighbour in between."""
    small = np.full(2000, 0.9 * 2.0**-54, np.float32)
    vectors = np.concatenate([[1 - 2.0**-24, 2.0**-24 - 2.0**-44], small]).astype(np.float32)[None]
    q = np.ones(2002, np.float32)
    product = reference.dot(q, vectors[0])
    assert vectors[0].astype(np.float64).cumsum()[-1] < 1 < product
    for sign in (1, -1):
        made = cpu.enclose(sign * vectors[None], np.array([0, 2002]), 4, 1)
        lower, upper = gates.bound(made, 0, q, -np.inf, 1).bounds[0, 0]
        assert Fraction(float(lower)) <= sign * product <= Fraction(float(upper))


def test_bounds_of_many_groups_are_true(rng):
    vectors = rng.integers(-100, 100, (16_402, 3)).astype(np.float32)
    q = rng.integers(-9, 10, 3).astype(np.float32)
    made = cpu.enclose(vectors[None], np.array([0, 1, 3]), 1, 1)
    bounds = gates.bound(made, 0, q, -np.inf, 1).bounds
    for part, (low, high) in enumerate(((0, 1), (1, 3))):
        products = vectors[:, low:high].astype(np.float64) @ q[low:high]
        lower, upper = bounds[part, made.holders[0, part]].T
        assert ((lower <= products) & (products <= upper)).all()
        assert (upper - lower < 100).all()
    for threads in (2, 3):
        np.testing.assert_array_equal(gates.bound(made, 0, q, -np.inf, threads).bounds, bounds)


@every_family
@every_dtype
@pytest.mark.parametrize("columns", COLUMNS, ids=["one", "three", "all"])
def test_gates_sums_and_sweeps_keep_every_hit(columns, family, dtype, rng):
    n = 70
    vectors, directions = family(rng, n, 9, 2, dtype)
    made = cpu.enclose(as_bits(np.ascontiguousarray(vectors))[None], columns, 4, 1)
    holders = made.holders[0]
    for q in directions:
        for tau in [*boundary_taus(rng, vectors, q, 3), *EXTREME_TAUS]:
            hit = np.isin(np.arange(n), reference.hits(vectors, q, tau))
            bounds = gates.bound(made, 0, q, float(tau), 1)
            assert bounds.below <= bounds.above
            if not 0 < abs(tau) < 2.0**-298:  # which may be raised to the nearest that a product can have
                assert bounds.below <= tau <= bounds.above
            gated = np.any([bounds.bounds[part, holders[part], 1] == -np.inf for part in range(len(holders))], axis=0)
            assert not hit[gated].any()
            swept = sweep(made, 0, bounds, 1)
            collected = members_of(swept.candidates, n)
            assert not hit[~collected].any()
            assert swept.left == collected.sum()
            for candidates, came in ((None, np.ones(n, bool)), (swept.candidates, collected)):
                record, job = gates.record(made, 0, bounds, candidates), job_of(9, 36)
                counts = _verdicts_of_balls(record[0], job[0], n)
                verdicts = job["verdicts"][0, :n]
                check_verdicts(verdicts, hit)
                assert (verdicts[~came | gated] == DROP).all()
                assert counts[0] == came.sum() == counts[1] + counts[2] + np.count_nonzero(verdicts != DROP)
                assert counts[1] <= np.count_nonzero(gated & came)


@every_metric
@every_family
@every_dtype
def test_verdicts_on_chunks_groups_and_cells_are_true(metric, family, dtype, rng):
    vectors, directions = metrics.made(metric, family, rng, 1100, 3, 2, dtype)
    segment = segment_of(vectors, "groups", metric)
    table, job = tabulate(segment)[0].reshape(1, 1), job_of(3, 12)
    for q in directions:
        at = metrics.measures(metric, vectors[segment.ids], q)
        for tau in [*metrics.boundary_taus(metric, rng, vectors, q, 2), 0.0, 0.5, -np.inf, np.inf]:
            hit = metrics.reaches(metric, at, tau)
            ready = prepared(q[None], tau, metric)
            verdicts, open_chunks = _verdicts_of_groups(table, ready.records, job[0], 3)
            assert [not open_chunks >> k & 1 for k in range(2)] == [verdicts[0, 1024 * k] == DROP for k in range(2)]
            for level in verdicts:
                check_verdicts(level, hit)


@pytest.mark.parametrize("family", FAMILIES[:5])
def test_finer_balls_decide_more(family, rng):
    """Each level settles what the one above has settled, and cells settle nearly all."""
    vectors, directions = family(rng, 1100, 3, 4, "float32")
    segment = segment_of(vectors, "groups")
    table, job = tabulate(segment)[0].reshape(1, 1), job_of(3, 12)
    open_rows = np.zeros(3)
    for q in directions:
        for tau in (1 / 3, 4 / 3, 7 / 3):  # between the products of integers
            ready = prepared(q[None], tau)
            verdicts, _ = _verdicts_of_groups(table, ready.records, job[0], 3)
            for above, below in pairwise(verdicts):
                assert (below[above != LOOK] == above[above != LOOK]).all()
            open_rows += (verdicts == LOOK).sum(axis=1)
    assert open_rows[2] <= 0.02 * 12 * 1100
