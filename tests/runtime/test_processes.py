"""Threads and processes: many ask at once, one forks while another works, and the interpreter is free meanwhile."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import reference
from helpers.checking import FILTERS, build, equal
from llvmlite.binding import ffi
from numba.core.compiler_lock import global_compiler_lock

from halfspace import HalfspaceIndex
from halfspace.attention import KVIndex
from halfspace.cpu.runtime.jit import compiled

search = importlib.import_module("halfspace.cpu.search")
threads_of = importlib.import_module("halfspace.cpu.runtime.threads")


def test_the_kernels_release_the_interpreter():
    rng = np.random.default_rng(4)
    index = build(rng.standard_normal((20_000, 64)).astype(np.float32), filter="scan")
    m = 250
    for _ in range(6):  # a question long enough that another thread must have had its turn
        directions = rng.standard_normal((m, 64)).astype(np.float32)
        index.query(directions[:2], 30.0, threads=1)
        turns, done = [], threading.Event()

        def tick(turns=turns, done=done):
            while not done.wait(0.001):
                turns.append(time.monotonic())

        ticker = threading.Thread(target=tick)
        ticker.start()
        start = time.monotonic()
        index.query(directions, 30.0, threads=1)
        stop = time.monotonic()
        done.set()
        ticker.join()
        quarter = (stop - start) / 4
        inside = [t for t in turns if start + quarter < t < stop - quarter]
        if stop - start > 0.2 and len(inside) >= 5:
            return
        m *= 2
    pytest.fail(f"{len(inside)} turns within {2 * quarter:.3f} s of one query")


# What follows runs in processes of its own, one per threading layer: `python test_processes.py eight-threads`.


def problem():
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((6000, 32)).astype(np.float32)
    directions = rng.standard_normal((40, 32)).astype(np.float32)
    return vectors, directions, reference.query(vectors, directions, 8.0, faster=True)


def ask(index, directions, expected, threads):
    for ours, theirs in zip(index.query(directions, 8.0, threads=threads), expected, strict=True):
        equal(ours, theirs)
    equal(index.query(directions[0], 8.0, threads=threads), expected[0])


def eight_threads():
    vectors, directions, expected = problem()
    for filter in FILTERS:
        index = build(vectors, filter=filter)
        barrier = threading.Barrier(8)

        def work(_, index=index, barrier=barrier):
            barrier.wait()
            for threads in (2, 1, 2, 3, 2):
                ask(index, directions, expected, threads)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))


def in_a_child(work):
    """Fork; the child works and leaves, and this is its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(120)  # one that hangs ends, and the test fails by its exit code
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def after_a_fork():
    vectors, directions, expected = problem()
    indexes = [build(vectors, filter=filter) for filter in FILTERS]

    def ask_and_grow():
        for index in indexes:
            ask(index, directions, expected, 2)
            index.insert(vectors[:5])
            index.compact()
            assert len(index) == len(vectors) + 5

    for _ in range(2):
        for index in indexes:
            ask(index, directions, expected, 2)
        assert in_a_child(ask_and_grow) == 0


def fork_while_others_query():
    vectors, directions, expected = problem()
    index = build(vectors)
    ask(index, directions, expected, 2)
    done = threading.Event()

    def work():
        while not done.is_set():
            ask(index, directions, expected, 2)

    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(work) for _ in range(2)]
        try:
            statuses = [in_a_child(lambda: ask(index, directions, expected, 2)) for _ in range(5)]
        finally:
            done.set()
        for worker in workers:
            worker.result()
    assert statuses == [0] * 5


def fork_while_another_inserts():
    vectors, directions, expected = problem()
    index = build(vectors)
    inside, leave = threading.Event(), threading.Event()
    append = index._tail.append

    def slowly(*arguments):
        inside.set()
        assert leave.wait(60)
        return append(*arguments)

    index._tail.append = slowly
    writer = threading.Thread(target=index.insert, args=(vectors[:3],))
    writer.start()
    assert inside.wait(60)
    del index._tail.append

    def ask_and_insert():
        ask(index, directions, expected, 2)
        assert index.insert(vectors[:2]).tolist() == [6000, 6001]

    status = in_a_child(ask_and_insert)
    leave.set()
    writer.join()
    assert status == 0
    assert len(index) == 6003


