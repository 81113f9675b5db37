"""One answer: whatever the filter, the number of threads, the size of the batch and the history of the index."""

import functools
import itertools

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, FILTERS, identical

from halfspace import HalfspaceIndex

DIMENSION, DIRECTIONS = 20, 120


def random(rng, n):
    return rng.standard_normal((n, DIMENSION))


def clustered(rng, n):
    centres = 4 * rng.standard_normal((12, DIMENSION))
    return centres[rng.integers(0, 12, n)] + 0.3 * rng.standard_normal((n, DIMENSION))


def tied(rng, n):
    return rng.integers(-1, 2, (n, DIMENSION))


def heavy_tailed(rng, n):
    return rng.standard_normal((n, DIMENSION)) * rng.pareto(1.0, (n, 1))


DATA = [random, clustered, tied, heavy_tailed]


@functools.cache
def problem(data, dtype):
    """Stored vectors, their ids in random order, which are deleted, directions, thresholds, and the exact answer."""
    rng = np.random.default_rng([DATA.index(data), DTYPES.index(dtype)])
    vectors = reference.store(data(rng, 3500), dtype)
    ids = rng.permutation(10_000)[:3500] * 7 - 20_000
    deleted = rng.random(3500) < 0.2
    directions = reference.store(data(rng, DIRECTIONS), "float32")
    products = vectors.astype(np.float64) @ directions.T.astype(np.float64)
    shares = rng.choice([0.5, 0.9, 0.99, 0.999], DIRECTIONS)
    taus = np.array([np.quantile(p, s, method="lower") for p, s in zip(products.T, shares, strict=True)])
    expected = reference.query(vectors[~deleted], directions, taus, ids=ids[~deleted], faster=True)
    return vectors, ids, deleted, directions, taus, expected


def grow(filter, dtype, vectors, ids, deleted, *, compact, threads=None):
    """An index with this history: uneven inserts, deletes between them, compacted half-way or not."""
    index = HalfspaceIndex(vectors.shape[1], filter=filter, dtype=dtype, threads=threads)
    cuts = [0, 1, 20, 900, 901, 2500, 3499, 3500]
    for step, (start, stop) in enumerate(itertools.pairwise(cuts)):
        index.insert(vectors[start:stop], ids=ids[start:stop])
        if step == 4:
            index.delete(ids[:stop][deleted[:stop]])
            if compact:
                index.compact()
    index.delete(ids[2500:][deleted[2500:]])
    return index


def flat(answers):
    """The ids, the bits of the scores and the sizes of a sequence of answers."""
    ids, scores = zip(*answers, strict=True)
    return [np.concatenate(ids).tolist(), reference.bits(np.concatenate(scores)).tolist(), [len(part) for part in ids]]


def in_batches(index, directions, taus, size, threads):
    for start in range(0, len(directions), size):
        hits = index.query(directions[start : start + size], taus[start : start + size], threads=threads)
        assert hits.totals.tolist() == np.diff(hits.offsets).tolist()
        yield from ((one.ids, one.scores) for one in hits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("data", DATA)
def test_filters_threads_and_batches_agree(data, filter, dtype):
    vectors, ids, deleted, directions, taus, expected = problem(data, dtype)
    index = grow(filter, dtype, vectors, ids, deleted, compact=dtype != "float16")
    assert len(index) == np.count_nonzero(~deleted)
    expected = flat(expected)
    few = ((2, 1), (1, 300), (8, 300))
    for threads in (1, 2, 3, 8):
        for size in (1, 2, 7, 64, 300):
            if (size < 7 and threads > 2) or (filter in ("balls", "sweep") and (threads, size) not in few):
                continue
            assert flat(in_batches(index, directions, taus, size, threads)) == expected


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_of_the_index_are_the_default_of_a_query(threads):
    vectors, ids, deleted, directions, taus, expected = problem(random, "float32")
    index = grow("auto", "float32", vectors, ids, deleted, compact=True, threads=threads)
    assert flat(in_batches(index, directions, taus, 300, None)) == flat(expected)


@pytest.mark.parametrize("data", DATA)
def test_hits_are_identical_between_filters_and_histories(data):
    vectors, ids, deleted, directions, taus, _ = problem(data, "float32")
    first = None
    for filter in FILTERS:
        for compact in (False, True):
            index = grow(filter, "float32", vectors, ids, deleted, compact=compact)
            for _ in range(2):
                hits = index.query(directions, taus)
                first = first or hits
                identical(hits, first)
                index.compact()


@pytest.mark.parametrize("filter", FILTERS)
def test_many_segments(filter):
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((40_000, 6)).astype(np.float32)
    index = HalfspaceIndex(6, filter=filter)
    for part in np.split(vectors, np.sort(rng.integers(0, len(vectors), 30))):
        index.insert(part)
    gone = rng.permutation(len(vectors))[:9000]
    index.delete(gone)
    kept = np.setdiff1d(np.arange(len(vectors)), gone)
    directions = rng.standard_normal((6, 6)).astype(np.float32)
    expected = flat(reference.query(vectors[kept], directions, 5.0, ids=kept, faster=True))
    for threads in (1, 2, 8):
        assert flat((one.ids, one.scores) for one in index.query(directions, 5.0, threads=threads)) == expected
    assert index.count(directions, 5.0).tolist() == expected[2]


@pytest.mark.parametrize("filter", FILTERS)
def test_within_is_an_intersection(filter):
    vectors, ids, deleted, directions, taus, expected = problem(clustered, "float32")
    index = grow(filter, "float32", vectors, ids, deleted, compact=True)
    rng = np.random.default_rng(6)
    for size in (0, 1, 50, 2000):
        allowed = rng.permutation(ids[~deleted])[:size]
        inside = [(found[keep], scores[keep]) for found, scores in expected for keep in [np.isin(found, allowed)]]
        hits = index.query(directions, taus, within=allowed)
        assert flat((one.ids, one.scores) for one in hits) == flat(inside)
        assert index.count(directions, taus, within=allowed).tolist() == [len(found) for found, _ in inside]
        best = [reference.best(*answer, 3) for answer in inside]
        top = index.query(directions, taus, within=allowed, limit=3, sort=True)
        assert flat((one.ids, one.scores) for one in top) == flat(best)
        assert top.totals.tolist() == [len(found) for found, _ in inside]


@pytest.mark.parametrize("filter", FILTERS)
def test_more_groups_than_one_task_bounds(filter):
    rng = np.random.default_rng(7)
    vectors = rng.integers(-99, 100, (70_000, 3)).astype(np.float32)
    index = HalfspaceIndex(3, filter=filter)
    index.insert(vectors)
    for q in rng.integers(-9, 10, (4, 3)):
        products = vectors.astype(np.int64) @ q
        for tau in np.quantile(products, [0.2, 0.99, 0.9999], method="higher"):
            assert (
                index.query(q.astype(np.float32), float(tau)).ids.tolist() == np.flatnonzero(products >= tau).tolist()
            )
            assert index.count(q.astype(np.float32), float(tau)) == np.count_nonzero(products >= tau)
