"""Shards on a cluster of Ray: the answers of one index, to the bit, whatever becomes of workers and nodes."""

import os
import random
import sys

import numpy as np
import psutil
import pyarrow
import pytest
from helpers.checking import build, identical
from pyarrow import parquet

from halfspace import Shards

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from halfspace.ray import RayShards  # noqa: E402

D, N = 4, 600
STORE = 80 << 20
"""Bytes of Ray's store of objects: the least that it takes."""


@pytest.fixture(scope="module")
def started():
    """Ray on this machine, whose workers find what the tests find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=STORE)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def vectors():
    """Many of a score, so that the k best are told apart by ids, in other shards, too."""
    return np.random.default_rng(3).integers(-2, 3, (N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, vectors):
    """Shards of rows in any order, some of them dead."""
    folder = tmp_path_factory.mktemp("ray") / "shards"
    ids = np.random.default_rng(4).permutation(N)
    shards = Shards.build(folder, vectors[ids], ids=ids, shard_rows=200)
    shards.delete([5, 6, 7])
    return folder


@pytest.fixture(scope="module")
def index(vectors):
    index = build(vectors)
    index.delete([5, 6, 7])
    return index


def table_of(folder):
    """All pairs that were written, in order."""
    tables = [parquet.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return pyarrow.concat_tables(tables).sort_by([("id_a", "ascending"), ("id_b", "ascending")])


def test_questions(started, folder, index, rng):
    asked = RayShards(folder)
    directions = rng.integers(-2, 3, (5, D)).astype(np.float32)
    assert repr(asked).startswith("<RayShards: 597 vectors in 3 files")
    assert len(asked) == 597
    for given in (directions, directions[2], directions[:0]):
        identical(asked.query(given, 5.0), index.query(given, 5.0))
        identical(asked.query(given, 5.0, sort=True), index.query(given, 5.0, sort=True))
        identical(asked.query(given, -1.0, limit=4), index.query(given, -1.0, limit=4))
        identical(asked.query(given, 1.0, unless=4.0), index.query(given, 1.0, unless=4.0))
        for k in (0, 1, 10, 1000):
            identical(asked.search(given, k), index.search(given, k))
        identical(asked.search(given, 9, tau=6.0), index.search(given, 9, tau=6.0))
    assert asked.count(directions, np.arange(5)).tolist() == index.count(directions, np.arange(5)).tolist()
    assert asked.count(directions[0], 2.0) == index.count(directions[0], 2.0)
    assert asked.query(directions, 5.0, scores=False).scores is None
    with pytest.raises(ValueError, match=r"directions\[1, 0\] is nan"):
        asked.query([[1, 2, 3, 4], [np.nan, 0, 0, 0]], 1.0)
    asked.close()


def test_distances(started, tmp_path, vectors):
    index = build(vectors, metric="l2")
    Shards.build(tmp_path / "x", vectors, shard_rows=300, metric="l2")
    asked = RayShards(tmp_path / "x")
    identical(asked.query(vectors[:5], 1.5, sort=True), index.query(vectors[:5], 1.5, sort=True))
    identical(asked.search(vectors[:5], 40), index.search(vectors[:5], 40))
    asked.close()


def test_joins(started, tmp_path, folder, index):
    asked, seen = RayShards(folder), []
    wanted = index.pairs(10.0)
    count = asked.pairs(10.0, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert count == len(wanted) > 0
    assert table_of(tmp_path / "out").equals(wanted.to_arrow())
    assert seen == [(done, 6) for done in range(7)]
    assert len(list((tmp_path / "out").glob("pairs-*.parquet"))) == 6
    assert asked.groups(14.0).tolist() == index.groups(14.0).tolist()
    band = asked.pairs(9.0, tmp_path / "band", unless=10.0, scores=False)
    assert table_of(tmp_path / "band").equals(index.pairs(9.0, unless=10.0, scores=False).to_arrow())
    assert band > 0
    with pytest.raises(ValueError, match="holds pairs of other shards or thresholds"):
        asked.pairs(9.0, tmp_path / "out")
    (tmp_path / "out" / "pairs-00000-00001.parquet").unlink()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert asked.pairs(10.0, tmp_path / "out") == count
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert table_of(tmp_path / "out").equals(wanted.to_arrow())
    with pytest.raises(ValueError, match="tau is nan"):
        asked.groups(float("nan"))


def test_an_empty_folder(started, tmp_path):
    Shards.create(tmp_path / "x", D)
    asked = RayShards(tmp_path / "x")
    assert len(asked.query([1, 2, 3, 4], 1.0)) == len(asked.search([1, 2, 3, 4], 3)) == 0
    assert asked.count([[1, 2, 3, 4]], 1.0).tolist() == [0]
    assert (asked.pairs(1.0, tmp_path / "out"), asked.groups(1.0).tolist()) == (0, [])


def kill_one(choice):
    """Kill a worker that has a task of ours, if there is one."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::_pairs"):
                workers.append(process)
        except psutil.Error:
            pass
    for process in choice.sample(workers, min(1, len(workers))):
        process.kill()
    return bool(workers)


def test_workers_that_are_killed(started, tmp_path, folder, index):
    wanted, choice, killed = index.pairs(4.0).to_arrow(), random.Random(0), []
    asked = RayShards(folder)

    def progress(done, total):
        if done < total and len(killed) < 3 and kill_one(choice):
            killed.append(done)

    assert asked.pairs(4.0, tmp_path / "out", progress=progress) == wanted.num_rows
    assert killed
    assert table_of(tmp_path / "out").equals(wanted)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(files) == 7  # six of pairs, and the plan


def test_a_node_that_goes(tmp_path, folder, index, monkeypatch):
    """A cluster of two nodes, one of which is taken away while tasks and actors are on it."""
    ray.shutdown()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 3}
    node = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"_system_config": quick})
    try:
        other = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        cluster.connect()
        asked, direction = RayShards(folder), np.ones(D, np.float32)
        identical(asked.query(direction, 3.0), index.query(direction, 3.0))

        def progress(done, total):
            if done == 2:
                cluster.remove_node(other, allow_graceful=False)

        wanted = index.pairs(6.0).to_arrow()
        assert asked.pairs(6.0, tmp_path / "out", progress=progress) == wanted.num_rows
        assert table_of(tmp_path / "out").equals(wanted)
        identical(asked.query(direction, 3.0), index.query(direction, 3.0))
    finally:
        ray.shutdown()
        cluster.shutdown()
