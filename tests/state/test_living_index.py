"""An index that grows, shrinks, is compacted, saved and loaded, against a dictionary and the exact answer."""

import copy
import math
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, FILTERS, equal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from halfspace import HalfspaceIndex

DIMENSION = 3
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.1, 1 + 2.0**-24, 1e-8, 3e4, 6e-8, -1e-6, 1e-39])
ROWS = st.lists(VALUES, min_size=DIMENSION, max_size=DIMENSION)
SEEDS = st.integers(0, 2**32)


class LivingIndex(RuleBasedStateMachine):
    """``self.rows`` maps each id to its stored vector."""

    @initialize(filter=st.sampled_from(FILTERS), dtype=st.sampled_from(DTYPES))
    def start(self, filter, dtype):
        self.dtype = dtype
        self.index = HalfspaceIndex(DIMENSION, filter=filter, dtype=dtype)
        self.rows, self.gone, self.next_id = {}, {}, 0
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self):
        if hasattr(self, "folder"):
            del self.index  # a mapped file cannot be removed everywhere
            self.folder.cleanup()

    def insert(self, vectors, ids=None, **options):
        vectors = np.array(vectors)
        given = self.index.insert(vectors, ids=ids, **options)
        assert given.dtype == np.int64
        expected = range(self.next_id, self.next_id + len(np.atleast_2d(vectors))) if ids is None else ids
        assert given.tolist() == list(expected)
        stored = reference.store(np.atleast_2d(vectors), self.dtype)
        self.rows.update(zip(given.tolist(), stored, strict=True))
        self.gone = {id: row for id, row in self.gone.items() if id not in self.rows}
        self.next_id = max([self.next_id, *(i + 1 for i in given.tolist())])

    @rule(row=ROWS)
    def insert_one(self, row):
        self.insert(row)

    @rule(rows=st.lists(ROWS, min_size=1, max_size=8))
    def insert_many(self, rows):
        self.insert(rows)

    @rule(rows=st.lists(ROWS, min_size=1, max_size=5), data=st.data())
    def insert_with_ids(self, rows, data):
        fresh = st.integers(0, self.next_id + 50).filter(lambda i: i not in self.rows)
        self.insert(rows, data.draw(st.lists(fresh, min_size=len(rows), max_size=len(rows), unique=True)))

    @rule(seed=SEEDS, n=st.sampled_from([1, 3, 300, 900]), share=st.sampled_from([0.0, 0.5, 1.0]))
    def insert_or_replace(self, seed, n, share):
        rng = np.random.default_rng(seed)
        known = rng.permutation(sorted(self.rows))[: int(share * n)]
        ids = rng.permutation([*known.tolist(), *range(self.next_id, self.next_id + n - len(known))]).astype(np.int64)
        self.insert(rng.integers(-3, 4, (n, DIMENSION)) / 4, ids.tolist(), replace=True)

    @rule(seed=SEEDS, n=st.integers(500, 3000))
    def insert_a_crowd(self, seed, n):
        if len(self.rows) < 6000:
            self.insert(np.random.default_rng(seed).integers(-3, 4, (n, DIMENSION)) / 4)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def insert_again(self, data):
        i = data.draw(st.sampled_from(sorted(self.gone)))
        self.insert(self.gone.pop(i).astype(np.float64)[None], [i])

    @precondition(lambda self: self.rows)
    @rule(seed=SEEDS, share=st.sampled_from([0.0, 0.1, 0.6, 1.0]))
    def delete(self, seed, share):
        size = max(1, int(share * len(self.rows)))
        chosen = np.random.default_rng(seed).choice(sorted(self.rows), size, replace=False)
        self.index.delete(chosen)
        dropped = {i: self.rows.pop(i) for i in chosen.tolist()}
        self.gone = dict(list(dropped.items())[:20])

    @rule()
    def compact(self):
        self.index.compact()

    @rule(mmap=st.booleans())
    def save_and_load(self, mmap):
        path = Path(self.folder.name) / "saved"
        self.index.save(path)
        self.index = HalfspaceIndex.load(path, mmap=mmap)
        self.index.verify()

    @rule(again=st.sampled_from([copy.copy, copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))]))
    def copy_or_pickle(self, again):
        before, self.index = self.index, again(self.index)
        if self.rows:
            before.insert(np.ones(DIMENSION), ids=[max(self.rows)], replace=True)
        before.insert(np.ones((3, DIMENSION)))
        self.index.verify()

    @rule()
    def clear(self):
        self.index.clear()
        self.gone, self.rows = dict(list(self.rows.items())[:20]), {}

    @rule(direction=ROWS, tau=st.sampled_from([0.0, 1e-300, 0.5, -1.0, 2.0, -np.inf]), seed=SEEDS)
    def query(self, direction, tau, seed):
        ids = np.array(sorted(self.rows), np.int64)
        stored = np.array([self.rows[i] for i in ids.tolist()], reference.DTYPES[self.dtype]).reshape(-1, DIMENSION)
        direction = reference.store(direction, "float32")
        if len(ids):  # a threshold that one vector meets exactly
            product = reference.dot(direction, stored[seed % len(stored)])
            tau = [tau, float(product)]
        else:
            tau = [tau, 0.0]
        directions = np.array([direction, direction])
        expected = reference.query(stored, directions, tau, ids=ids, faster=True)
        for ours, theirs in zip(self.index.query(directions, tau), expected, strict=True):
            equal(ours, theirs)
        assert self.index.count(directions, tau).tolist() == [len(found) for found, _ in expected]
        best = reference.best(*expected[0], 3)
        equal(self.index.query(direction, tau[0], limit=3, sort=True), best)
        some = ids[seed % 3 :: 3]
        inside = expected[0][0][np.isin(expected[0][0], some)]
        assert self.index.query(direction, tau[0], within=some, scores=False).ids.tolist() == inside.tolist()

    @precondition(lambda self: self.rows)
    @rule(seed=SEEDS)
    def vectors(self, seed):
        ids = np.random.default_rng(seed).choice(sorted(self.rows), 5)
        expected = np.array([self.rows[i] for i in ids.tolist()])
        assert reference.bits(self.index.vectors(ids)).tolist() == reference.bits(expected).tolist()

    @invariant()
    def size_and_ids(self):
        if hasattr(self, "rows"):
            assert len(self.index) == len(self.rows)
            assert sorted(self.index.ids.tolist()) == sorted(self.rows)
            assert all(i in self.index for i in list(self.rows)[:3])
            assert not any(i in self.index for i in [*self.gone, self.next_id] if i not in self.rows)


