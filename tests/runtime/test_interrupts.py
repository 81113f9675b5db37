"""Interrupts: a signal handler's own exception comes out, once and soon, and nothing is held or half done after it."""

import copy
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest
from helpers import reference
from helpers.checking import FILTERS, build, equal

from halfspace import HalfspaceIndex
from halfspace.attention import KVIndex
from halfspace.cpu.job import FULL, PAUSED
from halfspace.files.vectors import read_vectors
from halfspace.model.layout import CHUNK
from halfspace.runtime.interrupts import undisturbed

search = importlib.import_module("halfspace.cpu.search")

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this system has no alarm"),
    pytest.mark.usefixtures("no_gc_callbacks"),
]
ALARMS = int(os.environ.get("HALFSPACE_ALARMS", "30"))
"""Alarms for each kind of work."""
DIM = 24


class Alarm(Exception):
    """What the handler raises, if nothing else."""


class Late(TimeoutError):
    """What looks like an error of the system."""


class Bad(ValueError):
    """What looks like an error of a file's content."""


class Handled(Counter):
    """How often alarms were handled, and what they raise."""


@pytest.fixture
def alarms(request):
    """Count the alarms that were handled."""
    handled = Handled()
    handled.raised = getattr(request, "param", Alarm)

    def handle(*_):
        handled["alarms"] += 1
        raise handled.raised("of the handler")

    before = signal.signal(signal.SIGALRM, handle)
    yield handled
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupted(alarms, work, delay):
    """Do work over and over until an alarm ends it; what came out, and how often the handler was called meanwhile."""
    before = alarms["alarms"]
    outcome = "nothing came out"
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        while alarms["alarms"] == before:
            work()
    except BaseException as error:
        outcome = type(error).__name__ if str(error) == "of the handler" else repr(error)
    return outcome, alarms["alarms"] - before


@pytest.mark.parametrize("filter", FILTERS)
def test_the_handlers_own_exception_comes_out_of_questions(filter, alarms, rng):
    vectors = rng.integers(-3, 4, (9000, DIM)).astype(np.float32)
    directions = rng.integers(-2, 3, (40, DIM)).astype(np.float32)
    index = build(vectors, filter=filter)
    expected = reference.query(vectors, directions, 12.0, faster=True)
    work = {
        "one": lambda: index.query(directions[0], 12.0),
        "batch": lambda: index.query(directions, 12.0, threads=1),
        "threads": lambda: index.query(directions, 12.0, threads=3),
        "everything": lambda: index.query(directions[:4], -np.inf),
        "sorted": lambda: index.query(directions[:4], -np.inf, sort=True),
        "best": lambda: index.query(directions[:4], -np.inf, limit=5),
        "count": lambda: index.count(directions, 0.0),
        "explain": lambda: index.explain(directions[0], 0.0),
    }
    for ask in work.values():
        ask()
    outcomes = Counter(
        interrupted(alarms, list(work.values())[at % len(work)], float(rng.uniform(1e-4, 1e-2))) for at in range(ALARMS)
    )
    assert outcomes == {("Alarm", 1): ALARMS}
    for ours, theirs in zip(index.query(directions, 12.0), expected, strict=True):
        equal(ours, theirs)


# An alarm between the opening of a file and its ``with`` leaves closing it to the collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("alarms", [Alarm, Late, Bad, RecursionError, MemoryError], indirect=True)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_readers_that_go_piece_by_piece(alarms, rng, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("halfspace.files.parquet._ROWS", 64)
    vectors, file = rng.integers(-3, 4, (3000, DIM)), tmp_path / f"vectors.{suffix}"
    if suffix == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(importlib.import_module("pyarrow").table({"vectors": vectors.tolist()}), file)
    else:
        file.write_text("".join(f"{row}\n" for row in vectors.tolist()))
    np.testing.assert_array_equal(read_vectors(file), vectors)
    outcomes = Counter(
        interrupted(alarms, lambda: read_vectors(file), float(rng.uniform(1e-4, 2e-2))) for _ in range(ALARMS)
    )
    assert outcomes == {(alarms.raised.__name__, 1): ALARMS}
    np.testing.assert_array_equal(read_vectors(file), vectors)


