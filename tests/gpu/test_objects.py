"""Indexes and answers on a GPU as objects of Python: copies, pickles, file objects, tables."""

import copy
import io
import multiprocessing
import pickle
from operator import methodcaller

import numpy as np
import pytest
from helpers.checking import DTYPES, FILTERS, build, identical
from on_gpu import ask, make, put

from halfspace import HalfspaceIndex

pytestmark = pytest.mark.gpu

AGAIN = [copy.copy, copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))]
DIRECTIONS = np.random.default_rng(12).integers(-3, 4, (4, 5)).astype(np.float32)
TAU = np.full(4, 9.0)


def living(gpu, filter="auto", dtype="float32", bring=np.asarray):
    """Sealed rows, a tail, and dead rows of both; on the CPU, or, by `bring`, on the GPU."""
    rng = np.random.default_rng(11)
    vectors = rng.integers(-9, 10, (630, 5)).astype(np.float32)
    if bring is np.asarray:
        index = build(vectors[:600], filter=filter, dtype=dtype, threads=2)
    else:
        index = make(gpu, vectors[:600], filter=filter, dtype=dtype, threads=2)
    index.insert(bring(vectors[600:]))
    index.delete(bring([3, 610, 629]))
    return index


def content(index):
    file = io.BytesIO()
    index.save(file)
    return file.getvalue()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filter", FILTERS)
def test_a_pickle_of_a_gpu_comes_back_to_it(filter, dtype, gpu):
    index = living(gpu, filter, dtype, gpu.xp.asarray)
    pickled = pickle.dumps(index)
    assert content(index) in pickled
    other = pickle.loads(pickled)
    assert pickle.dumps(other) == pickled
    assert other.stats() == index.stats()
    assert isinstance(other.ids, gpu.xp.ndarray)
    other.verify()
    identical(ask(gpu, index, DIRECTIONS, TAU), ask(gpu, other, DIRECTIONS, TAU))


def test_a_file_object_of_any_device_is_read_on_any(gpu):
    ours, theirs = living(gpu, "cells", bring=gpu.xp.asarray), living(gpu, "cells")
    for index in (ours, theirs):
        for device in ("cpu", "gpu"):
            loaded = HalfspaceIndex.load(content(index), device=device)
            assert content(loaded) == content(index)
            found = loaded.query(DIRECTIONS, TAU) if device == "cpu" else ask(gpu, loaded, DIRECTIONS, TAU)
            identical(found, theirs.query(DIRECTIONS, TAU))


@pytest.mark.parametrize("again", AGAIN)
def test_neither_sees_what_the_other_does(again, gpu):
    index = living(gpu, bring=gpu.xp.asarray)
    other = again(index)
    kept, expected = content(index), ask(gpu, index, DIRECTIONS, TAU)
    other.insert(put(gpu, np.ones((4, 5), np.float32)))  # both have a tail of 30 rows, and each goes on with its own
    other.delete(gpu.xp.asarray([0, 601]))
    assert content(index) == kept
    identical(ask(gpu, index, DIRECTIONS, TAU), expected)
    changed, expected = content(other), ask(gpu, other, DIRECTIONS, TAU)
    index.insert(put(gpu, np.full((4, 5), 2, np.float32)))
    index.insert(put(gpu, np.full((400, 5), 3, np.float32)))
    index.compact()
    index.clear()
    assert content(other) == changed
    identical(ask(gpu, other, DIRECTIONS, TAU), expected)
    other.verify()


def test_an_index_without_its_vectors(gpu):
    index = living(gpu, bring=gpu.xp.asarray)
    index.clear()
    assert len(index) == len(index.ids) == 0
    assert ask(gpu, index, DIRECTIONS, TAU).totals.tolist() == [0] * 4
    index.verify()
    assert index.insert(put(gpu, np.ones((1, 5), np.float32))).tolist() == [630]
    assert ask(gpu, index, np.ones(5, np.float32), 5.0).ids.tolist() == [630]


def test_another_process_takes_an_index(gpu):
    """A spawned one: a forked one cannot use the GPU."""
    index = living(gpu, bring=gpu.xp.asarray)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pickle.dumps(pool.apply(methodcaller("copy"), (index,))) == pickle.dumps(index)


@pytest.mark.parametrize("scores", [True, False])
def test_rows_of_hits_lie_on_the_gpu(scores, gpu):
    index, theirs = living(gpu, bring=gpu.xp.asarray), living(gpu).query(DIRECTIONS, TAU, scores=scores)
    hits = index.query(put(gpu, DIRECTIONS), gpu.xp.asarray(TAU), scores=scores)
    for part, expected in ((hits, theirs), (hits[1], theirs[1]), (hits[:0], theirs[:0])):
        assert isinstance(part.queries, gpu.xp.ndarray)
        assert part.queries.dtype == np.int64
        assert part.queries.tolist() == expected.queries.tolist()


@pytest.mark.parametrize(("library", "method"), [("pyarrow", "arrow"), ("pandas", "pandas"), ("polars", "polars")])
def test_tables_come_to_the_host(library, method, gpu):
    pytest.importorskip(library)
    index, theirs = living(gpu, bring=gpu.xp.asarray), living(gpu).query(DIRECTIONS, TAU)
    hits = index.query(put(gpu, DIRECTIONS), gpu.xp.asarray(TAU))
    for part, expected in ((hits, theirs), (hits[1], theirs[1]), (hits[:0], theirs[:0])):
        assert getattr(part, f"to_{method}")().equals(getattr(expected, f"to_{method}")())


def test_answers_are_pickled(gpu):
    index = living(gpu, bring=gpu.xp.asarray)
    hits = index.query(put(gpu, DIRECTIONS), gpu.xp.asarray(TAU))
    again = pickle.loads(pickle.dumps(hits))
    assert isinstance(again.ids, gpu.xp.ndarray)
    identical(again._on_host(), hits._on_host())
    out = index.preallocate(2000, directions=4)
    index.query(put(gpu, DIRECTIONS), gpu.xp.asarray(TAU), out=out)
    with pytest.raises(RuntimeError, match="check"):
        pickle.dumps(out)
    out.check()
    assert out.queries.tolist() == hits.queries.tolist()
    again = pickle.loads(pickle.dumps(out))
    assert type(again) is type(hits)
    identical(again._on_host(), hits._on_host())
