"""An index as an object of Python: copies, pickles, other processes, and an end of all its vectors."""

import copy
import io
import multiprocessing
import pickle
import threading
from operator import methodcaller

import joblib
import numpy as np
import pytest
from helpers.checking import DTYPES, FILTERS, build, identical

from halfspace import HalfspaceIndex

COPIES = [HalfspaceIndex.copy, copy.copy, copy.deepcopy]
COPIES_AND_PICKLES = [*COPIES, lambda index: pickle.loads(pickle.dumps(index))]


def living(filter="auto", dtype="float32"):
    """Sealed rows, a tail, dead rows of both, and an id above the largest that is left."""
    rng = np.random.default_rng(11)
    index = HalfspaceIndex(5, filter=filter, dtype=dtype, threads=2)
    index.insert(rng.integers(-9, 10, (600, 5)))
    index.compact()
    index.insert(rng.integers(-9, 10, (30, 5)))
    index.delete([3, 610, 629])
    return index


def content(index):
    file = io.BytesIO()
    index.save(file)
    return file.getvalue()


def same(one, other):
    directions = np.random.default_rng(12).integers(-3, 4, (4, 5)).astype(np.float32)
    identical(one.query(directions, 9.0), other.query(directions, 9.0))
    assert one.stats() == other.stats()
    assert content(one) == content(other)


# Pickles


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filter", FILTERS)
def test_a_pickle_is_a_file(filter, dtype):
    index = living(filter, dtype)
    pickled = pickle.dumps(index)
    assert content(index) in pickled
    assert pickled == pickle.dumps(index)
    other = pickle.loads(pickled)
    assert pickle.dumps(other) == pickled
    same(index, other)
    for one in (index, other):
        assert one.insert(np.ones((300, 5))).tolist() == list(range(630, 930))
        one.delete([0, 929])
    same(index, other)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol):
    index = living()
    same(index, pickle.loads(pickle.dumps(index, protocol)))


@pytest.mark.parametrize("again", COPIES_AND_PICKLES)
def test_arguments_stay(again):
    index = HalfspaceIndex(6, filter="balls", dtype="bfloat16", threads=3, subspaces=2, group_size=5)
    other = again(index)
    assert other.stats() == index.stats()
    assert (other.dim, other.dtype, other.filter, other.device) == (6, index.dtype, "balls", "cpu")
    builders = [vars(one._snapshot.builder) for one in (index, other)]
    for name in ("backend", "filter", "subspaces", "group_size", "threads"):
        assert builders[0][name] == builders[1][name]
    assert type(other) is HalfspaceIndex
    assert other.insert(np.ones(6)).tolist() == [0]


@pytest.mark.parametrize("again", COPIES_AND_PICKLES)
def test_a_mapped_index(again, tmp_path):
    index = living()
    index.save(tmp_path / "index")
    mapped = HalfspaceIndex.load(tmp_path / "index", mmap=True, threads=2)
    other = again(mapped)
    del mapped
    other.verify()
    same(index, other)