# An alarm between the opening of a file and its ``with`` leaves closing it to the collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("alarms", [Alarm, Late, Bad, RuntimeError, MemoryError, KeyError], indirect=True)
def test_writers_are_interrupted_as_a_whole(alarms, rng, tmp_path):
    vectors = rng.integers(-3, 4, (600, DIM)).astype(np.float32)
    direction = rng.integers(-2, 3, DIM).astype(np.float32)
    np.savez(tmp_path / "vectors.npz", vectors)
    index = HalfspaceIndex(DIM)
    inserted = 0
    outcomes = Counter()

    def write():
        index.insert(vectors)
        index.delete(index.ids[:300])
        index.save(tmp_path / "index")
        assert len(HalfspaceIndex.load(tmp_path / "index")) == len(index)
        assert len(read_vectors(tmp_path / "vectors.npz")) == len(vectors)

    for _ in range(ALARMS):
        outcomes[interrupted(alarms, write, float(rng.uniform(1e-4, 2e-2)))] += 1
        assert len(index) % 300 == 0  # each insert and each deletion whole, or not at all
        assert not index._writing.held._is_owned()
        taken = threading.Thread(target=index.insert, args=(vectors[:300],))  # no lock is left taken
        taken.start()
        taken.join(60)
        assert not taken.is_alive()
        inserted += 1
    text = repr if alarms.raised is KeyError else lambda _: alarms.raised.__name__
    assert outcomes == {(text(KeyError("of the handler")), 1): ALARMS}
    assert inserted == ALARMS
    stored, ids = index.vectors(index.ids), index.ids
    equal(index.query(direction, 10.0), reference.query(stored, direction[None], 10.0, ids=ids, faster=True)[0])
    index.verify()


def test_copies_and_pickles_are_interrupted(alarms, rng):
    index = build(rng.integers(-3, 4, (600, DIM)).astype(np.float32))
    outcomes = Counter()

    def work():
        other = pickle.loads(pickle.dumps(copy.deepcopy(index)))
        assert len(other) == 600
        other.clear()
        assert len(other) == 0

    for _ in range(ALARMS):
        outcomes[interrupted(alarms, work, float(rng.uniform(1e-4, 1e-2)))] += 1
        assert not index._writing.held._is_owned()
        assert len(index) == 600
    text = repr if alarms.raised is KeyError else lambda _: alarms.raised.__name__
    assert outcomes == {(text(KeyError("of the handler")), 1): ALARMS}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_kernels_that_stop_wherever_they_may_go_on_where_they_were(filter, count, threads, monkeypatch, rng):
    vectors = rng.integers(-2, 3, (7000, DIM)).astype(np.float32)
    directions = rng.integers(-2, 3, (count, DIM)).astype(np.float32)
    taus = rng.integers(-4, 9, count).astype(np.float64)
    taus[0] = 8.0
    index = build(vectors, filter=filter)
    within = np.flatnonzero(rng.random(len(vectors)) < 0.5)
    expected = reference.query(vectors, directions, taus, faster=True)
    explained = index.explain(directions[0], taus[0])
    states = Counter()
    kernel_of = search.search_kernel

    def watched(code):
        def kernel(*arguments):
            stopped = kernel_of(code)(*arguments)
            states[stopped[-1]] += 1
            return stopped

        return kernel

    monkeypatch.setattr(search, "search_kernel", watched)
    monkeypatch.setattr(search, "TURN", -1.0)  # time is up whenever the clock is read
    monkeypatch.setattr(search, "ROOM", CHUNK)
    monkeypatch.setattr(
        search.Columns, "grow", lambda columns, _, grow=search.Columns.grow: grow(columns, columns.ids.size + CHUNK)
    )
    monkeypatch.setattr(search, "MIN_BYTES", 1)  # small as it is, let two threads share each question
    monkeypatch.setattr(search, "PREPARED", 1 << 62)
    for ours, theirs in zip(index.query(directions, taus, threads=threads), expected, strict=True):
        equal(ours, theirs)
    for ours, (ids, scores) in zip(
        index.query(directions, taus, within=within, threads=threads), expected, strict=True
    ):
        asked = np.isin(ids, within)
        equal(ours, (ids[asked], scores[asked]))
    assert index.count(directions, taus, threads=threads).tolist() == [len(ids) for ids, _ in expected]
    assert index.explain(directions[0], taus[0]) == explained
    assert states[PAUSED] > 0
    assert count == 1 or states[FULL] > 0