def fork_while_another_attends():
    rng = np.random.default_rng(7)
    keys = rng.standard_normal((1, 2, 3000, 16)).astype(np.float32)
    queries = rng.standard_normal((1, 4, 16)).astype(np.float32)
    index = KVIndex(2, 16, num_query_heads=4, dtype="float32", threads=2)
    index.append(keys, keys)
    expected = index.attend(queries, tau=-np.inf)
    done = threading.Event()

    def work():
        while not done.is_set():
            index.attend(queries, eps=0.1)
            index.append(keys[:, :, :7], keys[:, :, :7])
            index.crop(3000)

    def attend_and_append():
        index.crop(3000)
        assert np.array_equal(index.attend(queries, tau=-np.inf), expected)
        index.append(keys[:, :, :70], keys[:, :, :70])
        assert index.lengths.tolist() == [3070]
        index.attend(queries, keep=0.1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        statuses = [in_a_child(attend_and_append) for _ in range(12)]
    finally:
        done.set()
        worker.join()
    assert statuses == [0] * 12


def fork_while_a_kernel_is_compiled():
    vectors, directions, expected = problem()
    index = build(vectors)
    done, results = threading.Event(), []

    def work():
        while not done.is_set():
            results.append(compiled(lambda x: 2 * x + 1)(1))

    def ask_and_compile():
        ask(index, directions, expected, 2)
        assert compiled(lambda x: x + 41)(1) == 42
        assert "scan" in HalfspaceIndex(32, filter="scan").stats()["filter"]

    worker = threading.Thread(target=work)
    worker.start()
    try:
        statuses = [in_a_child(ask_and_compile) for _ in range(8)]
    finally:
        done.set()
        worker.join()
    assert statuses == [0] * 8
    assert set(results) == {3}


def fork_while_others_are_in_the_compiler():
    """Threads may hold the locks of Numba and of LLVM without a call of this library: finalisers take the latter."""
    vectors, directions, expected = problem()
    index = build(vectors)
    for lock in (global_compiler_lock, ffi.lib._lock):
        inside, leave = threading.Event(), threading.Event()

        def work(lock=lock, inside=inside, leave=leave):
            with lock:
                inside.set()
                leave.wait(0.5)

        def ask_and_compile():
            ask(index, directions, expected, 2)
            assert compiled(lambda x: x + 41)(1) == 42

        worker = threading.Thread(target=work)
        worker.start()
        assert inside.wait(60)
        status = in_a_child(ask_and_compile)
        leave.set()
        worker.join()
        assert status == 0
        assert compiled(lambda x: x + 42)(1) == 43


def fork_while_an_attribute_is_derived():
    """Another thread is in the middle of tabulating an index; a child must not wait for it."""
    vectors, directions, expected = problem()
    indexes = [build(vectors), build(vectors)]
    inside, leave = threading.Event(), threading.Event()
    snapshot = importlib.import_module("halfspace.state.snapshot")
    of = snapshot.Table.of

    def slowly(*arguments):
        if threading.current_thread() is asker:
            inside.set()
            assert leave.wait(60)
        return of(*arguments)

    snapshot.Table.of = slowly
    asker = threading.Thread(target=ask, args=(indexes[0], directions, expected, 1))
    asker.start()
    assert inside.wait(60)
    statuses = [in_a_child(lambda index=index: ask(index, directions, expected, 1)) for index in indexes]
    leave.set()
    asker.join()
    assert statuses == [0, 0]


def leave_in_the_middle():
    """An exception ends a question while other threads still read; what they read must not be freed under them."""

    class Impatient(Exception):
        pass

    def alarm(*_):
        raise Impatient

    signal.signal(signal.SIGALRM, alarm)
    rng = np.random.default_rng(6)
    interrupted = 0
    build(rng.standard_normal((30_000, 64)).astype(np.float32)).count(np.zeros((400, 64), np.float32), 10.0, threads=2)
    for attempt in range(12):
        directions = rng.standard_normal((400, 64)).astype(np.float32)
        try:
            index = HalfspaceIndex(64)
            index.insert(rng.standard_normal((30_000, 64)).astype(np.float32))
            signal.setitimer(signal.ITIMER_REAL, 0.01 + 0.01 * attempt)
            for _ in range(50):
                index.count(directions, 10.0, threads=2, within=np.arange(0, 30_000, 2))
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Impatient:
            interrupted += 1
        index = None
    assert interrupted > 0


def outlive_the_main_thread():
    vectors, directions, expected = problem()
    index = build(vectors)

    def late():
        threading.main_thread().join()
        ask(index, directions, expected, 2)
        index.insert(np.repeat(vectors, 12, axis=0))
        print("done")

    threading.Thread(target=late).start()


SCENARIOS = {
    "fork-while-another-inserts": fork_while_another_inserts,
    "fork-while-another-attends": fork_while_another_attends,
    "fork-while-a-kernel-is-compiled": fork_while_a_kernel_is_compiled,
    "fork-while-others-are-in-the-compiler": fork_while_others_are_in_the_compiler,
    "fork-while-an-attribute-is-derived": fork_while_an_attribute_is_derived,
    "leave-in-the-middle": leave_in_the_middle,
    "outlive-the-main-thread": outlive_the_main_thread,
    "eight-threads": eight_threads,
    "after-a-fork": after_a_fork,
    "fork-while-others-query": fork_while_others_query,
}


@pytest.mark.parametrize(
    ("scenario", "layer"),
    [(scenario, "default") for scenario in SCENARIOS]
    + [(scenario, "workqueue") for scenario in ("eight-threads", "after-a-fork", "fork-while-others-query")],
)
def test_in_a_process_of_its_own(scenario, layer):
    if ("fork" in scenario and not hasattr(os, "fork")) or ("leave" in scenario and not hasattr(signal, "SIGALRM")):
        pytest.skip("this system has no fork and no alarm")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("NUMBA_THREADING_LAYER", None)
    if layer != "default":
        environment["NUMBA_THREADING_LAYER"] = layer
    command = [sys.executable, "-W", "ignore", __file__, scenario]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


if __name__ == "__main__":
    search.MIN_BYTES = 1
    SCENARIOS[sys.argv[1]]()
    if sys.argv[1] in ("eight-threads", "after-a-fork", "fork-while-others-query"):
        assert 1 <= threads_of._pool.started <= threads_of._pool.most
    if sys.argv[1] != "outlive-the-main-thread":
        print("done")