TestLivingIndex = LivingIndex.TestCase
TestLivingIndex.settings = settings(stateful_step_count=25)


@pytest.mark.parametrize("filter", FILTERS)
def test_one_by_one_inserts_leave_few_segments(filter):
    rng = np.random.default_rng(0)
    n = 20_000
    vectors = rng.standard_normal((n, DIMENSION)).astype(np.float32)
    index = HalfspaceIndex(DIMENSION, filter=filter)
    for count, vector in enumerate(vectors, 1):
        index.insert(vector)
        if count & (count - 1) == 0 or count == n:
            assert index.stats()["segments"] <= math.log2(count) + 1
    found = reference.query(vectors, vectors[:2], 2.0, faster=True)
    for ours, theirs in zip(index.query(vectors[:2], 2.0), found, strict=True):
        equal(ours, theirs)


def test_deleting_almost_everything_frees_it():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((10_000, DIMENSION)).astype(np.float32)
    index = HalfspaceIndex(DIMENSION)
    index.insert(vectors)
    index.compact()
    for i in range(9990):
        index.delete([i])
    assert index.ids.tolist() == list(range(9990, 10_000))
    equal(index.query(vectors[0], -np.inf), reference.query(vectors[-10:], vectors[0], -np.inf, ids=index.ids)[0])
    index.delete(index.ids)
    assert len(index) == 0
    assert index.count(vectors[0], -np.inf) == 0
    index.compact()
    assert index.stats()["segments"] == 0


@pytest.mark.parametrize("through_a_file", [False, True])
def test_assigned_ids_continue_above_the_largest_ever_used(through_a_file, tmp_path):
    index = HalfspaceIndex(2)
    assert index.insert([[1, 2], [3, 4]]).tolist() == [0, 1]
    assert index.insert([[1, 2]], ids=[1000]).tolist() == [1000]
    assert index.insert([5, 6]).tolist() == [1001]
    index.delete([1001, 1000])
    index.compact()
    if through_a_file:
        index.save(tmp_path / "saved")
        index = HalfspaceIndex.load(tmp_path / "saved")
    assert index.insert([7, 8]).tolist() == [1002]
    assert index.insert([7, 8], ids=[1000]).tolist() == [1000]
    assert index.insert([7, 8]).tolist() == [1003]
    assert sorted(index.ids.tolist()) == [0, 1, 1000, 1002, 1003]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filter", FILTERS)
def test_a_loaded_index_lives_on(filter, dtype, mmap, tmp_path):
    rng = np.random.default_rng(2)
    vectors = reference.store(rng.standard_normal((3000, DIMENSION)), dtype)
    index = HalfspaceIndex(DIMENSION, filter=filter, dtype=dtype)
    index.insert(vectors[:2000])
    index.compact()
    index.insert(vectors[2000:2500])
    index.delete(np.arange(0, 2500, 5))
    index.save(tmp_path / "saved")
    loaded = HalfspaceIndex.load(tmp_path / "saved", mmap=mmap, threads=2)
    assert loaded.dim == DIMENSION
    loaded.verify()
    for one in (index, loaded):
        assert one.insert(vectors[2500:]).tolist() == list(range(2500, 3000))
        one.delete([1, 2, 2999])
        one.insert(vectors[5], ids=[5])
    kept = np.setdiff1d(np.arange(3000), [*range(0, 2500, 5), 1, 2, 2999])
    kept = np.union1d(kept, [5])
    expected = reference.query(vectors[kept], vectors[:3].astype(np.float32), 1.0, ids=kept, faster=True)
    for one in (index, loaded):
        for ours, theirs in zip(one.query(vectors[:3], 1.0), expected, strict=True):
            equal(ours, theirs)
    del loaded