def test_many_heads_that_stop_wherever_they_may(monkeypatch, rng):
    """Several spaces are searched by one call, which stops in any of them."""
    keys = rng.integers(-3, 4, (1, 3, 3000, 16)).astype(np.float32)
    cache = KVIndex(3, 16, num_query_heads=6, dtype="float32")
    cache.append(keys, keys)
    queries = rng.integers(-2, 3, (1, 6, 16)).astype(np.float32)
    monkeypatch.setattr(search, "TURN", -1.0)
    monkeypatch.setattr(search, "ROOM", CHUNK)
    hits = cache.query(queries, 4.0)
    for head, ours in enumerate(hits):
        equal(ours, reference.query(keys[0, head // 2], queries[0, head, None], 4.0, faster=True)[0])


THOUSAND = """
import os, resource, signal, sys
import numpy as np
from halfspace import HalfspaceIndex

class Alarm(Exception): pass

handled = 0

def handle(*_):
    global handled
    handled += 1
    raise Alarm

signal.signal(signal.SIGALRM, handle)
rng = np.random.default_rng(0)
vectors = rng.standard_normal((30_000, 32), dtype=np.float32)
directions = rng.standard_normal((50, 32), dtype=np.float32)
index = HalfspaceIndex(32)
index.insert(vectors)
growing = HalfspaceIndex(32)
work = [
    lambda: index.query(directions[:3], -np.inf),
    lambda: index.query(directions, 8.0),
    lambda: index.query(directions[:3], -np.inf, sort=True),
    lambda: index.query(directions[:3], -np.inf, limit=9),
    lambda: index.count(directions, 6.0),
    lambda: HalfspaceIndex(32).insert(vectors),
    lambda: growing.insert(vectors[:50]),
    lambda: index.save(sys.argv[1]),
]
for one in work:
    one(), one()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
came = 0
for at in range(1000):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0002, 0.01))
        while handled == at:
            work[at % len(work)]()
    except Alarm:
        came += 1
    assert handled == at + 1
    assert not index._writing.held._is_owned() and not growing._writing.held._is_owned()
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(came, int(grown < 100))
"""


def test_a_thousand_alarms(tmp_path):
    """None of another kind, none swallowed, no lock held, less than 100 MB of growth."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", "-c", THOUSAND, str(tmp_path / "index")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout) == (0, "1000 1\n"), done.stderr


def test_what_is_undisturbed_comes_to_its_end(alarms):
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work():
        begun.set()
        assert go_on.wait(60)
        ended.set()
        return 5

    def alarm_me():
        assert begun.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    threading.Thread(target=alarm_me).start()
    with pytest.raises(Alarm):
        undisturbed(work)
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(60)
    assert undisturbed(work) == 5
    with pytest.raises(ZeroDivisionError):
        undisturbed(lambda: 1 / 0)


IN_A_NEW_PROCESS = """
import os, signal, sys
import numpy as np

class Alarm(Exception): pass

def handle(*_): raise Alarm

signal.signal(signal.SIGALRM, handle)
from halfspace import HalfspaceIndex
vectors = np.arange(1200, dtype=np.float32).reshape(600, 2)
delay, came = float(sys.argv[1]), 0
while True:
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        index = HalfspaceIndex(2, filter="scan")
        index.insert(vectors)
        hits = index.query([1.0, 0.0], 1000.0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        break
    except Alarm:
        came += 1
        delay *= 1.5
assert hits.ids.tolist() == list(range(500, 600)), hits
print(came)
"""


@pytest.mark.parametrize("delay", [0.01, 0.2])
def test_interrupts_while_kernels_are_loaded(delay):
    """Alarms fall into imports, into the loading of kernels, and everything works once they cease."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(delay)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert done.stderr == ""
