"""Threads that cannot be started, CPUs that may not be used."""

import importlib
import os
import threading

import numpy as np
import pytest
from helpers import reference
from helpers.checking import FILTERS, build, equal

from halfspace.attention import KVIndex
from halfspace.cpu.runtime import cpus as _cpus
from halfspace.cpu.runtime import threads as _threads
from halfspace.runtime.interrupts import undisturbed

search = importlib.import_module("halfspace.cpu.search")


def refuse(*_):
    raise RuntimeError("can't start new thread")


def vanish(*_):
    """A thread that begins and ends before it has done anything, as for want of memory."""


@pytest.fixture(params=[refuse, vanish])
def no_threads(request, monkeypatch):
    monkeypatch.setattr(_threads, "_pool", _threads._Pool(3))
    monkeypatch.setattr(_threads, "start_new_thread", request.param)


@pytest.mark.parametrize("filter", FILTERS)
def test_a_query_goes_on_without_threads(filter, no_threads, monkeypatch, rng):
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    vectors = rng.integers(-2, 3, (5000, 8)).astype(np.float32)
    directions = rng.integers(-2, 3, (30, 8)).astype(np.float32)
    index = build(vectors, filter=filter, threads=4)
    for ours, theirs in zip(index.query(directions, 6.0), reference.query(vectors, directions, 6.0), strict=True):
        equal(ours, theirs)
    equal(index.query(directions[0], 6.0), reference.query(vectors, directions[:1], 6.0)[0])


def test_results_keep_their_order_and_the_first_failure_comes_out():
    assert _threads.run(lambda task: task * task, range(50), 4) == [task * task for task in range(50)]
    begun = []

    def fail(task):
        begun.append(task)
        if task == 3:
            raise IndexError("task 3")
        return task

    with pytest.raises(IndexError, match="task 3"):
        _threads.run(fail, range(1000), 3)
    assert len(begun) < 1000


@pytest.mark.parametrize("caller_fails", [True, False])
def test_a_failure_ends_the_tasks_of_the_others(caller_fails):
    """A task that takes long asks whether anybody still waits for it."""
    waiting, caller = threading.Event(), threading.get_ident()

    def work(_):
        if (threading.get_ident() == caller) == caller_fails:
            assert waiting.wait(60)
            raise KeyError("the first failure")
        waiting.set()
        while True:
            _threads.go_on()

    with pytest.raises(KeyError, match="the first failure"):
        _threads.run(work, range(2), 2)
    _threads.go_on()  # nothing has been given up here
    assert _threads.run(lambda task: _threads.go_on() or task, range(9), 3) == list(range(9))


def test_nobody_waits_for_a_kernel_that_another_thread_compiles(monkeypatch):
    """A call that fails ends at once, though a thread at work for it is in the middle of compiling."""
    compiling, go_on, caller = threading.Event(), threading.Event(), threading.get_ident()

    def compile_slowly():
        compiling.set()
        assert go_on.wait(60)

    def work(_):
        if threading.get_ident() == caller:
            assert compiling.wait(60)
            raise KeyError("interrupted")
        undisturbed(compile_slowly, meanwhile=_threads.go_on)

    with pytest.raises(KeyError, match="interrupted"):
        _threads.run(work, range(2), 2)
    assert not go_on.is_set()
    go_on.set()
    assert undisturbed(lambda: 5) == 5


def test_no_work_stays_behind_whatever_is_raised_meanwhile(monkeypatch):
    """Even where a second exception comes while the first one waits, no task runs on when the call has raised."""
    running, leave, caller = threading.Event(), threading.Event(), threading.get_ident()
    settle, tries = _threads._Offer.settle, []

    def impatient(offer):
        tries.append(offer)
        if len(tries) < 3:
            raise KeyboardInterrupt
        leave.set()
        settle(offer)

    def work(_):
        if threading.get_ident() == caller:
            assert running.wait(60)
            raise KeyError("the first")
        running.set()
        assert leave.wait(60)
        running.clear()

    monkeypatch.setattr(_threads._Offer, "settle", impatient)
    with pytest.raises(KeyboardInterrupt):
        _threads.run(work, range(2), 2)
    assert len(tries) == 3
    assert not running.is_set()


def test_threads_are_kept_and_started_when_needed():
    pool = _threads._Pool(2)
    together = threading.Barrier(3, timeout=60)
    offers = [_threads._Offer(together.wait) for _ in range(2)]
    for offer in offers:
        pool.give(offer)
    together.wait()
    for offer in offers:
        offer.settle()
    assert pool.started == 2
    withdrawn = _threads._Offer(lambda: pytest.fail("it was withdrawn"))
    withdrawn.settle()
    pool.give(withdrawn)
    last = _threads._Offer(lambda: None)
    pool.give(last)
    last.settle()
    assert pool.started == 2


def test_one_thread_is_one_thread(monkeypatch, rng):
    """No call with ``threads=1`` hands work to another thread."""
    monkeypatch.setattr(_threads, "_pool", None)
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    index = build(rng.standard_normal((40_000, 16)).astype(np.float32), threads=1)
    index.query(rng.standard_normal((40, 16)), 4.0, sort=True)
    index.query(rng.standard_normal((40, 16)), 4.0, limit=2)
    cache = KVIndex(2, 16, threads=1)
    keys = rng.standard_normal((1, 2, 20_000, 16)).astype(np.float32)
    cache.append(keys, keys)
    cache.attend(keys[:, :, 0], eps=0.1)
    cache.attend(keys[:, :, 0], keep=0.1)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {}, []),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, [1.5]),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, [0.5]),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/../elsewhere\n", {"cpu.max": "300000 100000\n"}, [3.0]),
        (
            "4:cpu,cpuacct:/d\n5:memory:/d\n",
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "250000", "cpu,cpuacct/d/cpu.cfs_period_us": "100000"},
            [2.5],
        ),
        ("4:cpu,cpuacct:/d\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("no control groups", {"cpu.max": "50000 100000"}, []),
        ("0::/\n", {"cpu.max": "nonsense"}, []),
    ],
)
def test_quotas_of_containers(own, files, expected, tmp_path):
    groups = tmp_path / "groups"
    groups.mkdir()
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        file = groups / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert list(_cpus._quotas(tmp_path / "own", groups)) == expected


def test_cpus_are_those_of_the_affinity_and_the_quota(monkeypatch):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no affinity")
    for quotas, expected in (([], 6), ([2.5, 4.0], 3), ([0.2], 1), ([64.0], 6)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
        monkeypatch.setattr(_cpus, "_quotas", lambda *_, quotas=quotas: quotas)
        assert _cpus.available.__wrapped__() == expected
