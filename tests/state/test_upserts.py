"""Upserts: vectors are exchanged in one step, of which no reader sees the middle and no failure leaves a part."""

import threading

import numpy as np
import pytest
from helpers.checking import EXTENDED, build

from halfspace import HalfspaceIndex

N = 700


def versions(index, q):
    """The scores of all vectors: each version of them has one of its own."""
    hits = index.query(q, -np.inf)
    return len(hits), set(hits.scores.tolist())


@pytest.mark.parametrize("filter", EXTENDED)
def test_readers_see_the_old_vectors_or_the_new_ones(filter):
    index = build(np.full((N, 3), 1.0, np.float32), filter=filter)
    ids, q, seen, done = index.ids, np.array([1.0, 0.0, 0.0], np.float32), [], threading.Event()

    def read():
        while not done.is_set():
            seen.append(versions(index, q))

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(2, 30):
        index.insert(np.full((N, 3), float(version)), ids=ids, replace=True)
        assert versions(index, q) == (N, {float(version)})
    done.set()
    reader.join()
    assert seen
    assert all(count == N and len(scores) == 1 for count, scores in seen)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_cancelled_upsert_changes_nothing(at, rng):
    vectors = rng.standard_normal((3000, 8)).astype(np.float32)
    index = build(vectors)
    calls = []

    def progress(done, total):
        calls.append(done)
        if len(calls) > at:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        index.insert(-vectors, ids=index.ids, replace=True, progress=progress)
    np.testing.assert_array_equal(index.vectors(index.ids), vectors)
    index.verify()
    index.insert(-vectors, ids=index.ids, replace=True)
    np.testing.assert_array_equal(index.vectors(index.ids), -vectors)


def test_some_are_replaced_and_some_are_new(rng, tmp_path):
    vectors = rng.standard_normal((400, 5)).astype(np.float32)
    index = build(vectors[:300])
    index.insert(vectors[300:310])  # a tail
    ids = np.array([5, 305, 1000, 299, -3])
    fresh = rng.standard_normal((5, 5)).astype(np.float32)
    assert index.insert(fresh, ids=ids, replace=True).tolist() == ids.tolist()
    assert len(index) == 312
    np.testing.assert_array_equal(index.vectors(ids), fresh)
    assert index.insert(vectors[0]).tolist() == [1001]
    index.save(tmp_path / "index")
    loaded = HalfspaceIndex.load(tmp_path / "index")
    loaded.verify()
    np.testing.assert_array_equal(loaded.vectors(ids), fresh)
    assert index.insert(fresh[0], ids=[5], replace=True).tolist() == [5]
    np.testing.assert_array_equal(index.vectors(5), fresh[0])
    assert len(index) == 313


def test_what_is_refused_changes_nothing(rng):
    index = build(rng.standard_normal((50, 2)))
    before = index.vectors(index.ids)
    with pytest.raises(ValueError, match="replace=True needs ids"):
        index.insert(np.ones((3, 2)), replace=True)
    with pytest.raises(ValueError, match="id 4 is given twice"):
        index.insert(np.ones((2, 2)), ids=[4, 4], replace=True)
    with pytest.raises(ValueError, match=r"vectors\[1, 0\] is nan"):
        index.insert([[1, 1], [np.nan, 1]], ids=[4, 5], replace=True)
    with pytest.raises(ValueError, match="id 4 is in the index already"):
        index.insert(np.ones((2, 2)), ids=[4, 90])
    np.testing.assert_array_equal(index.vectors(index.ids), before)
    assert index.insert(np.empty((0, 2)), ids=[], replace=True).tolist() == []


@pytest.mark.gpu
def test_a_gpu_replaces_alike(gpu, rng):
    vectors = gpu.xp.asarray(rng.standard_normal((300, 4)).astype(np.float32))
    index = HalfspaceIndex(4, device="gpu")
    index.insert(vectors)
    index.insert(-vectors[:290], ids=gpu.xp.arange(290), replace=True)
    assert len(index) == 300
    np.testing.assert_array_equal(index.vectors(index.ids).get()[:290], -vectors.get()[:290])
