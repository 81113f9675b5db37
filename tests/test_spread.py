"""Folders of shards that are spread over devices: the answers of one index, to the bit, on the host."""

import pickle
import re

import numpy as np
import pytest
from helpers.checking import build, identical

import halfspace
from halfspace import Shards

D = 6


@pytest.fixture(params=[["cpu"], pytest.param(["gpu:0", "gpu:1"], marks=pytest.mark.gpu)], ids=["one CPU", "two GPUs"])
def devices(request, monkeypatch):
    """Devices that there are, or that the emulator has."""
    if request.param[0] != "cpu":
        gpu = request.getfixturevalue("gpu")
        if hasattr(gpu.xp, "emulator"):
            monkeypatch.setattr(gpu.xp.emulator, "devices", 2)
        if gpu.xp.cuda.runtime.getDeviceCount() < 2:
            pytest.skip("needs two GPUs")
    return request.param


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_devices_answer_like_one_index(metric, devices, rng, tmp_path):
    """Integers have many ties, within a shard and across; rows are dealt out unevenly, and some are dead."""
    vectors = rng.integers(-2, 3, (700, D)).astype(np.float32)
    vectors[:, 0] = 1
    directions = rng.integers(-2, 3, (5, D)).astype(np.float32)
    directions[:, 1] = 1
    tau, end = {"ip": (3.0, 6.0), "cosine": (0.5, 0.9), "l2": (2.0, 1.0)}[metric]
    ids = rng.permutation(3000)[:700] - 900
    index = build(vectors, metric=metric, ids=ids)
    made = Shards.build(tmp_path / "x", vectors, ids=ids, metric=metric, shard_rows=300, filter="cells")
    index.delete(ids[::7])
    made.delete(ids[::7])
    shards = Shards(tmp_path / "x", device=devices)
    assert [len(own) for own in shards._spread.indexes] == ([600] if len(devices) == 1 else [343, 257])
    assert [own.device for own in shards._spread.indexes] == devices
    several = np.linspace(tau, end, len(directions))
    for limits in (tau, several):
        for options in ({}, {"sort": True}, {"limit": 3}, {"sort": True, "limit": 3}, {"unless": end}):
            identical(shards.query(directions, limits, **options), index.query(directions, limits, **options))
        bare = shards.query(directions, limits, scores=False)
        assert bare.scores is None
        assert bare.ids.tolist() == index.query(directions, limits).ids.tolist()
        for options in ({}, {"unless": end}, {"within": index.ids[::5]}):
            found = shards.count(directions, limits, **options), index.count(directions, limits, **options)
            assert found[0].tolist() == found[1].tolist()
    for k in (0, 1, 9, 1000):
        identical(shards.search(directions, k), index.search(directions, k))
        identical(shards.search(directions, k, tau=tau), index.search(directions, k, tau=tau))
        identical(
            shards.search(directions, k, within=index.ids[::5]), index.search(directions, k, within=index.ids[::5])
        )
    identical(shards.query(directions[0], tau), index.query(directions[0], tau))
    identical(shards.query(directions, tau, within=index.ids[::5]), index.query(directions, tau, within=index.ids[::5]))
    assert shards.count(directions[0], tau) == index.count(directions[0], tau)
    more = rng.integers(-2, 3, (30, D)).astype(np.float32)
    more[:, 0] = 1
    assert shards.insert(more).tolist() == index.insert(more).tolist()
    again = pickle.loads(pickle.dumps(shards))
    for own in (shards, again):
        identical(own.query(directions, tau), index.query(directions, tau))
        identical(own.search(directions, 9), index.search(directions, 9))


def test_devices_are_named_once_and_questions_are_checked(devices, rng, tmp_path):
    vectors = rng.standard_normal((20, D), dtype=np.float32)
    halfspace.Shards.build(tmp_path / "x", vectors, shard_rows=7)
    with pytest.raises(ValueError, match="device names one twice"):
        Shards(tmp_path / "x", device=devices + devices)
    with pytest.raises(ValueError, match="device must be"):
        Shards(tmp_path / "x", device="gpu:none")
    for wrong in (0, False, 5, b"gpu", {"cpu"}, iter(["cpu"]), np.array(devices)):
        with pytest.raises(TypeError, match=f"or a list or tuple of these, got {re.escape(repr(wrong))}$"):
            Shards(tmp_path / "x", device=wrong)
    for wrong in ([devices], [*devices, 5], [None]):
        with pytest.raises(TypeError, match=f"'gpu:<number>', got {re.escape(repr(wrong[-1]))}$"):
            Shards(tmp_path / "x", device=wrong)
    for empty in ([], ()):
        with pytest.raises(ValueError, match=f"device must name at least one, got {re.escape(repr(empty))}"):
            Shards(tmp_path / "x", device=empty)
    assert len(pickle.loads(pickle.dumps(Shards(tmp_path / "x")))) == 20
    shards = Shards(tmp_path / "x", device=devices[0])
    for ask in (shards.query, shards.count, shards.search):
        with pytest.raises(ValueError, match="threads must be at least 1, got -1"):
            ask(vectors[0], 1, threads=-1)
    assert len(shards.query(vectors[0], -np.inf)) == 20
    with pytest.raises(ValueError, match=r"directions\[1, 0\] is nan"):
        shards.query([[0.0] * D, [np.nan] * D], 0.0)
    with pytest.raises(ValueError, match="tau is nan"):
        shards.count(vectors[0], np.nan)
    with pytest.raises(ValueError, match="unless"):
        shards.query(vectors[:2], 0.0, unless=[1.0, np.nan])
    with pytest.raises(ValueError, match="limit must be at least 0"):
        shards.query(vectors[0], 0.0, limit=-1)


@pytest.mark.parametrize("twice", [["gpu:0", "gpu:0"], ["gpu:0", "gpu:00"], ("cpu", "gpu:1", "gpu:01")])
def test_a_gpu_that_is_spelled_twice_is_refused_even_where_there_is_none(twice, tmp_path):
    Shards.create(tmp_path / "x", D)
    with pytest.raises(ValueError, match=f"device names one twice, give each once: {', '.join(map(repr, twice))}"):
        Shards(tmp_path / "x", device=twice)


@pytest.mark.gpu
def test_the_current_gpu_has_a_number(gpu, rng, tmp_path):
    Shards.build(tmp_path / "x", rng.standard_normal((20, D), dtype=np.float32), shard_rows=7)
    for twice in (["gpu", "gpu:0"], ["gpu:00", "cpu", "gpu"]):
        with pytest.raises(ValueError, match="device names one twice"):
            Shards(tmp_path / "x", device=twice)
    assert [own.device for own in Shards(tmp_path / "x", device=["gpu", "cpu"])._spread.indexes] == ["gpu:0", "cpu"]


def test_a_zero_direction_has_no_cosine_wherever_it_is_asked(devices, rng, tmp_path):
    index = halfspace.HalfspaceIndex(D, metric="cosine")
    Shards.create(tmp_path / "x", D, metric="cosine")
    for vectors in (rng.standard_normal((0, D)), rng.standard_normal((20, D))):
        index.insert(vectors)
        Shards(tmp_path / "x").insert(vectors)
        for own in (index, Shards(tmp_path / "x"), Shards(tmp_path / "x", device=devices)):
            for k in (0, 3):
                for tau in (None, -2.0, 0.5, 2.0):
                    with pytest.raises(ValueError, match=r"directions\[1\] is zero"):
                        own.search([[1.0] * D, [0.0] * D], k, tau=tau)
