"""Appending that is interrupted or stopped: keys, lengths and codes fit together after it."""

import importlib
import signal

import numpy as np
import pytest
from helpers.interrupts import DIMENSION, Stop, alarms, stop_at

from halfspace.attention import KVIndex

cache = importlib.import_module("halfspace.cpu.attention.cache")
pytestmark = pytest.mark.usefixtures("no_gc_callbacks")


def holds(index, keys, queries, tau=14):
    """Hold the answer of a KV index (batch, heads, n, d) against integer arithmetic."""
    products = np.einsum("bhnd,bhd->bhn", keys, queries).reshape(
        queries.shape[0] * queries.shape[1], -1 if keys.size else 0
    )
    hits = index.query(queries.astype(np.float32), tau)
    for own, found in zip(products, hits, strict=True):
        assert found.ids.tolist() == np.flatnonzero(own >= tau).tolist()
        assert found.scores.tolist() == own[own >= tau].tolist()


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


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_keys_whose_coding_anew_was_stopped_are_coded_before_the_next_answer(number, rng, monkeypatch):
    keys = rng.integers(-3, 4, (1, 4, 6000, DIMENSION))
    keys[:, :, 1000:] += 40  # so that the new frame is far from the old one
    queries = rng.integers(-3, 4, (1, 4, DIMENSION))
    index = KVIndex(4, DIMENSION, dtype="float32", capacity=6000)
    first, more = keys[:, :, :1000].astype(np.float32), keys[:, :, 1000:].astype(np.float32)
    index.append(first, first)
    with monkeypatch.context() as patch:
        stop_at(patch, cache, "encode_rows", number)
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
        stop_at(patch, cache, "_lengthen", 1, after=after)
        with pytest.raises(Stop):
            index.append(given[:, :, 500:], given[:, :, 500:])
    size = 900 if after else 500
    assert index.lengths.tolist() == [size, size]
    holds(index, keys[:, :, :size], queries)
    index.append(given[:, :, size:], given[:, :, size:])
    holds(index, keys, queries)
