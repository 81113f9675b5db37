"""The comparison: engines that answer what they are asked, judged and timed by turns."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import metrics
from helpers.answers import rows

from halfspace.bench import (
    ENGINES,
    alternate,
    build,
    build_curve,
    clustered,
    compare,
    exact_hits,
    gaussian,
    heavy_tailed,
    median_ratio,
    midpoints,
    recall_and_false,
)
from halfspace.bench.engines.faiss import radius_of, strictly_above
from halfspace.bench.engines.spec import How
from halfspace.bench.plot import draw


def here(metric):
    """Engines that can run here."""
    specs = [spec for spec in ENGINES.values() if spec.device == "cpu" and metric in spec.metrics]
    return [spec.name for spec in specs if spec.available() is None]


HERE = here("ip")
METRICS = [(name, metric) for metric in ("cosine", "l2") for name in here(metric)]
EXACT = [name for name in HERE if ENGINES[name].exact]
TO_THE_BOUNDARY = [name for name in EXACT if name != "faiss-panorama"]  # whose bounds and rotations round


# engines


@pytest.mark.parametrize("name", HERE)
def test_engine_answers(name, integers):
    """Those exact to the boundary return the exact set, ties included: in one call, one by one, a threshold each."""
    vectors, directions = integers
    each = np.array([10.0, -4.0, 10.0, 30.0, np.inf])
    for engine in build_curve(name, vectors, threads=2):
        assert engine.label.startswith(name)
        assert engine.nbytes > 0
        assert engine.build_seconds > 0
        for taus in (10.0, 10.5, each):
            truth = exact_hits(vectors, directions, taus)
            engine.expected_hits = int(np.diff(truth[0]).max())
            found = engine.query(directions, taus)
            assert all(len(own) == len(set(own)) and set(own) <= set(range(600)) for own in rows(found))
            if name in TO_THE_BOUNDARY:
                assert rows(found) == rows(truth)
            own = np.broadcast_to(taus, 5)
            alone = [rows(engine.query(directions[j : j + 1], own[j]))[0] for j in range(5)]
            assert alone == rows(found) or engine.setting.get("axes") == "principal"  # a batch is rotated otherwise
    if name not in TO_THE_BOUNDARY:  # the last is the most thorough
        assert recall_and_false(found, truth)[0] > 0.5


@pytest.mark.parametrize(("name", "metric"), METRICS)
def test_engine_answers_of_metrics(name, metric, integers):
    """Those exact to the boundary return the exact set at thresholds between scores."""
    vectors, directions = metrics.nonzero(*integers)
    each = (
        midpoints(vectors, directions, 0.05, metric) if metric == "cosine" else np.sqrt([70.5, 80.5, 90.5, 70.5, 60.5])
    )
    for engine in build_curve(name, vectors, threads=2, metric=metric):
        assert engine.metric == metric
        assert engine.nbytes > 0
        for taus in (float(each[0]), each):
            truth = exact_hits(vectors, directions, taus, metric)
            engine.expected_hits = int(np.diff(truth[0]).max())
            found = engine.query(directions, taus)
            assert all(len(own) == len(set(own)) and set(own) <= set(range(600)) for own in rows(found))
            if ENGINES[name].exact and name != "faiss-panorama":
                assert rows(found) == rows(truth)
                own = np.broadcast_to(taus, 5)
                assert [rows(engine.query(directions[j : j + 1], own[j]))[0] for j in range(5)] == rows(found)
    assert recall_and_false(found, truth)[0] > 0.5  # the last is the most thorough


@pytest.mark.parametrize(("name", "metric"), METRICS)
def test_engine_takes_the_ends_of_metrics(name, metric):
    if not ENGINES[name].exact:
        return
    vectors = gaussian(40, 16, 0)
    engine = build(name, vectors, threads=1, metric=metric)
    ends = (np.inf, 1e-3) if metric == "l2" else (-1.5, 1.5)
    directions = gaussian(2, 16, 1)
    assert [[len(own) for own in rows(engine.query(directions, tau))] for tau in ends] == [[40, 40], [0, 0]]


def test_distances_that_are_integers(integers):
    """Radii that are distances: products of small integers are exact in float32, and so are their squares."""
    vectors, directions = integers
    truth = rows(exact_hits(vectors, directions, 9.0, "l2"))
    assert rows(exact_hits(vectors, directions, np.nextafter(9.0, 0), "l2")) != truth
    for name in ("halfspace", "faiss-flat", "numpy", "numpy-direct", "sklearn-kdtree", "scipy-ckdtree"):
        if name in here("l2"):
            assert rows(build(name, vectors, threads=1, metric="l2").query(directions, 9.0)) == truth, name


@pytest.mark.parametrize("name", TO_THE_BOUNDARY)
def test_thresholds_between_floats(name, integers):
    """Just above a tie, in float64: only NumPy rounds the threshold to float32, as it does for everybody."""
    vectors, directions = integers
    engine = build(name, vectors, threads=1)
    for taus in (np.nextafter(10.0, 11), np.nextafter(10.0, [11, 9, 11, 9, 11])):
        truth = exact_hits(vectors, directions, 10.0 if name == "numpy" else taus)
        engine.expected_hits = int(np.diff(truth[0]).max())
        assert rows(engine.query(directions, taus)) == rows(truth)


@pytest.mark.parametrize("name", EXACT)
def test_engine_takes_the_ends(name):
    vectors = gaussian(40, 16, 0)
    engine = build(name, vectors, threads=1)
    directions = np.vstack([vectors[:2], np.zeros((1, 16), np.float32)])
    assert [len(own) for own in rows(engine.query(directions, -1e30))] == [40, 40, 40]
    assert [len(own) for own in rows(engine.query(directions, 1e30))] == [0, 0, 0]
    assert [len(own) for own in rows(engine.query(directions, [np.inf, -np.inf, 0.0]))] == [0, 40, 40]


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_engines_in_few_dimensions(dim):
    vectors, directions = gaussian(300, dim, 1), gaussian(3, dim, 2)
    truth = exact_hits(vectors, directions, 0.75)
    for name in HERE:
        if ENGINES[name].why_not(300, dim):
            assert name == "faiss-panorama"
            continue
        engine = build(name, vectors, threads=2)
        recall, _ = recall_and_false(engine.query(directions, 0.75), truth)
        assert recall == 1 or not ENGINES[name].exact


def test_numpy_in_blocks(monkeypatch, integers):
    engine = build("numpy", integers[0], threads=1)
    whole = engine.query(integers[1], 2.0)
    monkeypatch.setattr("halfspace.bench.engines.others._SCORES", 5000)
    assert rows(engine.query(integers[1], 2.0)) == rows(whole)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["halfspace-gpu", "cupy"])
def test_engines_on_a_gpu(name, gpu, integers, monkeypatch):
    vectors, directions = integers
    monkeypatch.setattr("halfspace.bench.engines.gpu._SCORES", 5000)  # two directions at once
    for metric in ("ip", "l2") if name == "cupy" else ("ip",):
        engine = ENGINES[name].make(vectors, How(1, metric=metric))
        for taus in (10.0, np.array([10.0, -4.0, 10.5, 30.0, 0.0])):
            truth = rows(exact_hits(vectors, directions, taus, metric))
            assert rows(engine.query(directions, taus)) == truth
            assert rows(engine.query(directions[:1], 10.0)) == truth[:1]


def test_strictly_above():
    for tau in (0.1, 0.5, 1.0, -0.3, 0.0, 1e-46, -1e-46, 1e300, -1e300, np.inf, -np.inf):
        above = strictly_above(tau)
        assert np.float32(above) == above or np.isnan(above)
        for score in (tau, 0.1, 0.5, 1.0, -0.3, 0.0):
            with np.errstate(over="ignore"):
                near = np.float32(score)
            for own in (near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))):
                if np.isfinite(own):
                    assert (float(own) > above) == (float(own) >= tau)


def test_radii_of_faiss():
    assert radius_of(0.5, "cosine") == strictly_above(0.5)
    assert radius_of(-1.0, "l2") == 0.0
    for radius in (0.0, 1e-30, 0.1, 1.0, 3.0, 1e30, np.inf):
        beyond = radius_of(radius, "l2")
        with np.errstate(over="ignore"):
            near = np.float32(radius * radius)
        for own in (np.float32(0), near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(0))):
            if np.isfinite(own):
                assert (float(own) < beyond) == (float(own) <= radius * radius)


def test_what_an_engine_refuses():
    vectors = gaussian(20, 17, 0)
    with pytest.raises(ValueError, match="no engine 'annoy'; there are halfspace, "):
        build("annoy", vectors, threads=1)
    with pytest.raises(ValueError, match="sklearn-balltree: "):
        build("sklearn-balltree", vectors, threads=1)
    with pytest.raises(TypeError, match="numpy has no setting 'levels'; it has none"):
        build("numpy", vectors, threads=1, levels=3)
    with pytest.raises(ValueError, match="numpy-direct: has no metric 'ip'"):
        build("numpy-direct", vectors, threads=1)
    with pytest.raises(ValueError, match="faiss-lsh: has no metric 'l2'"):
        build("faiss-lsh", vectors, threads=1, metric="l2")
    assert ENGINES["faiss-ivfpq"].why_not(20, 17) == "needs at least 256 vectors"


def test_missing_modules_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ENGINES["faiss-flat"].available() == "faiss is not installed: pip install faiss-cpu"
    expected = "cupy is not installed: pip install cupy-cuda13x, or cupy-cuda12x for a driver of CUDA 12"
    assert ENGINES["cupy"].available() == expected
    assert ENGINES["numpy"].available() is None
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        draw([], Path("times.svg"))


# comparison


def test_compare(integers):
    vectors, directions = integers
    truth = exact_hits(vectors, directions, 10.0)
    engines = [build("numpy", vectors, threads=1), build("halfspace", vectors, threads=1)]
    turns = []
    for batch in (1, 3):
        found = compare(
            engines,
            directions,
            10.0,
            truth,
            threads=1,
            rounds=2,
            batch=batch,
            progress=lambda *done: turns.append(done),
        )
        assert [row.label for row in found] == ["numpy", "halfspace"]
        assert found[1].ratio == 1
        for row in found:
            assert (row.exact, row.recall, row.false_positives, row.wrong) == (True, 1, 0, 0)
            assert (row.directions, row.hits) == (5, len(truth[1]))
            assert 0 < row.low <= row.median <= row.high
    assert turns == [(k, 4) for k in range(1, 5)] * 2
    assert compare(engines[:1], directions, 10.0, truth, threads=1, rounds=1)[0].ratio is None


def test_turns_alternate():
    order = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    runs = [name for k, name in enumerate(order) if k == 0 or order[k - 1] != name]
    assert runs == list("ababab")
    assert all(len(timing.samples) == 2 for timing in times.values())
    assert median_ratio(times["a"], times["a"]) == 1


# generators


@pytest.mark.parametrize("make", [gaussian, clustered, heavy_tailed])
def test_generators_repeat(make):
    x = make(500, 12, 3)
    assert x.shape == (500, 12)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, make(500, 12, 3))
    assert not np.array_equal(x, make(500, 12, 4))
    assert np.isfinite(make(1, 2, 0)).all()


def test_norms():
    norms = np.linalg.norm(heavy_tailed(2000, 8, 1).astype(np.float64), axis=1)
    assert norms.max() / norms.min() == pytest.approx(2500, rel=1e-5)
    assert np.median(norms) < 2
    np.testing.assert_allclose(np.linalg.norm(clustered(100, 8, 1), axis=1), 1, rtol=1e-6)
