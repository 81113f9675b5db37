"""Mapped indexes: answers of files that memory has no room for, and what the system is told and tells."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.checking import build, identical

from halfspace import HalfspaceIndex
from halfspace.files import mapped


@pytest.fixture
def path(tmp_path, rng):
    vectors = rng.integers(-4, 5, (3000, 16)).astype(np.float32)
    build(vectors, filter="cells").save(tmp_path / "x")
    return tmp_path / "x"


def test_a_mapping_is_found_where_vectors_lie(path):
    segment = HalfspaceIndex.load(path, mmap=True)._snapshot.sealed[0]
    mapping, begin = mapped._found(segment.vectors)
    assert mapping[begin : begin + segment.vectors.nbytes] == segment.vectors.tobytes()
    assert mapped._found(HalfspaceIndex.load(path)._snapshot.sealed[0].vectors) is None


class Mapping:
    """What takes advice."""

    def __init__(self):
        self.given = []

    def madvise(self, *advice):
        self.given.append(advice)


def test_what_the_system_is_told(path, rng):
    index = HalfspaceIndex.load(path, mmap=True)
    segment = index._snapshot.sealed[0]
    mapping = Mapping()
    segment.kept["mapped"] = mapping, segment.kept["mapped"][1]
    few, many = 1e9, -1e9
    direction = rng.standard_normal(16).astype(np.float32)
    for ask in (index.query, index.count, index.explain):
        for tau, advice in ((few, mapped.mmap.MADV_RANDOM), (many, mapped.mmap.MADV_NORMAL)):
            mapping.given.clear()
            ask(direction, tau)
            [(number, low, size)] = mapping.given
            assert number == advice
            assert low % mapped.PAGE == 0
            assert low <= segment.kept["mapped"][1] < low + mapped.PAGE
            assert low + size == segment.kept["mapped"][1] + segment.vectors.nbytes
    mapping.given.clear()
    index.pairs(1e9)
    assert [number for number, _, _ in mapping.given] == [
        mapped.mmap.MADV_NORMAL,
        *[mapped.mmap.MADV_WILLNEED] * (len(mapping.given) - 1),
    ]
    assert len(mapping.given) > 1


def test_when_reading_ahead_pays():
    assert mapped.sparse_share(128) == 1 / 256
    assert mapped.sparse_share(4096) == mapped.sparse_share(8192) == 1 / 8


def test_explain_says_what_was_read(path):
    direction = np.ones(16, np.float32)
    index, other = HalfspaceIndex.load(path), HalfspaceIndex.load(path, mmap=True)
    plain, explained = index.explain(direction, 9.0), other.explain(direction, 9.0)
    assert plain.from_disk is None
    assert "disk" not in str(plain)
    assert plain == explained
    if os.path.exists("/proc/self/io"):
        assert explained.from_disk >= 0
        assert f"mapped: {explained.from_disk:,} bytes were read from the disk" in str(explained)


LIMITED = """
import resource, sys
import numpy as np
from halfspace import HalfspaceIndex

vectors = np.random.default_rng(0).integers(-4, 5, (400_000, 32)).astype(np.float32)
directions = np.random.default_rng(1).integers(-3, 4, (3, 32)).astype(np.float32)
index = HalfspaceIndex(32, threads=1, filter="cells")
index.insert(vectors)
expected = [np.flatnonzero(vectors @ direction >= 90).tolist() for direction in directions]
index.query(directions[0], 90.0)  # kernels are loaded
index.save(sys.argv[1])
del index, vectors
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (16 << 20), resource.RLIM_INFINITY))
try:
    HalfspaceIndex.load(sys.argv[1], threads=1)
except MemoryError:
    print("no memory")
index = HalfspaceIndex.load(sys.argv[1], mmap=True, threads=1)
for direction, own in zip(directions, expected):
    assert index.query(direction, 90.0).ids.tolist() == own
    assert index.count(direction, 90.0) == len(own) > 0
assert index.query(directions, 90.0).totals.tolist() == [len(own) for own in expected]
print("answered")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of data are those of Linux")
def test_a_file_that_memory_has_no_room_for(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "x"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "no memory\nanswered\n"), done.stderr


def test_mapped_files_answer_alike(path, rng):
    index, other = HalfspaceIndex.load(path), HalfspaceIndex.load(path, mmap=True)
    directions = rng.standard_normal((20, 16)).astype(np.float32)
    for tau in (-50.0, 0.0, 12.0, 90.0):
        identical(index.query(directions, tau), other.query(directions, tau))
    identical(index.search(directions, 7), other.search(directions, 7))
    identical(index.query(directions[:0], 1.0), other.query(directions[:0], 1.0))
    identical(index.query(directions, 1.0, within=[]), other.query(directions, 1.0, within=[]))
