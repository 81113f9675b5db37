"""Matrix products in both forms, of warp groups and of every other GPU: candidates, and the oracle's answers."""

import numpy as np
import pytest
from helpers import metrics
from helpers.checking import DTYPES
from helpers.families import FAMILIES, gaussian, heavy_tailed, integers
from on_gpu import EXTREMES_THAT_STAY, ask, count, equal_rows, make, put

from halfspace.model.counters import Want
from halfspace.model.question import Question

pytestmark = pytest.mark.gpu

FORMS = {"warp groups": True, "portable": False}
every_form = pytest.mark.parametrize("form", FORMS)
every_metric = pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
BATCH = 131
"""Directions of two tiles, the second of which is almost empty."""

STRIPPED = 70
"""Directions of two sets that go through strips, the second of which is almost empty."""

LONGEST_PORTABLE = 832
"""Dimensions up to which the portable form has room in shared memory."""


@pytest.fixture
def use(gpu, monkeypatch):
    """Sets the form of what is made from then on; skips the test where the GPU has no warp groups."""
    from halfspace.gpu.runtime import tables

    there = tables.has_warp_groups(gpu.xp.cuda.Device().id)

    def set_form(form):
        if FORMS[form] and not there:
            pytest.skip("this GPU has no warp groups")
        monkeypatch.setattr(tables, "has_warp_groups", lambda device: FORMS[form])

    return set_form


def test_a_compiler_that_takes_no_second_architecture_has_no_warp_groups(gpu, monkeypatch):
    """CuPy names one of its own; other generations of GPUs are not asked at all."""
    from halfspace.gpu.runtime import launch

    class Refused(gpu.xp.cuda.compiler.CompileException):
        def __init__(self):
            pass

    def refuse(*, code, options):
        assert "-arch=sm_90a" in options
        raise Refused

    monkeypatch.setattr(gpu.xp, "RawModule", refuse)
    assert not launch.has_warp_groups.__wrapped__(gpu.xp.cuda.Device().id)
    monkeypatch.setattr(launch, "_CAPABILITY", "none")
    monkeypatch.setattr(gpu.xp, "RawModule", None)
    assert not launch.has_warp_groups.__wrapped__(gpu.xp.cuda.Device().id)


def many(rng, directions):
    """Directions of a batch that is multiplied."""
    return directions[rng.integers(0, len(directions), BATCH)]


def candidates(gpu, index, batch, tau, wanted):
    """What a search of directions lists to be verified, and how many hits it has."""
    from halfspace.gpu.run import Buffers, Run
    from halfspace.gpu.runtime.tables import upload

    table = index._snapshot.table
    question = Question(table, index._like, put(gpu, batch), gpu.xp.asarray(tau), metric=index._metric)
    run = Run(upload(table), question, 1 << 17, wanted)
    run.ask(question)
    buffers = Buffers.of(len(batch), 1 << 17, wanted)
    run.launch()
    run.answer_into(buffers)
    listed, _, hits, _ = run.status()
    first = run._places["pairs"]
    return np.sort(gpu.xp.asnumpy(run.workspace[first : first + 8 * listed]).view(np.uint64)), hits


@every_metric
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_the_portable_form_is_exact(family, metric, rng, use, gpu):
    """Hits, scores and counts of awkward vectors; a GPU's own form meets them in the tests of kernels and metrics."""
    use("portable")
    dtype = DTYPES[rng.integers(3)]
    vectors, directions = metrics.nonzero(*family(rng, 18, 13, 7, dtype))
    batch, tau = metrics.pairs(metric, rng, vectors, directions)
    assert len(batch) > 128
    expected = metrics.query(metric, vectors, batch, tau)
    index = make(gpu, vectors, filter="cells", dtype=dtype, metric=metric)
    equal_rows(ask(gpu, index, batch, tau), expected)
    equal_rows(ask(gpu, index, batch, tau, scores=False), expected)
    assert count(gpu, index, batch, tau).tolist() == [len(found) for found, _ in expected]


