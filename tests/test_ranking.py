"""The best of each row on the device, and where their scores alone tell that these are the best by real scores."""

import importlib
from itertools import pairwise

import numpy as np
import pytest
from helpers import reference

from halfspace import HalfspaceIndex
from halfspace.backend import load
from halfspace.model.arrays import host
from halfspace.model.counters import Want

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
TINY = np.float32(1e-45)


@pytest.fixture
def backend(device, request):
    return load(device) if device == "cpu" else request.getfixturevalue("gpu")


def found_by(backend, scores, factors, tau):
    """What a search finds of the numbers themselves times a factor each, as scores; and which those are."""
    index = HalfspaceIndex(1, device=backend.DEVICE, filter="scan")
    index.insert(backend.xp.asarray(scores[:, None]))
    directions, limits = (backend.xp.asarray(array) for array in (factors[:, None], tau))
    question, _ = index._asked(index._snapshot, directions, limits, None, None, Want.SCORES, None)
    rows = [
        [(float(score), id) for id, score in enumerate((factor * scores).tolist()) if score >= limit]
        for factor, limit in zip(factors, tau, strict=True)
    ]
    return backend.search(question), [sorted(row, key=lambda hit: (-hit[0], hit[1])) for row in rows]


def check(backend, found, rows, limit):
    columns, clear, more = backend.ranked(found, limit, 1)
    offsets, ids, scores, totals = map(host, columns)
    assert isinstance(clear, np.ndarray)
    assert (more is None) == clear.all()
    if more is not None:
        every, best_ids, best_scores = map(host, more)
        for k, row in enumerate(rows):
            own = slice(every[k], every[k + 1])
            assert min(len(row), limit + 1) <= own.stop - own.start <= len(row)
            first = row[: own.stop - own.start]
            assert list(zip(best_scores[own].tolist(), best_ids[own].tolist(), strict=True)) == first
    # a GPU leaves it to the host where rows are long, or have fewer hits than are wanted of all together
    on_device = backend.DEVICE == "cpu" or (limit < 2048 and limit * len(rows) <= found.hits)
    for k, row in enumerate(rows):
        first = [score for score, _ in row[: limit + 1]]
        told_apart = len(row) >= limit and all(one > other for one, other in pairwise(first))
        if not clear[k]:
            assert not told_apart or not on_device
            continue
        assert told_apart
        own = slice(offsets[k], offsets[k + 1])
        assert (own.stop - own.start, totals[k]) == (limit, limit)
        assert ids[own].tolist() == [id for _, id in row[:limit]]
        assert reference.bits(scores[own]).tolist() == reference.bits(np.array(first[:limit], np.float32)).tolist()
    return clear


@DEVICES
@pytest.mark.parametrize("size", [1, 2, 255, 257, 1030, 2500])
def test_rows_are_ranked_and_ties_are_seen(device, backend, size, rng):
    """Scores of their own, few different ones, both zeros, and what a flushing unit would take for zero."""
    different = rng.permutation(np.arange(1, size + 1)).astype(np.float32) - np.float32(size // 2 + 0.5)
    equal = rng.integers(-3, 4, size).astype(np.float32)
    tiny = (rng.permutation(size) - size // 2).astype(np.float32) * TINY
    top = different.copy()
    top[np.argsort(-different)[: min(4, size)]] = np.float32(1e30)  # the best four share a score
    for scores in (different, equal, tiny, top):
        tau = np.sort(scores)[[0, size // 2, -1, -1]].astype(np.float64)
        tau[3] += 1.0  # nothing is found
        found, rows = found_by(backend, scores, np.ones(4, np.float32), tau)
        seen = [check(backend, found, rows, limit) for limit in sorted({1, 3, 4, 5, size // 2 + 1, size})]
        if scores is different and size > 2:
            assert seen[0].tolist() == [True, True, True, False]


@DEVICES
def test_what_shares_the_last_score_is_seen(device, backend):
    """Of 300 scores the tenth and the eleventh are equal: ten best are not clear, nine are."""
    scores = np.arange(300, 0, -1).astype(np.float32)
    scores[10] = scores[9]
    found, rows = found_by(backend, scores, np.ones(2, np.float32), np.array([1.0, 280.0]))
    assert [check(backend, found, rows, limit).tolist() for limit in (9, 10, 11)] == [
        [True] * 2,
        [False] * 2,
        [False] * 2,
    ]


@DEVICES
def test_more_than_a_block_ranks(device, backend, rng):
    scores = rng.permutation(4000).astype(np.float32) + np.float32(1.0)
    found, rows = found_by(backend, scores, np.array([1.0, -2.0], np.float32), np.array([-np.inf, -np.inf]))
    for limit in (2047, 2048, 4000):
        check(backend, found, rows, limit)


@DEVICES
def test_a_search_puts_rows_that_are_settled_on_the_host_among_the_others(device, backend, rng, monkeypatch):
    """Of eight directions two have ties, and two had thresholds that were too high."""
    vectors = rng.standard_normal((600, 6)).astype(np.float32)
    vectors[300:] = vectors[:300]
    vectors[300:, 5] += np.float32(1.0)
    directions = rng.standard_normal((8, 6)).astype(np.float32)
    directions[[2, 5], 5] = 0.0  # for these, each vector comes twice
    index = HalfspaceIndex(6, device=device)
    index.insert(backend.xp.asarray(vectors))
    nearest, tried = importlib.import_module("halfspace.nearest"), []
    guess = nearest._Guess.thresholds

    def too_high(self):
        tried.append(len(self.question.directions))
        tau = guess(self)
        if len(tried) == 1:
            tau[[1, 7]] = 1e9
        return tau

    monkeypatch.setattr(nearest._Guess, "thresholds", too_high)
    for k in (1, 5, 12):
        tried.clear()
        hits = index.search(backend.xp.asarray(directions), k)
        assert tried[:2] == [8, 2]
        assert host(hits.offsets).tolist() == list(range(0, 8 * k + 1, k))
        assert host(hits.totals).tolist() == [k] * 8
        for q, own in zip(directions, hits, strict=True):
            products, _ = reference.dots(vectors, q)
            best = sorted(range(600), key=lambda row: (-products[row], row))[:k]
            assert host(own.ids).tolist() == best
