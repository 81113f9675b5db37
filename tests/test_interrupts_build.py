"""Building that is interrupted, cancelled, or watched: the index is then in the old state or in the new one."""

import importlib
import signal
import threading

import numpy as np
import pytest
from helpers.checking import FILTERS
from numba import types
from typer.testing import CliRunner

from halfspace import HalfspaceIndex
from halfspace.attention import KVIndex

MODULES = {
    name.rpartition(".")[2]: importlib.import_module(f"halfspace.cpu.{name}")
    for name in (
        *("filters.axes", "filters.balls", "filters.cells", "filters.groups"),
        *("attention.cache", "codes", "formats", "partition"),
    )
}
BUILDING = {
    "axes": ["_encode", "_multiply"],
    "balls": ["_enclose"],
    "cache": ["_append", "_lengthen"],
    "cells": ["encode_rows"],
    "codes": ["_sum"],
    "formats": ["_copy_into", "_round_into", "measure_rows"],
    "groups": ["_encode_chunks", "_encode_groups"],
    "partition": ["_find_axis", "_pass", "_project", "_split_down"],
}
"""The compiled functions that building calls from Python."""
MOST = 3 << 19
"""Components that one of them may work on at once: spans of 2^20 that are rounded up to whole chunks."""
pytestmark = pytest.mark.usefixtures("no_gc_callbacks")
DIMENSION = 8
ROWS = {"auto": 33_000}
"""Rows that are inserted: "auto" tries filters from 32,768 on."""


class Alarm(Exception):
    """What the handler of a signal raises."""


def interrupt(work, delay):
    """Whether `work` was interrupted by an alarm; it must come out, once."""
    heard = came = 0

    def ring(*_):
        nonlocal heard
        heard += 1
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        work()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    except Alarm:
        came = 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert heard == came
    return bool(came)


def alarms(rng, work, check, count=25):
    """Interrupt `work` at moments that spread over it, and call `check` after each; at least some must hit."""
    hits, longest = 0, 0.02
    for _ in range(count):
        hit = interrupt(work, float(rng.uniform(1e-5, longest)))
        hits += hit
        longest *= 1.3 if hit else 0.6
        check(hit)
    assert hits > count // 8


def integers(rng, rows, dim=DIMENSION):
    """Small integers, whose dot products are exact in any arithmetic."""
    return rng.integers(-3, 4, (rows, dim))


def exact(index, vectors, ids, direction, tau=14):
    """Hold an answer against integer arithmetic."""
    found = index.query(direction.astype(np.float32), tau)
    products = vectors @ direction
    assert found.ids.tolist() == ids[products >= tau].tolist()
    assert found.scores.tolist() == products[products >= tau].tolist()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
@pytest.mark.parametrize("filter", FILTERS)
def test_an_interrupted_insert_is_done_or_not_begun(filter, rng):
    vectors = integers(rng, ROWS.get(filter, 9000))
    direction = integers(rng, 1)[0]
    head, rest = vectors[:1000], vectors[1000:]
    ids = np.arange(len(vectors))
    index = HalfspaceIndex(DIMENSION, filter=filter, threads=2)
    index.insert(head)

    def check(_):
        size = len(index)
        assert size in (len(head), len(vectors))
        assert index.ids.tolist() == ids[:size].tolist()
        exact(index, vectors[:size], ids[:size], direction)
        if size > len(head):
            index.delete(ids[len(head) :])

    alarms(rng, lambda: index.insert(rest, ids=ids[len(head) :]), check)
    index.insert(rest, ids=ids[len(head) :])
    index.verify()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)  # a file not yet entered
