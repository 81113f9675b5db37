"""An index on a GPU through its life: inserts, deletes, sealing, restricting, and what can be read off it."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, FILTERS, build, equal, identical
from helpers.families import gaussian, heavy_tailed, integers
from on_gpu import ask, count, equal_rows, make, put, same_bits

from halfspace import HalfspaceIndex

pytestmark = pytest.mark.gpu

every_filter = pytest.mark.parametrize("filter", FILTERS)
DIM = 5


class Twins:
    """An index on the GPU, one on the CPU, and the vectors that both should hold, by id."""

    def __init__(self, gpu, filter, dtype="float32"):
        self.gpu, self.dtype, self.rows = gpu, dtype, {}
        self.ours = HalfspaceIndex(DIM, device="gpu", filter=filter, dtype=dtype)
        self.theirs = HalfspaceIndex(DIM, filter=filter, dtype=dtype)

    def insert(self, vectors, ids=None):
        given = self.ours.insert(put(self.gpu, vectors), ids=None if ids is None else self.gpu.xp.asarray(ids))
        assert isinstance(given, self.gpu.xp.ndarray)
        assert given.tolist() == self.theirs.insert(vectors, ids=ids).tolist()
        self.rows.update(zip(given.tolist(), vectors, strict=True))

    def delete(self, ids):
        self.ours.delete(self.gpu.xp.asarray(ids))
        self.theirs.delete(ids)
        for id in ids.tolist():
            del self.rows[id]

    def compare(self, rng):
        """Everything that can be asked, of both and of the oracle."""
        gpu, ids = self.gpu, np.array(sorted(self.rows))
        stored = np.stack([self.rows[id] for id in ids.tolist()])
        directions = rng.standard_normal((6, DIM)).astype(np.float32)
        tau = np.array([0.0, 1.0, 2.0, 2.0, -np.inf, np.inf])
        expected = reference.query(stored, directions, tau, ids=ids, faster=True)
        equal_rows(ask(gpu, self.ours, directions, tau), expected)
        for options in ({}, {"limit": 7, "sort": True}, {"limit": 3}, {"sort": True}, {"within": ids[::3]}):
            device = {name: gpu.xp.asarray(own) if name == "within" else own for name, own in options.items()}
            identical(ask(gpu, self.ours, directions, tau, **device), self.theirs.query(directions, tau, **options))
        equal(ask(gpu, self.ours, directions[1], 1.0), expected[1])
        assert count(gpu, self.ours, directions, tau).tolist() == [len(found) for found, _ in expected]
        assert self.ours.ids.tolist() == ids.tolist()
        some = rng.permutation(ids)[:50]
        same_bits(self.ours.vectors(gpu.xp.asarray(some)).get(), np.stack([self.rows[id] for id in some.tolist()]))
        ours, theirs = self.ours.stats(), self.theirs.stats()
        for name in ("vectors", "deleted", "segments", "tail", "filters", "bytes_vectors", "bytes_ids", "bytes_bounds"):
            assert ours[name] == theirs[name], name
        assert (ours["device"], len(self.ours)) == ("gpu", len(ids))


@pytest.mark.parametrize(("filter", "dtype"), [*zip(FILTERS, 2 * DTYPES, strict=True), ("cells", "float32")])
def test_an_index_grows_and_shrinks(filter, dtype, rng, gpu):
    """Own and assigned ids in any order, so that segments overlap; deleted ids come back."""
    twins = Twins(gpu, filter, dtype)
    vectors = reference.store(rng.standard_normal((1400, DIM)), dtype)
    own = rng.permutation(4000)[:700] - 2000
    twins.insert(vectors[:1], own[:1])
    for low, high in ((1, 2), (2, 40), (40, 239), (239, 500), (500, 700)):
        twins.insert(vectors[low:high], own[low:high])
    twins.compare(rng)
    twins.insert(vectors[700:1000])
    twins.insert(vectors[1000:1001])
    gone = rng.permutation(sorted(twins.rows))[:300]
    twins.delete(gone)
    twins.insert(vectors[1001:1101], gone[:100])
    twins.compare(rng)
    twins.ours.verify()
    twins.ours.compact(), twins.theirs.compact()
    twins.insert(vectors[1101:1121])
    twins.compare(rng)
    assert all(id in twins.ours for id in list(twins.rows)[:5])
    assert gone[150] not in twins.ours
    for call in (
        lambda: twins.ours.delete([int(gone[150])]),
        lambda: twins.ours.vectors([*list(twins.rows)[:2], int(gone[150])]),
        lambda: twins.ours.query([1.0] * DIM, 0.0, within=[int(gone[150])]),
    ):
        with pytest.raises(KeyError, match=f"id {gone[150]}"):
            call()
    with pytest.raises(ValueError, match="already"):
        twins.ours.insert([1.0] * DIM, ids=[next(iter(twins.rows))])
    twins.delete(np.array(sorted(twins.rows)))
    assert twins.ours.count([1.0] * DIM, -np.inf) == 0
    twins.ours.compact()
    assert len(twins.ours) == twins.ours.stats()["segments"] == 0


@every_filter
def test_small_and_odd_indexes(filter, rng, gpu):
    """No vector, one vector, one dimension, nothing but zeros."""
    empty = HalfspaceIndex(3, device="gpu", filter=filter)
    for _ in range(2):
        assert len(empty.query([1.0, 2.0, 3.0], -np.inf)) == empty.count([1.0, 2.0, 3.0], -np.inf) == 0
        assert ask(gpu, empty, np.ones((20, 3)), 0.0).offsets.tolist() == [0] * 21
        empty.compact()
    assert len(ask(gpu, empty, np.ones((0, 3)), 0.0)) == 0
    assert empty.insert(gpu.xp.empty((0, 3))).size == 0
    assert empty.explain([1.0, 2.0, 3.0], 0.0).hits == 0
    for vectors in (np.float32([[2.5]]), np.float32([[1], [0], [-1], [3]]), np.zeros((70, 3), np.float32)):
        index = make(gpu, vectors, filter=filter)
        directions = np.concatenate([np.eye(vectors.shape[1]), -np.eye(vectors.shape[1])]).astype(np.float32)
        directions = np.concatenate([directions, np.zeros_like(directions[:1])])
        for tau in (0.0, -0.0, 1.0, 2.5, -1.0):
            equal_rows(ask(gpu, index, directions, tau), reference.query(vectors, directions, tau))
        assert len(ask(gpu, index, directions[:0], 0.0)) == 0
        if filter in ("cells", "auto"):  # as a matrix product
            many = np.tile(directions, (140 // len(directions) + 1, 1))
            equal_rows(ask(gpu, index, many, 0.5), reference.query(vectors, many, 0.5))


def test_norms_in_order(rng, gpu):
    """A segment whose longest vectors come first keeps its ids, its dead and its masks; chunks out of reach stay so."""
    vectors, directions = heavy_tailed(rng, 2500, DIM, 16, "float32")
    ids = rng.permutation(9000)[:2500]
    index, theirs = make(gpu, vectors, filter="cells", ids=ids), build(vectors, filter="cells", ids=ids)
    assert index._snapshot.sealed[0].by_id is not None
    gone, mask = ids[::5], rng.random(9000) < 0.5
    index.delete(gpu.xp.asarray(gone)), theirs.delete(gone)
    mask &= np.isin(np.arange(9000), theirs.ids)
    tau = np.linspace(-100, 400, 16)
    for options in (
        {},
        {"within": mask},
        {"within": np.flatnonzero(mask)[::-1].copy()},
        {"limit": 2},
        {"scores": False},
    ):
        device = {name: gpu.xp.asarray(own) if name == "within" else own for name, own in options.items()}
        ours, expected = ask(gpu, index, directions, tau, **device), theirs.query(directions, tau, **options)
        if "scores" in options:
            assert ours.ids.tolist() == expected.ids.tolist()
        else:
            identical(ours, expected)
        for k in (0, 9):
            assert ask(gpu, index, directions[k], float(tau[k]), **device).ids.tolist() == expected[k].ids.tolist()
    asked = index.query(directions[0].tolist(), 5.0, within=mask.tolist())
    assert asked.ids.tolist() == theirs.query(directions[0], 5.0, within=mask).ids.tolist()
    with pytest.raises(ValueError, match="mask of ids 0 to 99"):
        index.query(gpu.xp.asarray(directions[0]), 0.0, within=gpu.xp.ones(100, bool))
    with pytest.raises(KeyError, match=f"id {gone[0]} in within"):
        index.count(gpu.xp.asarray(directions), 0.0, within=gpu.xp.asarray(gone[:1]))


@pytest.mark.parametrize("filter", ["scan", "cells", "groups"])
def test_ties_are_ordered_by_id(filter, rng, gpu):
    vectors, directions = integers(rng, 400, DIM, 6, "float32")
    ids = rng.permutation(1000)[:400]
    index, theirs = make(gpu, vectors, filter=filter, ids=ids), build(vectors, filter=filter, ids=ids)
    for options in ({"sort": True}, *({"limit": k, "sort": sort} for k in (0, 1, 17, 2**70) for sort in (False, True))):
        identical(ask(gpu, index, directions, 1.0, **options), theirs.query(directions, 1.0, **options))
        if filter == "scan":
            hits = ask(gpu, index, directions[0], 1.0, **options)
            assert hits.ids.tolist() == theirs.query(directions[0], 1.0, **options).ids.tolist()
    zeros = make(gpu, np.float32([[0], [-0.0], [1e-45], [-1e-45], [0]]), filter=filter)
    assert zeros.query([1.0], -1.0, sort=True).ids.tolist() == [2, 0, 1, 4, 3]


CHAINS = {
    "scan": [],
    "cells": ["norms", "high"],
    "groups": ["chunks", "groups", "rows"],
    "balls": ["gates", "balls"],
    "sweep": ["sweep", "gates", "balls"],
}


@pytest.mark.parametrize("filter", CHAINS)
def test_stages_account_for_every_vector(filter, rng, gpu):
    vectors, directions = gaussian(rng, 2100, 16, 5, "float32")
    index, theirs, chain = make(gpu, vectors, filter=filter), build(vectors, filter=filter), CHAINS[filter]
    for q, tau in zip(directions, (-1e9, -np.inf, 0.0, 6.0, 1e9), strict=True):
        told = index.explain(gpu.xp.asarray(q), tau)
        assert told == index.explain(gpu.xp.asarray(q), tau)
        assert (told.filter, told.vectors) == (filter, 2100)
        assert told.hits == index.count(gpu.xp.asarray(q), tau)
        stages = {stage.name: stage for stage in told.stages}
        assert set(stages) <= {*chain, "low", "verify", "exact"}
        for stage in told.stages:
            assert stage.tested == stage.dropped + stage.taken + stage.left
            assert min(stage.tested, stage.dropped, stage.taken, stage.left, stage.bytes_read) >= 0
        tested, left, taken = (
            {name: getattr(stages[name], what) if name in stages else 0 for name in (*chain, "low", "verify", "exact")}
            for what in ("tested", "left", "taken")
        )
        for one, after in pairwise(chain):
            assert left[one] == tested[after], (one, after)
        assert tested[chain[0] if chain else "verify"] == 2100
        unsettled = left[chain[-1]] - tested["low"] + left["low"] if chain else 2100
        assert tested["verify"] == unsettled + sum(taken[name] for name in (*chain, "low"))
        assert left["verify"] == tested["exact"]
        assert told.hits == taken["verify"] + taken["exact"]
        assert str(told).startswith(f"filter '{filter}': {told.hits:,} hits")
        if filter == "cells":  # the same cells, weighed alike
            assert told == theirs.explain(q, tau)


def test_auto_tries_what_suits(rng, gpu, monkeypatch):
    """The trial runs on the GPU, repeats, and its choice answers alike."""
    monkeypatch.setattr("halfspace.state.build.TRIAL_ROWS", 2000)
    vectors, directions = gaussian(rng, 2600, 3, 4, "float32")
    one, other = (make(gpu, vectors) for _ in range(2))
    (choice,) = one.explain([1.0, 0.0, 0.0], 2.0).choices
    assert choice.trial == other.explain([1.0, 0.0, 0.0], 2.0).choices[0].trial
    assert set(choice.trial) == {"scan", "cells", "groups", "balls", "sweep"}
    equal_rows(ask(gpu, one, directions, 2.0), reference.query(vectors, directions, 2.0, faster=True))
    one.compact()
    assert one.stats()["filters"] == {one._snapshot.sealed[0].filter: 2600}


def test_threads_ask_one_index_at_once(rng, gpu, monkeypatch):
    """Each gets its own right answer, while another inserts and deletes vectors that no question meets."""
    if hasattr(gpu.xp, "emulator"):
        monkeypatch.setattr(gpu.xp.emulator, "fences", False)  # it looks at them one thread at a time
    vectors, directions = gaussian(rng, 1200, 8, 8, "float32")
    index = make(gpu, vectors, filter="cells")
    tau = np.sort(vectors @ directions.T, axis=0)[-9].astype(np.float64)
    expected = reference.query(vectors, directions, tau, faster=True)
    problems, done = [], threading.Event()

    def work(k):
        try:
            q, few, limits = put(gpu, directions[k]), put(gpu, directions), gpu.xp.asarray(tau)
            for turn in range(5):
                equal(index.query(q, float(tau[k]))._on_host(), expected[k])
                if turn % 2 == k % 2:
                    equal_rows(index.query(few, limits)._on_host(), expected)
                assert index.count(q, float(tau[k])) == len(expected[k][0])
        except BaseException as problem:
            problems.append(problem)

    def write():
        try:
            with gpu.xp.cuda.Device(0):
                zeros = gpu.xp.zeros((90, 8), np.float32)
                while not done.is_set():
                    index.delete(index.insert(zeros)[::2])
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    writer = threading.Thread(target=write)
    assert tau.min() > 0
    for thread in (writer, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    writer.join()
    if problems:
        raise problems[0]