def test_a_damaged_pickle_is_found():
    pickled = bytearray(pickle.dumps(living()))
    pickled[len(pickled) // 2] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        pickle.loads(pickled)


class Named(HalfspaceIndex):
    """An index of another class."""


@pytest.mark.parametrize("again", COPIES_AND_PICKLES)
def test_classes_stay(again):
    other = again(Named(2))
    assert type(other) is Named
    assert other.insert([1, 2]).tolist() == [0]


# Copies


@pytest.mark.parametrize("again", COPIES_AND_PICKLES)
def test_neither_sees_what_the_other_does(again):
    index = living()
    other = again(index)
    kept = content(index)
    other.insert(np.ones((4, 5)))  # both have a tail of 30 rows, and each goes on with its own
    other.delete([0, 601])
    assert content(index) == kept
    changed = content(other)
    index.insert(np.full((4, 5), 2.0))
    index.delete([1, 602])
    index.insert(np.full((400, 5), 3.0))
    index.compact()
    index.clear()
    assert content(other) == changed
    assert other.vectors(range(630, 634)).tolist() == np.ones((4, 5)).tolist()
    other.verify()


@pytest.mark.parametrize("again", COPIES)
def test_copies_share_their_segments(again):
    index = living()
    other = again(index)
    ours, theirs = index._snapshot, other._snapshot
    assert all(one is another for one, another in zip(ours.sealed, theirs.sealed, strict=True))
    assert ours.tail is theirs.tail


def test_what_is_asked_of_a_copy_is_its_own():
    index = build(np.eye(5))
    index.query(np.ones(5), 0.0)
    other = index.copy()
    other.query(np.full(5, 2.0), 0.0)
    assert len(index._snapshot.builder.recent) == 1
    assert len(other._snapshot.builder.recent) == 2


def test_one_copy_for_each_in_a_structure():
    index = living()
    first, second = copy.deepcopy([index, index])
    assert first is second is not index


@pytest.mark.parametrize("again", COPIES_AND_PICKLES)
def test_a_writer_is_not_waited_for(again):
    """Locks are new: what holds that of the index changes nothing for the copy."""
    index = living()
    with index._writing.once:
        other = again(index)
        assert other.insert(np.ones(5)).tolist() == [630]


@pytest.mark.parametrize("again", COPIES_AND_PICKLES)
def test_a_copy_is_the_state_of_one_moment(again):
    """Rows come and go two by two, and no copy has one without the other."""
    index = HalfspaceIndex(2, threads=1)
    stop = threading.Event()

    def change():
        turn = 0
        while not stop.is_set():
            turn += 1
            ids = index.insert(np.full((2, 2), turn))
            if turn % 3 == 0:
                index.delete(ids)
            if turn % 200 == 0:
                index.clear()

    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(60):
            other = again(index)
            vectors = other.vectors(other.ids)
            assert (vectors[::2] == vectors[1::2]).all()
            assert other._snapshot.next_id % 2 == 0
    finally:
        stop.set()
        writer.join()


# Other processes


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_other_processes_take_an_index(method):
    index = living()
    directions = np.eye(5, dtype=np.float32)
    with multiprocessing.get_context(method).Pool(1) as pool:
        counts = pool.apply(methodcaller("count", directions, 3.0), (index,))
        back = pool.apply(methodcaller("copy"), (index,))
    assert counts.tolist() == index.count(directions, 3.0).tolist()
    same(index, back)


def test_joblib(tmp_path):
    index = living()
    directions = np.eye(5, dtype=np.float32)
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(index.count)(directions, tau) for tau in (1.0, 3.0))
    assert [counts.tolist() for counts in found] == [index.count(directions, tau).tolist() for tau in (1.0, 3.0)]
    for compress in (0, 3):
        joblib.dump(index, tmp_path / "index", compress=compress)
        same(index, joblib.load(tmp_path / "index"))
    before = joblib.hash(index)
    assert before == joblib.hash(index.copy())
    index.delete(0)
    assert before != joblib.hash(index)


# The end of all vectors


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filter", FILTERS)
def test_an_index_without_its_vectors(filter, dtype):
    index = living(filter, dtype)
    fresh = HalfspaceIndex(5, filter=filter, dtype=dtype, threads=2)
    for _ in range(2):
        index.clear()
        assert len(index) == 0
        assert index.ids.tolist() == []
        assert index.count(np.ones(5), -np.inf) == 0
        assert 3 not in index
        index.verify()
    assert index.stats() == fresh.stats()
    other = HalfspaceIndex.load(content(index))
    for one in (index, other):
        assert one.insert(np.ones((2, 5))).tolist() == [630, 631]
        assert one.insert(np.ones((1, 5)), ids=[3]).tolist() == [3]
        assert one.count(np.ones(5), 5.0) == 3


def test_a_mapped_file_is_let_go(tmp_path):
    index = living()
    index.save(tmp_path / "index")
    mapped = HalfspaceIndex.load(tmp_path / "index", mmap=True)
    before = mapped.copy()
    mapped.clear()
    assert mapped._stored == ()
    mapped.verify()
    before.verify()
    assert content(before) == content(index)


def test_a_writer_inside_a_writer_does_not_clear():
    index = living()
    with index._writing.once, pytest.raises(RuntimeError, match="already"):
        index.clear()
    assert len(index) == 627
