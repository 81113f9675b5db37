"""Memory: what is read is still there, and where there is no more, an error says so and nothing waits or breaks."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.checking import FILTERS, build

search = importlib.import_module("halfspace.cpu.search")

COUNTERS = """
import numpy as np
from halfspace import HalfspaceIndex

rng = np.random.default_rng(0)
vectors = rng.integers(-3, 4, (5000, 24)).astype(np.float32)
direction = rng.integers(-2, 3, 24).astype(np.float32)
products = vectors.astype(np.int64) @ direction.astype(np.int64)
for filter in ("scan", "cells", "groups", "balls", "sweep", "auto"):
    index = HalfspaceIndex(24, filter=filter)
    index.insert(vectors)
    index.compact()
    for tau in (-1e9, 0.0, 9.0, 1e9):
        found = index.explain(direction, tau)
        assert found.hits == (products >= tau).sum()
        stages = {stage.name: stage for stage in found.stages}
        for stage in found.stages:
            assert 0 <= stage.dropped + stage.taken + stage.left == stage.tested <= 5000, (filter, tau, stage)
            assert 0 <= stage.bytes_read <= 4 * vectors.nbytes and 0 <= stage.dot_products <= 5000, (filter, tau, stage)
        assert sum(stages[name].taken for name in ("verify", "exact") if name in stages) == found.hits
print("they add up")
"""


def in_a_process(script, *arguments, **environment):
    """Run a script in a process of its own, which must not hang."""
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", script, *map(str, arguments)]
    own = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=300, check=False)


def test_counters_add_up_where_freed_memory_is_overwritten():
    """The C library fills what is freed: whatever is read after that shows."""
    done = in_a_process(COUNTERS, MALLOC_PERTURB_="165")
    assert (done.returncode, done.stdout) == (0, "they add up\n"), done.stderr


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_hits_without_room_are_counted_and_remedies_named(filter, threads, monkeypatch, rng):
    vectors = rng.integers(-2, 3, (20_000, 8)).astype(np.float32)
    index = build(vectors, filter=filter)
    direction = rng.integers(1, 3, 8).astype(np.float32)
    expected = int((vectors @ direction >= 0).sum())

    def grow(*_):
        raise MemoryError("no")

    with monkeypatch.context() as patch:
        patch.setattr(search.Columns, "grow", grow)
        patch.setattr(search, "MIN_BYTES", 1)
        patch.setattr(search, "ROOM", search.CHUNK)
        for ask in (direction, np.stack([direction] * 3)):
            hits = expected * (1 if ask.ndim == 1 else 3)
            with pytest.raises(MemoryError, match=rf"{hits:,} hits.*count\(\).*limit=") as caught:
                index.query(ask, 0.0, threads=threads)
            assert "tau" in str(caught.value)
        assert index.count(direction, 0.0) == expected
    assert len(index.query(direction, 0.0)) == expected


LITTLE = """
import _thread, resource, sys
import numpy as np
from halfspace import HalfspaceIndex
from halfspace.cpu.runtime import threads as _threads

sys.modules["halfspace.cpu.search"].MIN_BYTES = 1
rng = np.random.default_rng(0)
vectors = rng.integers(-3, 4, (100_000, 16)).astype(np.float32)
directions = rng.integers(-2, 3, (32, 16)).astype(np.float32)
expected = ((vectors @ directions.T) >= 9).sum(axis=0).tolist()
index = HalfspaceIndex(16, filter=sys.argv[1], threads=4)
index.insert(vectors)
for threads in (1, 2):  # what is loaded later, LLVM needs memory for, and ends the process without it
    for ask in (directions, directions[:5]):
        index.query(ask, 9.0, threads=threads), index.count(ask, 9.0, threads=threads)
_threads._pool = _threads._Pool(3)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
outcomes = []

def ask():
    for _ in range(3):
        try:
            assert index.query(directions, 9.0).totals.tolist() == expected
            assert index.count(directions[:5], 9.0).tolist() == expected[:5]
            outcomes.append("answered")
        except MemoryError:
            outcomes.append("no memory")

resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[2]) * 2**20, resource.RLIM_INFINITY))
ask()
begun, ended = _thread.allocate_lock(), _thread.allocate_lock()
ended.acquire()

def beside():
    if begun.acquire(False):
        try:
            ask()
        finally:
            ended.release()

try:
    _thread.start_new_thread(beside, ())
except (RuntimeError, MemoryError):
    pass  # no thread for the test itself
if not ended.acquire(timeout=2.0) and not begun.acquire(False):
    ended.acquire()  # it has begun
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ask()
assert outcomes[-3:] == ["answered"] * 3, outcomes
print(len(outcomes))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="this system does not tell a process its size")
@pytest.mark.parametrize("megabytes", [0, 2, 6, 12, 24, 48])
@pytest.mark.parametrize("filter", ["scan", "cells"])
def test_little_memory_ends_in_an_answer_or_an_error(filter, megabytes):
    """At the limit of the address space nothing waits for ever, and nothing crashes; with memory back, all is well."""
    done = in_a_process(LITTLE, filter, megabytes)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 6


def test_a_search_within_a_search_says_once_how_many_hits_have_no_room(rng, monkeypatch):
    """The first thresholds were too high; the hits of the second search, at lower ones, have no room."""
    nearest, cpu = importlib.import_module("halfspace.nearest"), importlib.import_module("halfspace.cpu")
    guess = nearest._Guess.thresholds
    monkeypatch.setattr(nearest._Guess, "thresholds", lambda self: guess(self) + (1e9 if self.depth == 1 else 0.0))
    index = build(rng.standard_normal((500, 4)).astype(np.float32))
    index.search(np.ones((2, 4), np.float32), 3)

    def full(*arguments, **options):
        raise MemoryError("full")

    monkeypatch.setattr(cpu, "best", full)  # what a second search orders its hits by
    with pytest.raises(MemoryError) as failed:
        index.search(np.ones((2, 4), np.float32), 3)
    assert str(failed.value).count("no memory for") == 1
    assert "the 0 hits" not in str(failed.value)
