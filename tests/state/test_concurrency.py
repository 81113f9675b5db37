"""Readers beside a writer: every answer is the answer for a state that the index had while the question was open."""

import contextlib
import importlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import reference
from helpers.checking import FILTERS, build

from halfspace import HalfspaceIndex

search = importlib.import_module("halfspace.cpu.search")
threads_of = importlib.import_module("halfspace.cpu.runtime.threads")
SECONDS = float(os.environ.get("HALFSPACE_STRESS_SECONDS", "12"))
DIMENSION, POOL = 8, 4000


class History:
    """The states of an index, as packed masks over a pool of vectors. A state is noted before the index enters it."""

    def __init__(self):
        self.states = [np.packbits(np.zeros(POOL, bool))]
        self.reached = 0

    def current(self):
        return np.unpackbits(self.states[-1], count=POOL).astype(bool)

    @contextlib.contextmanager
    def step(self, present):
        self.states.append(np.packbits(present))
        yield
        self.reached += 1

    def has(self, answer, first, last):
        """Was ``answer(mask)`` true of a state from number ``first`` to number ``last``?"""
        return any(answer(np.unpackbits(s, count=POOL).astype(bool)) for s in self.states[first : last + 1])


def write(index, vectors, history, path, deadline):
    """Insert, delete, compact and save at random until the deadline; the first failure ends it."""
    rng = np.random.default_rng(0)
    saves = 0
    while time.monotonic() < deadline:
        present = history.current()
        absent, there = np.flatnonzero(~present), np.flatnonzero(present)
        action = rng.choice(["one", "many", "delete", "compact", "save"], p=[0.35, 0.2, 0.35, 0.05, 0.05])
        if action in ("one", "many") and absent.size:
            chosen = rng.permutation(absent)[: 1 if action == "one" else 300]
            present[chosen] = True
            with history.step(present):
                index.insert(vectors[chosen], ids=chosen)
        elif action == "delete" and there.size:
            chosen = rng.permutation(there)[: rng.integers(1, 1 + min(400, there.size))]
            present[chosen] = False
            with history.step(present):
                index.delete(chosen)
        elif action == "compact":
            index.compact()
        elif action == "save":
            index.save(path)
            loaded = HalfspaceIndex.load(path, mmap=bool(saves % 2))
            assert sorted(loaded.ids.tolist()) == there.tolist()
            saves += 1
            del loaded
    return saves


def read(index, directions, tau, expected, history, deadline, seed):
    """Query until the deadline. ``expected`` is the mask and the scores of the whole pool for each direction."""
    rng = np.random.default_rng(seed)
    reads = 0
    while time.monotonic() < deadline:
        batch = rng.integers(0, len(directions), rng.integers(1, 5))
        first = history.reached
        if rng.random() < 0.5:
            hits = index.query(directions[batch], tau, threads=int(rng.integers(1, 3)))
            last = len(history.states) - 1
            found = [np.zeros(POOL, bool) for _ in batch]
            for mask, one, k in zip(found, hits, batch, strict=True):
                mask[one.ids] = True
                assert reference.bits(one.scores).tolist() == reference.bits(expected[k][1][one.ids]).tolist()
            assert history.has(
                lambda present: all(
                    np.array_equal(mask, present & expected[k][0])
                    for mask, k in zip(found, batch, strict=True)  # noqa: B023
                ),
                first,
                last,
            )
        else:
            counts = index.count(directions[batch], tau).tolist()
            last = len(history.states) - 1
            assert history.has(
                lambda present: counts == [np.count_nonzero(present & expected[k][0]) for k in batch],  # noqa: B023
                first,
                last,
            )
        reads += 1
    return reads


@pytest.mark.parametrize("filter", FILTERS)
def test_readers_while_one_writes(filter, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "MIN_BYTES", 1)  # small as it is, let two threads share each question
    rng = np.random.default_rng(3)
    vectors = rng.integers(-2, 3, (POOL, DIMENSION)).astype(np.float32)
    directions = rng.integers(-2, 3, (12, DIMENSION)).astype(np.float32)
    tau = 6.0
    expected = []
    for ids, scores in reference.query(vectors, directions, tau, faster=True):
        mask, full = np.zeros(POOL, bool), np.zeros(POOL, np.float32)
        mask[ids], full[ids] = True, scores
        expected.append((mask, full))
    whole = build(vectors, filter=filter)  # compiles all that is needed, before the clock runs
    for count in (1, 4):
        whole.query(directions[:count], tau, threads=2), whole.count(directions[:count], tau)
    index, history = HalfspaceIndex(DIMENSION, filter=filter), History()
    deadline = time.monotonic() + SECONDS / len(FILTERS)
    with ThreadPoolExecutor(4) as pool:
        writer = pool.submit(write, index, vectors, history, tmp_path / "saved", deadline)
        readers = [pool.submit(read, index, directions, tau, expected, history, deadline, seed) for seed in range(3)]
        assert writer.result() > 0
        assert all(reader.result() > 0 for reader in readers)
    assert 1 <= threads_of._pool.started <= threads_of._pool.most
    assert history.reached == len(history.states) - 1 > 10
    assert sorted(index.ids.tolist()) == np.flatnonzero(history.current()).tolist()