@pytest.mark.parametrize("filter", FILTERS)
def test_an_interrupted_compact_or_save_changes_no_answer(filter, rng, tmp_path):
    vectors = integers(rng, ROWS.get(filter, 6000) // 2)
    direction = integers(rng, 1)[0]
    index = HalfspaceIndex(DIMENSION, filter=filter, threads=2)
    index.insert(vectors)
    ids = np.arange(len(vectors))
    path = tmp_path / "saved"
    index.save(path)

    def change():
        index.compact()
        index.save(path)

    def check(hit):
        exact(index, vectors, ids, direction)
        loaded = HalfspaceIndex.load(path)
        assert loaded.ids.tolist() == ids.tolist() or (hit and len(loaded) == len(ids) + 300)
        assert [file.name for file in tmp_path.iterdir()] == ["saved"]
        index.insert(vectors[:300], ids=np.arange(10**6, 10**6 + 300))
        index.delete(np.arange(10**6, 10**6 + 300))

    alarms(rng, change, check, 12)
    index.verify()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_an_interrupted_append_is_done_or_not_begun(rng):
    keys = rng.integers(-3, 4, (2, 3, 40_000, DIMENSION))
    queries = rng.integers(-3, 4, (2, 3, DIMENSION))
    given = keys.astype(np.float16)
    index = KVIndex(3, DIMENSION, batch_size=2)
    size = 0

    def append():
        nonlocal size
        if index.lengths[0] > 20_000:
            index.reset()
        size = int(index.lengths[0])
        more = given[:, :, size : 4 * size + 700]
        index.append(more, more)

    def check(hit):
        lengths = index.lengths
        assert lengths[0] == lengths[1]
        assert lengths[0] in (0, size, min(4 * size + 700, 40_000))
        assert hit or lengths[0] > size
        holds(index, keys[:, :, : lengths[0]], queries)

    alarms(rng, append, check, 30)


def holds(index, keys, queries, tau=14):
    """Hold the answer of a KV index (batch, heads, n, d) against integer arithmetic."""
    products = np.einsum("bhnd,bhd->bhn", keys, queries).reshape(
        queries.shape[0] * queries.shape[1], -1 if keys.size else 0
    )
    hits = index.query(queries.astype(np.float32), tau)
    for own, found in zip(products, hits, strict=True):
        assert found.ids.tolist() == np.flatnonzero(own >= tau).tolist()
        assert found.scores.tolist() == own[own >= tau].tolist()


class Stop(Exception):
    """What a call raises that is stopped on purpose."""


def stop_at(monkeypatch, module, name, number, *, after=False):
    """Let call `number` of a function raise, before its work or after it."""
    function, lock, calls = getattr(module, name), threading.Lock(), [0]

    def stopped(*args, **options):
        with lock:
            calls[0] += 1
            own = calls[0]
        if own == number and not after:
            raise Stop
        result = function(*args, **options)
        if own == number:
            raise Stop
        return result

    monkeypatch.setattr(module, name, stopped)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_keys_whose_coding_anew_was_stopped_are_coded_before_the_next_answer(number, rng, monkeypatch):
    keys = rng.integers(-3, 4, (1, 4, 6000, DIMENSION))
    keys[:, :, 1000:] += 40  # so that the new frame is far from the old one
    queries = rng.integers(-3, 4, (1, 4, DIMENSION))
    index = KVIndex(4, DIMENSION, dtype="float32", capacity=6000)
    first, more = keys[:, :, :1000].astype(np.float32), keys[:, :, 1000:].astype(np.float32)
    index.append(first, first)
    with monkeypatch.context() as patch:
        stop_at(patch, MODULES["cache"], "encode_rows", number)
        with pytest.raises(Stop):
            index.append(more, more)
    assert index.lengths.tolist() == [6000]
    copied = KVIndex.__deepcopy__(index, {})
    for one in (copied, index):
        holds(one, keys, queries)


@pytest.mark.parametrize("after", [False, True])
def test_lengths_are_those_of_the_cache_when_an_append_was_stopped(after, rng, monkeypatch):
    keys = rng.integers(-3, 4, (2, 1, 900, DIMENSION))
    queries = rng.integers(-3, 4, (2, 1, DIMENSION))
    given = keys.astype(np.float16)
    index = KVIndex(1, DIMENSION, batch_size=2)
    index.append(given[:, :, :500], given[:, :, :500])
    with monkeypatch.context() as patch:
        stop_at(patch, MODULES["cache"], "_lengthen", 1, after=after)
        with pytest.raises(Stop):
            index.append(given[:, :, 500:], given[:, :, 500:])
    size = 900 if after else 500
    assert index.lengths.tolist() == [size, size]
    holds(index, keys[:, :, :size], queries)
    index.append(given[:, :, size:], given[:, :, size:])
    holds(index, keys, queries)


@pytest.mark.parametrize("filter", ["cells", "groups", "balls"])
def test_no_kernel_works_for_long_on_its_own(filter, rng, monkeypatch):
    sizes = []

    def counted(function, dim):
        def call(*args):
            first, last = args[-1] if isinstance(args[-1], tuple) else args[-2:]
            sizes.append((function.__name__, (last - first) * dim))
            return function(*args)

        return call

    dim, project = 32, 8 if filter == "balls" else 32
    wide = {"_copy_into": 1, "_round_into": 1, "_enclose": 4 * 8}
    for module, names in BUILDING.items():
        for name in names:
            if module not in ("axes", "cache", "partition"):
                function = getattr(MODULES[module], name)
                monkeypatch.setattr(MODULES[module], name, counted(function, wide.get(name, dim)))
    monkeypatch.setattr(MODULES["partition"], "_project", counted(MODULES["partition"]._project, project))
    index = HalfspaceIndex(dim, filter=filter, threads=2)
    index.insert(rng.standard_normal((70_000, dim)))
    assert len({name for name, _ in sizes}) >= 4
    assert max(size for _, size in sizes) <= MOST


def test_a_selection_stops_after_so_many_rows_and_goes_on_where_it_was(rng):
    partition = MODULES["partition"]
    for keys in (rng.standard_normal(5000), rng.integers(0, 9, 5000).astype(float), np.arange(5000.0), np.zeros(5000)):
        results = []
        for most in (1, 7, 1000, 10**9):
            own, order = keys.copy(), np.arange(keys.size, dtype=np.int32)
            state, pivot, calls = np.array([0, keys.size - 1, 1, 0]), np.zeros(1), 1
            while not partition._pass(own, order, 0, 1234, state, pivot, most):
                calls += 1
            assert calls > 1 or most > 1000
            assert own.tolist() == keys[order].tolist()
            assert own[:1234].max() <= own[1234:].min()
            results.append(order.tolist())
        assert all(result == results[0] for result in results)


def test_a_partition_is_the_same_in_steps_of_any_size(rng, monkeypatch):
    partition = MODULES["partition"]
    vectors, columns = rng.standard_normal((20_000, 6)).astype(np.float32), np.array([0, 2, 6])
    expected = partition.partition(vectors, columns, 4, 1)
    assert np.array_equal(np.sort(expected), np.tile(np.arange(20_000), (2, 1)))
    for sizes in ((1 << 14, 1 << 22, 1 << 24, 1000), (64, 1 << 22, 300, 17), (1 << 14, 600, 1, 1 << 20)):
        for name, size in zip(("LARGE", "COMPONENTS", "TOGETHER", "STEPS"), sizes, strict=True):
            monkeypatch.setattr(partition, name, size)
        assert np.array_equal(partition.partition(vectors, columns, 4, 2), expected)


def parts_of(given):
    """List the types that a type is made of, where it is a tuple's, perhaps of tuples."""
    return [part for own in given.types for part in parts_of(own)] if isinstance(given, types.BaseTuple) else [given]


def test_kernels_of_building_return_numbers_or_nothing():
    """An array that is returned is made by Python code, which an exception of a signal handler would break.

    What is given is taken apart without such code where it is arrays, numbers and plain tuples of types known already.
    """
    rng = np.random.default_rng(0)
    for filter in ("cells", "groups", "balls"):
        HalfspaceIndex(DIMENSION, filter=filter).insert(integers(rng, 300))
    seen = 0
    for module, names in BUILDING.items():
        for name in names:
            for signature, compiled in getattr(MODULES[module], name).overloads.items():
                returned = compiled.signature.return_type
                assert all(
                    isinstance(part, types.Number | types.Boolean | types.NoneType) for part in parts_of(returned)
                )
                assert not any(isinstance(given, types.BaseNamedTuple) for given in signature)
                assert not any(isinstance(part, types.Record) for given in signature for part in parts_of(given))
                seen += 1
    assert seen > 8


# Progress


class Calls:
    """Notes what it is told; raises at one call if it is asked to."""

    def __init__(self, number=None):
        self.told, self.number, self.lock = [], number, threading.Lock()

    def __call__(self, done, total):
        assert self.lock.acquire(blocking=False)  # one call at a time
        self.told.append((done, total))
        self.lock.release()
        if len(self.told) == self.number:
            raise Stop

    def check(self, total):
        assert self.told[0] == (0, total)
        assert self.told[-1] == (total, total)
        assert {whole for _, whole in self.told} == {total}
        done = [part for part, _ in self.told]
        assert done == sorted(done)


@pytest.mark.parametrize("filter", FILTERS)
def test_progress_never_goes_back_and_ends_with_all(filter, rng):
    rows = ROWS.get(filter, 9000)
    vectors = integers(rng, rows, 200)
    index, inserted, merged, compacted, verified = (
        HalfspaceIndex(200, filter=filter),
        Calls(),
        Calls(),
        Calls(),
        Calls(),
    )
    index.insert(vectors, progress=inserted)
    inserted.check(rows)
    for _ in range(2):
        index.insert(vectors[:300])
    index.insert(vectors[:300], progress=merged)
    merged.check(300)
    index.compact(progress=compacted)
    compacted.check(rows + 900)
    index.verify(progress=verified)
    verified.check(rows + 900)
    for calls in (inserted, compacted, verified):
        halves = [done for done, total in calls.told if 0 < done < total]
        assert len(set(halves)) >= (1 if filter == "scan" else 3), calls.told


def test_progress_counts_what_is_merged(rng):
    index, calls = HalfspaceIndex(DIMENSION), Calls()
    for _ in range(3):
        index.insert(integers(rng, 300))
    index.insert(integers(rng, 300), progress=calls)
    calls.check(1200)
    index.insert(integers(rng, 0), progress=(none := Calls()))
    assert none.told == [(0, 0), (0, 0)]
    index.insert(integers(rng, 1)[0], progress=(one := Calls()))
    one.check(1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filter", FILTERS)
def test_an_exception_of_progress_cancels(filter, threads, rng):
    vectors = integers(rng, ROWS.get(filter, 9000), 64)
    ids, direction = np.arange(len(vectors)), integers(rng, 1, 64)[0]
    index = HalfspaceIndex(64, filter=filter, threads=threads)
    index.insert(vectors[:1000])
    whole = Calls()
    HalfspaceIndex(64, filter=filter, threads=threads).insert(vectors[1000:], progress=whole)
    for number in {1, 2, 3, len(whole.told) // 2, len(whole.told) - 1}:
        for work in (lambda calls: index.insert(vectors[1000:], progress=calls), lambda c: index.compact(progress=c)):
            calls = Calls(number)
            try:
                work(calls)
            except Stop:
                assert len(calls.told) == number
            else:
                assert len(calls.told) < number
            assert len(index) == 1000
            exact(index, vectors[:1000], ids[:1000], direction, 30)
    last = Calls()
    assert index.insert(vectors[1000:], progress=last).tolist() == ids[1000:].tolist()
    exact(index, vectors, ids, direction, 30)


def test_the_command_line_shows_progress_of_every_long_step(rng, tmp_path, monkeypatch):
    import contextlib

    from halfspace import cli

    seen = {}

    @contextlib.contextmanager
    def noted(text):
        seen[text] = Calls()
        yield seen[text]

    monkeypatch.setattr(cli, "progress", noted)
    np.save(tmp_path / "vectors.npy", integers(rng, 3000).astype(np.float32))
    built = CliRunner().invoke(cli.app, ["build", str(tmp_path / "vectors.npy"), "-o", str(tmp_path / "index")])
    assert built.exit_code == 0, built.output
    assert CliRunner().invoke(cli.app, ["info", str(tmp_path / "index"), "--verify"]).exit_code == 0
    assert list(seen) == ["inserting", "compacting", "verifying"]
    for calls in seen.values():
        calls.check(3000)
