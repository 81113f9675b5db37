"""Answers on a GPU: what they hold and where, and how they come about when there is more than was expected."""

import importlib

import numpy as np
import pytest
from helpers import reference
from helpers.checking import equal, identical
from helpers.families import gaussian
from on_gpu import ask, count, equal_rows, make, put

from halfspace.hits import Hit, Hits

pytestmark = pytest.mark.gpu

module = importlib.import_module  # a name like halfspace.gpu.search is also that of a function


@pytest.fixture
def problem(rng, gpu):
    """An index of 1,500 vectors with cells, directions and thresholds that a few vectors reach, and the answer."""
    vectors, directions = gaussian(rng, 1500, 8, 40, "float32")
    tau = np.sort(vectors @ directions.T, axis=0)[-rng.integers(1, 60, 40), np.arange(40)].astype(np.float64)
    index = make(gpu, vectors, filter="cells")
    return index, directions, tau, reference.query(vectors, directions, tau, faster=True)


def test_arrays_lie_on_the_gpu(problem, gpu):
    index, directions, tau, expected = problem
    batch, one = index.query(put(gpu, directions), put(gpu, tau)), index.query(put(gpu, directions[0]), float(tau[0]))
    for hits, m in ((batch, 40), (one, 1)):
        for name, dtype, size in (("ids", np.int64, None), ("offsets", np.int64, m + 1), ("totals", np.int64, m)):
            array = getattr(hits, name)
            assert isinstance(array, gpu.xp.ndarray)
            assert (array.dtype, array.shape) == (dtype, (hits.ids.size if size is None else size,))
        assert isinstance(hits.scores, gpu.xp.ndarray)
        assert (hits.scores.dtype, hits.scores.shape) == (np.float32, hits.ids.shape)
    sizes = [len(ids) for ids, _ in expected]
    assert (len(batch), len(one)) == (40, sizes[0])
    assert batch.offsets.tolist() == np.cumsum([0, *sizes]).tolist()
    assert batch.totals.tolist() == sizes
    counts = index.count(put(gpu, directions), put(gpu, tau))
    assert isinstance(counts, gpu.xp.ndarray)
    assert (counts.dtype, counts.tolist()) == (np.int64, sizes)
    assert type(index.count(put(gpu, directions[0]), float(tau[0]))) is int
    assert isinstance(index.ids, gpu.xp.ndarray)
    assert isinstance(index.vectors([0, 1]), gpu.xp.ndarray)


def test_reading_an_answer(problem, gpu):
    index, directions, tau, expected = problem
    batch, one = index.query(put(gpu, directions), put(gpu, tau)), index.query(put(gpu, directions[0]), float(tau[0]))
    for hits in (*batch, batch[-1]):
        assert isinstance(hits.ids, gpu.xp.ndarray)
    for ours, theirs in zip(batch[3:9:2], expected[3:9:2], strict=True):
        equal(ours._on_host(), theirs)
    pairs = [Hit(int(id), float(score)) for id, score in zip(*expected[0], strict=True)]
    assert list(one) == pairs
    assert one[-1] == pairs[-1]
    assert list(one[1:]) == pairs[1:]
    assert [len(hits) for hits in batch] == batch.totals.tolist()
    matrix = batch.to_scipy()
    assert isinstance(matrix.data, np.ndarray)
    assert matrix.shape == (40, 1500)
    assert matrix.indices.tolist() == batch.ids.tolist()
    assert matrix.data.tolist() == batch.scores.tolist()
    assert repr(batch) == f"<Hits: 40 directions, {batch.ids.size:,} hits>"
    assert (
        index.query(put(gpu, directions), put(gpu, tau), scores=False).to_scipy().data.tolist()
        == [1.0] * batch.ids.size
    )
    nothing = index.query(put(gpu, directions[:3]), np.inf)
    assert nothing.to_scipy().nnz == len(nothing[1]) == 0


def test_more_than_was_expected(problem, gpu, monkeypatch):
    """Room for a single candidate and a single hit: the answer grows, and is whole; the next one has room."""
    index, directions, tau, expected = problem
    tables = module("halfspace.gpu.runtime.tables")
    monkeypatch.setattr(tables, "FEW", 1)
    monkeypatch.setattr(tables, "SHARE", 1 << 40)
    for filter in ("cells", "scan", "groups", "balls", "sweep"):
        vectors = index.vectors(index.ids).get()
        one = index if filter == "cells" else make(gpu, vectors, filter=filter)
        index._snapshot.table.kept.clear()
        own = slice(None) if filter == "cells" else slice(0, 3)
        for _ in range(2):
            equal_rows(ask(gpu, one, directions[own], tau[own]), expected[own])
        one._snapshot.table.kept.clear()
        equal_rows(ask(gpu, one, directions[own], tau[own], scores=False), expected[own])
        one._snapshot.table.kept.clear()
        assert count(gpu, one, directions[own], tau[own]).tolist() == [len(ids) for ids, _ in expected[own]]
        one._snapshot.table.kept.clear()
        equal(ask(gpu, one, directions[0], float(tau[0])), expected[0])
        assert len(ask(gpu, one, directions[0], -np.inf)) == 1500
        assert len(ask(gpu, one, directions[0], np.inf)) == 0
        equal(ask(gpu, one, directions[0], float(tau[0])), expected[0])


