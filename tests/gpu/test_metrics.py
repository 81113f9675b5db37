"""Cosines and distances on a GPU: every filter and every way through the kernels gives the answer of the oracle."""

import numpy as np
import pytest
from helpers import metrics
from helpers.checking import DTYPES, equal
from helpers.families import FAMILIES, MORE_FAMILIES, any_bits, cancelling, gaussian, huge, integers, subnormal, tiny
from on_gpu import EXTREMES_THAT_STAY, ask, count, equal_rows, make, put

from halfspace import HalfspaceIndex
from halfspace.hits import Hits

pytestmark = pytest.mark.gpu

FILTERS = ["scan", "cells", "groups"]
every_metric = pytest.mark.parametrize("metric", ["cosine", "l2"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def by_name(families):
    return pytest.mark.parametrize("family", families, ids=lambda family: family.__name__)


@every_metric
@by_name(FAMILIES + MORE_FAMILIES)
def test_every_filter_is_exact(family, metric, rng, gpu):
    """Few rows; the cells meet one direction, four at once, strips of 64, and a matrix of 140."""
    dtype = DTYPES[rng.integers(3)]
    vectors, directions = metrics.nonzero(*family(rng, 18, 13, 7, dtype))
    batch, tau = metrics.pairs(metric, rng, vectors, directions)
    expected = metrics.query(metric, vectors, batch, tau)
    some = rng.permutation(len(tau))[:13]
    for filter in FILTERS:
        index = make(gpu, vectors, filter=filter, dtype=dtype, metric=metric)
        own = [expected[k] for k in some]
        equal_rows(ask(gpu, index, batch[some], tau[some]), own)
        equal_rows(ask(gpu, index, batch[some], tau[some], scores=False), own)
        if filter == "cells":
            assert count(gpu, index, batch, tau).tolist() == [len(found) for found, _ in expected]
            equal_rows(ask(gpu, index, batch[some[:5]], tau[some[:5]]), own[:5])
            for k in some[:2]:
                equal_rows(ask(gpu, index, batch[k : k + 1], float(tau[k])), expected[k : k + 1])


def nearest_few(metric, rng, vectors, directions):
    """Thresholds (m,) that 1 to 20 vectors reach, far from all scores, and the answers; sets by float64."""
    rows, points = vectors.astype(np.float64), directions.astype(np.float64)
    products, squares, own = rows @ points.T, (rows * rows).sum(axis=1)[:, None], (points * points).sum(axis=1)
    scores = products / np.sqrt(squares * own) if metric == "cosine" else -np.sqrt(squares + own - 2 * products)
    ranked, columns = np.sort(scores, axis=0), np.arange(len(points))
    ranks = rng.integers(1, 21, len(points))
    tau = (ranked[-ranks, columns] + ranked[-ranks - 1, columns]) / 2
    found = [np.flatnonzero(scores[:, k] >= tau[k]) for k in columns]
    expected = [
        (rows, np.array([metrics.score(metric, q, x) for x in vectors[rows]], np.float32))
        for rows, q in zip(found, directions, strict=True)
    ]
    return (tau if metric == "cosine" else -tau), expected


@every_metric
@pytest.mark.parametrize(
    ("d", "batches"), [(2, [9, 130]), (128, [1, 12]), (129, [5, 70]), (384, [12]), (385, [1, 20]), (769, [2, 13])]
)
def test_dimensions_and_batches(d, batches, metric, rng, gpu):
    """Every kernel for cells, where the numbers of dimensions begin and end that it takes."""
    vectors, directions = gaussian(rng, 100, d, max(batches), "float32")
    index = make(gpu, vectors, filter="cells", metric=metric)
    tau, expected = nearest_few(metric, rng, vectors, directions)
    for m in batches:
        equal_rows(ask(gpu, index, directions[:m], tau[:m]), expected[:m])


@every_metric
@pytest.mark.parametrize("d", [3, 512, 1030])
@by_name([cancelling, integers])
def test_hairlines(family, d, metric, rng, gpu):
    """What float64 cannot decide, by one lane, by eight and by a warp."""
    dtype = DTYPES[rng.integers(3)]
    vectors, directions = metrics.nonzero(*family(rng, 6, d, 3, dtype))
    tau = np.concatenate([metrics.boundary_taus(metric, rng, vectors, q, 1) for q in directions])
    batch = np.repeat(directions, 3, axis=0)
    index = make(gpu, vectors, filter="scan", dtype=dtype, metric=metric)
    equal_rows(ask(gpu, index, batch, tau), metrics.query(metric, vectors, batch, tau))


@every_metric
def test_chunks(metric, rng, gpu):
    """Rows in several chunks and clusters, in an order of their own."""
    centres = 4 * rng.standard_normal((40, 9))
    vectors = (centres[rng.integers(0, 40, 2300)] + 0.3 * rng.standard_normal((2300, 9))).astype(np.float32)
    directions = (centres[rng.integers(0, 40, 130)] + 0.3 * rng.standard_normal((130, 9))).astype(np.float32)
    tau, expected = nearest_few(metric, rng, vectors, directions)
    ids = np.sort(rng.permutation(5000)[:2300])
    expected = [(ids[rows], scores) for rows, scores in expected]
    index = make(gpu, vectors, filter="cells", ids=ids, metric=metric)
    for m in (130, 70, 5):
        equal_rows(ask(gpu, index, directions[:m], tau[:m]), expected[:m])
    for filter in ("groups", "scan"):
        other = make(gpu, vectors, filter=filter, ids=ids, metric=metric)
        equal_rows(ask(gpu, other, directions[:4], tau[:4]), expected[:4])
        assert count(gpu, other, directions[:4], tau[:4]).tolist() == [len(found) for found, _ in expected[:4]]
        other.verify()


EDGES = {
    "cosine": [1.0, np.nextafter(1.0, 2), -1.0, np.nextafter(-1.0, 0), np.nextafter(-1.0, -2), 2.0**-601, -(2.0**-601)],
    "l2": [2.0**-149, 2.0**-150, 2.0**127, 2.0**199, 2.0**200, -(2.0**-149), 5.0, np.nextafter(5.0, 0)],
}


@every_metric
@pytest.mark.parametrize("filter", FILTERS)
def test_extreme_thresholds(filter, metric, gpu, monkeypatch):
    """Each for all directions; thresholds beyond all scores, and at the ends of them. Some distances are subnormal."""
    if hasattr(gpu.xp, "emulator"):
        monkeypatch.setattr(gpu.xp.emulator, "flush", True)
    vectors = np.array([[3, 4], [0, 2.0**-149], [-3, -4], [-1e-30, 1e-30], [3e38, 3e38], [-1, 1], [6, 8]], np.float32)
    directions = np.array([[3, 4], [2.0**-149, 2.0**-149], [1e-30, -1e-30], [3e38, 3e38], [0, -2]], np.float32)
    index = make(gpu, vectors, filter=filter, metric=metric)
    for tau in EDGES[metric] + EXTREMES_THAT_STAY:
        equal_rows(ask(gpu, index, directions, tau), metrics.query(metric, vectors, directions, tau))


@every_metric
@by_name([subnormal, tiny, huge, any_bits, cancelling, integers])
def test_flushed_subnormals(family, metric, rng, gpu, monkeypatch):
    """A GPU always flushes; the emulator where it is told to, before anything is stored."""
    if hasattr(gpu.xp, "emulator"):
        monkeypatch.setattr(gpu.xp.emulator, "flush", True)
    dtype = DTYPES[rng.integers(3)]
    vectors, directions = metrics.nonzero(*family(rng, 12, 9, 3, dtype))
    tau = np.concatenate([metrics.boundary_taus(metric, rng, vectors, q, 1) for q in directions])
    tau = np.concatenate([tau, rng.permutation(EXTREMES_THAT_STAY)[:5]])
    batch = np.concatenate([np.repeat(directions, 3, axis=0), directions[rng.integers(0, 3, 5)]])
    expected = metrics.query(metric, vectors, batch, tau)
    for filter in FILTERS:
        index = make(gpu, vectors, filter=filter, dtype=dtype, metric=metric)
        equal_rows(ask(gpu, index, batch, tau), expected)
        equal_rows(ask(gpu, index, batch[:3], tau[:3]), expected[:3])


def test_a_ball_around_its_centre_is_not_taken_for_less_than_it_is(gpu):
    """Its length is negative: a share more of it would lower the threshold."""
    vectors = np.where(np.arange(1024) % 2, 1.0, -1.0).astype(np.float32)[:, None]
    index = make(gpu, vectors, filter="groups", metric="l2")
    points = np.float32(2.0) ** -np.arange(5, 26, dtype=np.float32)[:, None]
    radius = np.full(len(points), 1.0 + 2.0**-23)
    assert count(gpu, index, points, radius).tolist() == [512 + 512 * bool(p <= 2.0**-23) for p in points]


@every_metric
def test_the_nearest(metric, rng, gpu):
    vectors, directions = gaussian(rng, 700, 5, 3, "float32")
    index = make(gpu, vectors, filter="cells", metric=metric)
    every = metrics.query(metric, vectors, directions, -np.inf if metric == "cosine" else np.inf)
    hits = index.search(put(gpu, directions), 9)._on_host()
    for ours, answer in zip(hits, every, strict=True):
        equal(ours, metrics.best(metric, *answer, 9))


@every_metric
@pytest.mark.parametrize("filter", FILTERS)
def test_stages_account_for_every_vector(filter, metric, rng, gpu):
    vectors, directions = gaussian(rng, 2100, 16, 4, "float32")
    options = {"filter": filter, "metric": metric}
    index, theirs = make(gpu, vectors, **options), HalfspaceIndex(16, **options)
    theirs.insert(vectors)
    theirs.compact()
    limits = (-1.0, -0.2, 0.6, 2.0) if metric == "cosine" else (np.inf, 5.0, 3.0, -1.0)
    for q, tau in zip(directions, limits, strict=True):
        told, other = index.explain(put(gpu, q), tau), theirs.explain(q, tau)
        assert (told.hits, told.vectors) == (other.hits, 2100)
        for stage in told.stages:
            assert stage.tested == stage.dropped + stage.taken + stage.left
        if filter == "cells":  # the same cells, weighed alike; a CPU leaves out what does not pay
            assert told.stage("high") == other.stage("high")


@every_metric
@pytest.mark.parametrize("filter", FILTERS)
def test_into_memory_that_is_there(filter, metric, rng, gpu):
    """Scores are distances there as well; what has no cosine is said by `check`."""
    vectors, directions = gaussian(rng, 300, 6, 4, "float32")
    index = make(gpu, vectors, filter=filter, metric=metric)
    tau, expected = nearest_few(metric, rng, vectors, directions)
    out = Hits.preallocate(1000, 4)
    for _ in range(2):
        equal_rows(index.query(put(gpu, directions), put(gpu, tau), out=out).check()._on_host(), expected)
    directions[2] = 0
    if metric == "l2":
        index.query(put(gpu, directions), put(gpu, tau), out=out).check()
        return
    index.query(put(gpu, directions), put(gpu, tau), out=out)
    with pytest.raises(ValueError, match=r"directions\[2\].* zero"):
        out.check()
    with pytest.raises(ValueError, match=r"directions\[2\].* zero"):
        index.query(put(gpu, directions), put(gpu, tau))


@every_metric
@pytest.mark.parametrize("filter", ["cells", "groups"])
def test_files_are_those_of_the_cpu(filter, metric, rng, gpu, tmp_path):
    vectors, directions = gaussian(rng, 1100, 6, 3, "float16")
    tau, expected = nearest_few(metric, rng, vectors, directions)
    make(gpu, vectors, filter=filter, dtype="float16", metric=metric).save(tmp_path / "first")
    theirs = HalfspaceIndex.load(tmp_path / "first")
    theirs.verify()
    theirs.save(tmp_path / "second")
    ours = HalfspaceIndex.load(tmp_path / "second", device="gpu")
    ours.verify()
    ours.save(tmp_path / "third")
    contents = [(tmp_path / name).read_bytes() for name in ("first", "second", "third")]
    assert contents[0] == contents[1] == contents[2]
    equal_rows(ask(gpu, ours, directions, tau), expected)
