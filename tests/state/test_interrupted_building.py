"""Building that is interrupted: the index is then in the old state or in the new one."""

import signal

import numpy as np
import pytest
from helpers.checking import FILTERS
from helpers.interrupts import DIMENSION, ROWS, alarms, exact, integers

from halfspace import HalfspaceIndex

pytestmark = [
    pytest.mark.usefixtures("no_gc_callbacks"),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers"),
]


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