@every_metric
@pytest.mark.parametrize(("n", "d"), [(1, 1), (33, 31), (129, 128), (300, 129), (257, 384), (1300, 20)])
def test_strips_hold_what_there_is_room_for(n, d, metric, rng, gpu):
    """Where strips and blocks of them end, and two sets of directions: few candidates, and more than a warp holds."""
    vectors, directions = gaussian(rng, n, d, STRIPPED, "float32")
    index = make(gpu, vectors, filter="cells", metric=metric)
    dead = rng.permutation(n)[: n // 3]
    index.delete(gpu.xp.asarray(dead))
    alive = np.setdiff1d(np.arange(n), dead)
    for tau in (2.5 * np.sqrt(d) if metric == "l2" else -9.0 * d if metric == "ip" else -1.0, 0.0):
        limits = np.full(STRIPPED, float(tau))
        expected = [
            (alive[found], scores) for found, scores in metrics.query(metric, vectors[alive], directions, limits)
        ]
        equal_rows(ask(gpu, index, directions, limits), expected)
        equal_rows(ask(gpu, index, directions, limits, scores=False), expected)
        assert count(gpu, index, directions, limits).tolist() == [len(found) for found, _ in expected]
    found, hits = candidates(gpu, index, directions, -np.full(STRIPPED, np.inf), Want.SCORES)
    assert hits == len(alive) * STRIPPED
    assert len(np.unique(found)) == len(found) == hits


@every_metric
@pytest.mark.parametrize("m", [12, 21, 70])
def test_strips_meet_many_hits_and_few_by_turns(m, metric, rng, gpu, monkeypatch):
    """One block takes all strips: high digits come first where they leave little, and are left out where they do not.

    Rows of all hits, of none, and of a few follow each other, in two segments; the last directions fill no group of
    eight. Small integers, so that float64 knows the answer.
    """
    from halfspace.gpu.runtime.tables import upload

    def entries(least, most, shape):
        return rng.integers(least, most + 1, shape)

    d, unit = 9, 256
    parts = [entries(40, 43, (2 * unit, d)), -entries(20, 22, (12 * unit, d)), entries(10, 12, (2 * unit, d))]
    few = np.where(rng.random((unit, 1)) < 0.02, entries(4, 6, (unit, d)), -entries(4, 6, (unit, d)))
    rows, points = np.concatenate([*parts, few]), entries(10, 13, (m, d))
    index = make(gpu, rows[: 15 * unit].astype(np.float32), filter="cells", metric=metric)
    index.insert(put(gpu, rows[15 * unit :].astype(np.float32)))
    assert index.stats()["segments"] == 2
    dead = rng.permutation(len(rows))[:300]
    index.delete(gpu.xp.asarray(dead))
    tau = {"ip": 3.0, "cosine": 0.0, "l2": 5.0}[metric]
    products, squares = points @ rows.T, (rows**2).sum(axis=1) + (points**2).sum(axis=1)[:, None]
    reached = squares - 2 * products <= tau**2 if metric == "l2" else products >= tau
    reached[:, dead] = False
    assert reached.any()
    monkeypatch.setattr(upload(index._snapshot.table), "processors", 1)
    batch = put(gpu, points.astype(np.float32))
    hits = index.query(batch, tau)._on_host()
    assert [own.ids.tolist() for own in hits] == [np.flatnonzero(row).tolist() for row in reached]
    without = index.query(batch, tau, scores=False)._on_host()
    assert [own.ids.tolist() for own in without] == [own.ids.tolist() for own in hits]
    assert gpu.xp.asnumpy(index.count(batch, tau)).tolist() == reached.sum(axis=1).tolist()
    limits = np.full(m, -tau if metric == "l2" else tau)
    found, _ = candidates(gpu, index, points.astype(np.float32), limits, Want.SCORES)
    assert len(np.unique(found)) == len(found)
    assert reached.sum() <= len(found) <= 1.25 * reached.sum() + 100


@every_metric
@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (16, 31), (127, 128), (128, 129), (257, 384), (300, 512), (300, 513), (70, 1152), (70, 1153)]
)
def test_warp_groups_leave_no_more_than_the_portable_form(n, d, metric, rng, use, gpu):
    """Where rows and dimensions begin and end that a block, a slab and a kernel take; they look at both digits."""
    vectors, directions = gaussian(rng, n, d, BATCH, "float32")
    vectors[n // 2] = vectors[0]
    scale = {"ip": np.sqrt(d), "cosine": 1 / np.sqrt(d), "l2": np.sqrt(1.8 * d)}[metric]
    tau = rng.choice([0.5, 1.0, 1.3], BATCH) * scale
    answers = {}
    for form in FORMS:
        use(form)
        index = make(gpu, vectors, filter="cells", metric=metric)
        limits = np.asarray(-tau if metric == "l2" else tau)
        answers[form] = [candidates(gpu, index, directions, limits, wanted) for wanted in (Want.SCORES, Want.IDS)]
    for (ours, hits), (theirs, expected) in zip(*answers.values(), strict=True):
        assert hits == expected
        if d <= LONGEST_PORTABLE:  # beyond, there is the cascade instead, which looks at both digits
            assert np.isin(ours, theirs).all()
    assert len(ours) > 0 or n < 20


@every_form
@every_metric
def test_ties_zero_rows_and_deletions(metric, form, rng, use, gpu):
    """Several chunks and segments; integers, so that float64 knows the answer."""
    use(form)
    vectors, directions = integers(rng, 1500, 5, 9, "float32")
    vectors[::50] = 0
    if metric == "cosine":
        vectors, directions = metrics.nonzero(vectors, directions)
    batch = many(rng, directions)
    index = make(gpu, vectors[:1100], filter="cells", metric=metric)
    index.insert(put(gpu, vectors[1100:]))
    dead = rng.permutation(1500)[:300]
    index.delete(gpu.xp.asarray(dead))
    rows, points = vectors.astype(np.float64), batch.astype(np.float64)
    products = points @ rows.T
    squares = (rows * rows).sum(axis=1), (points * points).sum(axis=1)[:, None]
    tau = {"ip": 3.0, "cosine": 0.0, "l2": 4.0}[metric]
    reached = squares[0] + squares[1] - 2 * products <= tau**2 if metric == "l2" else products >= tau
    reached[:, dead] = False
    hits = ask(gpu, index, batch, tau, scores=False)
    assert [own.ids.tolist() for own in hits] == [np.flatnonzero(row).tolist() for row in reached]
    assert index.count(put(gpu, batch), tau).tolist() == reached.sum(axis=1).tolist()


@every_form
@every_metric
def test_extreme_thresholds(metric, form, rng, use, gpu):
    """Beyond what float32 and the sums hold, for rows of very different lengths."""
    use(form)
    vectors, directions = metrics.nonzero(*heavy_tailed(rng, 60, 9, 7, "float32"))
    tau = np.array([value for value in EXTREMES_THAT_STAY if metric != "l2" or value >= 0])
    batch = directions[rng.integers(0, 7, 20 * tau.size)]
    tau = np.tile(tau, 20)
    equal_rows(ask(gpu, index_of(gpu, vectors, metric), batch, tau), metrics.query(metric, vectors, batch, tau))


def index_of(gpu, vectors, metric):
    return make(gpu, vectors, filter="cells", metric=metric)
