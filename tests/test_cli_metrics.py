"""The command line with cosines and distances: the metric of a file, its thresholds, and what has none."""

import json

import numpy as np
import pytest
from helpers import metrics
from helpers.command import fail, succeed


@pytest.fixture(scope="module")
def data():
    """Small integers, with many ties."""
    rng = np.random.default_rng(5)
    return rng.integers(-4, 5, (700, 12)).astype(np.float32), rng.integers(-3, 4, (5, 12)).astype(np.float32)


@pytest.mark.parametrize(("metric", "tau", "unless"), [("cosine", 0.25, 0.75), ("l2", 9, 6)])
def test_metrics_on_the_command_line(metric, tau, unless, tmp_path, data):
    vectors, directions = metrics.nonzero(*data)
    np.save(tmp_path / "x.npy", vectors)
    np.save(tmp_path / "q.npy", directions)
    built = json.loads(succeed("build", tmp_path / "x.npy", "-o", tmp_path / "x.hs", "--metric", metric, "--json"))
    assert built["metric"] == json.loads(succeed("info", tmp_path / "x.hs", "--json"))["metric"] == metric
    own = ("query", tmp_path / "x.hs", tmp_path / "q.npy", "--json")
    option = "--radius" if metric == "l2" else "--tau"
    document = json.loads(succeed(*own, option, tau))
    assert document == json.loads(succeed(*own, "--tau", tau))
    band = json.loads(succeed(*own, option, tau, "--unless", unless, "--sort"))
    for q, answer, part in zip(directions, document["answers"], band["answers"], strict=True):
        ids, scores = metrics.one(metric, vectors, q, tau)
        assert answer["ids"] == ids.tolist()
        assert answer["scores"] == scores.tolist()
        between = ~np.isin(ids, metrics.hits(metric, vectors, q, unless))
        assert part["ids"] == metrics.best(metric, ids[between], scores[between])[0].tolist()
    assert "metric must be one of" in fail(2, "build", tmp_path / "x.npy", "-o", tmp_path / "y.hs", "--metric", "l1")


def test_zero_vectors_have_no_cosine(tmp_path, data):
    vectors = data[0].copy()
    vectors[650] = 0
    np.save(tmp_path / "x.npy", vectors)
    line = fail(2, "build", tmp_path / "x.npy", "-o", tmp_path / "x.hs", "--metric", "cosine")
    assert "650" in line
    assert "is zero, which has no cosine" in line