def test_hits_of_many_chunks(rng, gpu):
    """More chunks than a block places at once, with many hits, few, and as many as there can be.

    Scores are small integers, which float64 knows.
    """
    vectors, directions = (rng.integers(-3, 4, (rows, 2)).astype(np.float32) for rows in (600 * 1024 + 77, 3))
    vectors[:1024] = vectors[::9999] = [4, 4]  # a chunk of which every vector is a hit, and a few others
    directions[0] = [2, 2]
    index, scores = make(gpu, vectors, filter="cells"), vectors.astype(np.float64) @ directions.astype(np.float64).T
    for tau in (9.0, 16.0):
        expected = [(np.flatnonzero(own >= tau), own[own >= tau].astype(np.float32)) for own in scores.T]
        equal_rows(ask(gpu, index, directions, tau), expected)
        equal_rows(ask(gpu, index, directions, tau, scores=False), expected)
        assert count(gpu, index, directions, tau).tolist() == [len(ids) for ids, _ in expected]
        equal(ask(gpu, index, directions[0], tau), expected[0])


def test_a_batch_cut_by_its_hits(problem, gpu, monkeypatch):
    index, directions, tau, expected = problem
    options = [{}, {"sort": True}, {"limit": 3}, {"scores": False}]
    whole = [ask(gpu, index, directions, tau, **option) for option in options]
    monkeypatch.setattr(gpu, "MOST_HITS", 1)
    index._snapshot.table.kept.clear()
    for option, answer in zip(options, whole, strict=True):
        ours = ask(gpu, index, directions, tau, **option)
        if ours.scores is None:
            assert ours.ids.tolist() == answer.ids.tolist()
            assert ours.offsets.tolist() == answer.offsets.tolist()
        else:
            identical(ours, answer)
    assert count(gpu, index, directions, tau).tolist() == [len(ids) for ids, _ in expected]


@pytest.mark.parametrize("filter", ["cells", "sweep", "scan"])
def test_a_batch_cut_by_its_workspace(filter, problem, gpu, monkeypatch):
    _, directions, tau, expected = problem
    index = make(gpu, problem[0].vectors(problem[0].ids).get(), filter=filter)
    monkeypatch.setattr(module("halfspace.gpu.search"), "WORKSPACE", 1 << 12)
    assert gpu.room(index._snapshot.table, 8) < 20
    equal_rows(ask(gpu, index, directions, tau), expected)
    assert count(gpu, index, directions, tau).tolist() == [len(ids) for ids, _ in expected]
    assert ask(gpu, index, directions, tau, sort=True, limit=1).ids.tolist() == [
        reference.best(*pair, 1)[0][0] for pair in expected
    ]


def test_no_memory_for_an_answer(rng, gpu):
    vectors = rng.standard_normal((5000, 4)).astype(np.float32)
    index, q = make(gpu, vectors), put(gpu, np.ones((300, 4), np.float32))
    expected = index.count(q[0], 1.0)
    pool = gpu.xp.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + (4 << 20))
    try:
        with pytest.raises(MemoryError, match=r"300 directions .*[0-9,]+ bytes"):
            index.query(q, -np.inf)
        pool.free_all_blocks()
        assert index.count(q[0], 1.0) == expected
        assert len(index.query(q[0], 1.0)) == expected
    finally:
        pool.set_limit(size=0)
    assert index.query(q[:5], -np.inf).ids.size == 5 * 5000


def test_an_ordinary_query_waits_once(problem, gpu, monkeypatch):
    """And one into a `Hits` made before not at all."""
    index, directions, tau, expected = problem
    q, limits, waits = put(gpu, directions), put(gpu, tau), []
    out = Hits.preallocate(5000, 40)
    index.query(q, limits), index.query(q, limits, out=out).check()
    if hasattr(gpu.xp, "emulator"):
        stream = gpu.xp.cuda.Stream
        monkeypatch.setattr(stream, "synchronize", lambda self: waits.append("synchronize"))
        monkeypatch.setattr(gpu.xp.cuda.runtime, "deviceSynchronize", lambda: waits.append("deviceSynchronize"))
        monkeypatch.setattr(gpu.xp.ndarray, "get", lambda *_, **__: waits.append("get"))
        index.query(q, limits, out=out)
        assert waits == []
        index.query(q, limits)
        assert len(waits) == 1
        index.count(q, limits)
        assert len(waits) == 2
        monkeypatch.undo()
    equal_rows(out.check()._on_host(), expected)
