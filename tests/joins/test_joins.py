"""Joins against the oracle of one query after another: pairs, groups, representatives and histograms."""

import numpy as np
import pytest
from helpers import metrics, reference
from helpers.checking import DTYPES, equal
from helpers.families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from halfspace import HalfspaceIndex
from halfspace.model.layout import CHUNK

METRICS = ["ip", "cosine", "l2"]
FILTERS = ["auto", "cells", "groups", "scan"]
every_metric = pytest.mark.parametrize("metric", METRICS)


def make(vectors, metric, filter="auto", dtype="float32", ids=None, **options):
    index = HalfspaceIndex(vectors.shape[1], metric=metric, filter=filter, dtype=dtype, **options)
    index.insert(vectors, ids)
    index.compact()
    return index


def expected(metric, vectors, tau, ids=None):
    """All pairs: the smaller id, the larger one, and the score, by the smaller and then by the larger id."""
    ids = np.arange(len(vectors)) if ids is None else ids
    found = metrics.query(metric, vectors, np.asarray(vectors, np.float32), tau, ids=ids)
    pairs = sorted(
        (own, int(other), score)
        for own, (hits, scores) in zip(ids.tolist(), found, strict=True)
        for other, score in zip(hits, scores, strict=True)
        if own < other
    )
    return [(a, b) for a, b, _ in pairs], np.array([score for *_, score in pairs], np.float32)


def listed(pairs):
    return list(zip(pairs.ids_a.tolist(), pairs.ids_b.tolist(), strict=True))


def graph(metric, vectors, tau):
    pairs, _ = expected(metric, vectors, tau)
    joined = np.zeros((len(vectors),) * 2, np.bool_)
    for a, b in pairs:
        joined[a, b] = joined[b, a] = True
    return joined


def smallest_of_components(joined):
    count, owners = connected_components(coo_array(joined), directed=False)
    first = [int(np.flatnonzero(owners == k)[0]) for k in range(count)]
    return [first[owner] for owner in owners]


def kept(joined, order):
    chosen = np.zeros(len(joined), np.bool_)
    for k in order:
        chosen[k] = not joined[k, chosen].any()
    return np.flatnonzero(chosen).tolist()


@every_metric
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_pair_and_no_other(family, dtype, metric, rng):
    vectors, directions = family(rng, 40, 5, 2, dtype)
    vectors, directions = metrics.nonzero(vectors, directions) if metric == "cosine" else (vectors, directions)
    taus = [*metrics.boundary_taus(metric, rng, vectors, np.asarray(vectors[0], np.float32), 1), 0.0]
    index = make(vectors, metric, FILTERS[rng.integers(4)], dtype)
    for tau in map(float, taus):
        pairs, scores = expected(metric, vectors, tau)
        found = index.pairs(tau)
        assert listed(found) == pairs
        assert reference.bits(found.scores).tolist() == reference.bits(scores).tolist()
        blocks = list(index.pairs(tau, blocks=True, scores=False))
        assert sorted(pair for block in blocks for pair in listed(block)) == pairs
        assert index.histogram([tau]).tolist() == [len(pairs)]


@every_metric
@pytest.mark.parametrize("filter", FILTERS)
def test_blocks_segments_tombstones_and_own_ids(filter, metric, rng):
    """More rows than a block; ids in no order; a part of the rows is gone, another in the tail."""
    n = 2 * CHUNK + 300
    vectors = rng.integers(-4, 5, (n, 4)).astype(np.float32)
    vectors[(vectors == 0).all(axis=1)] = 1
    ids = rng.permutation(5 * n)[:n] - n
    index = HalfspaceIndex(4, metric=metric, filter=filter, threads=2)
    for part in np.split(np.arange(n), [CHUNK, n - 20]):
        index.insert(vectors[part], ids[part])
    gone = rng.permutation(ids)[: n // 6]
    index.delete(gone)
    alive = np.isin(ids, gone, invert=True)
    order = np.argsort(ids[alive])
    left, own = vectors[alive][order].astype(np.int64), ids[alive][order]
    tau = {"ip": 40.0, "cosine": 0.97, "l2": 1.0}[metric]
    if metric == "ip":
        joined = left @ left.T >= 40
    elif metric == "l2":
        joined = ((left[:, None] - left[None]) ** 2).sum(axis=2) <= 1
    else:
        squares, products = (left * left).sum(axis=1), left @ left.T
        joined = (products > 0) & (products**2 * 2.0**40 >= (0.97 * 2.0**20) ** 2 * (squares[:, None] * squares))
    a, b = np.nonzero(np.triu(joined, 1))
    assert a.size > 100
    assert listed(index.pairs(tau)) == list(zip(own[a].tolist(), own[b].tolist(), strict=True))
    assert index.histogram([tau, tau]).tolist() == [a.size] * 2
    np.fill_diagonal(joined, False)
    assert index.groups(tau).tolist() == own[smallest_of_components(joined)].tolist()
    priority = rng.integers(0, 3, own.size)
    for given_, order in ((None, np.arange(own.size)), (priority, np.lexsort((np.arange(own.size), -priority)))):
        assert index.representatives(tau, priority=given_).tolist() == own[kept(joined, order)].tolist()
    within = own[rng.random(own.size) < 0.5]
    inside = np.isin(own[a], within) & np.isin(own[b], within)
    assert listed(index.pairs(tau, within=within)) == list(
        zip(own[a][inside].tolist(), own[b][inside].tolist(), strict=True)
    )
    assert index.histogram([tau], within=within).tolist() == [int(inside.sum())]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(METRICS),
    st.lists(st.tuples(*[st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])] * 3), max_size=12),
    st.integers(-3, 12),
)
def test_graphs_of_small_sets(metric, rows, tau):
    vectors = np.array(rows, np.float32).reshape(-1, 3)
    if metric == "cosine":
        vectors, tau = vectors[vectors.any(axis=1)], tau / 12
    joined = graph(metric, vectors, tau)
    index = make(vectors, metric, "scan")
    assert index.groups(tau).tolist() == (smallest_of_components(joined) if len(vectors) else [])
    assert index.representatives(tau).tolist() == kept(joined, range(len(vectors)))
    later = range(len(vectors) - 1, -1, -1)
    assert index.representatives(tau, priority=np.arange(len(vectors))).tolist() == kept(joined, later)


@every_metric
def test_pairs_of_two_sets(metric, rng):
    ours, theirs = rng.integers(1, 4, (50, 3)).astype(np.float32), rng.integers(-3, 4, (40, 3)).astype(np.float32)
    theirs[(theirs == 0).all(axis=1)] = 2
    ids, others = rng.permutation(100)[:50], np.sort(rng.permutation(100)[:40])
    index, other = make(ours, metric, "groups", ids=ids), make(theirs, metric, "scan", "float16", others)
    tau = {"ip": 9.0, "cosine": 0.9, "l2": 2.0}[metric]
    found = metrics.query(metric, ours, theirs, tau, ids=ids)
    rows = [(int(a), k, score) for k, hit in enumerate(found) for a, score in zip(*hit, strict=True)]
    for given_, names in ((theirs, np.arange(40)), (other, others), (theirs.tolist(), np.arange(40))):
        pairs = index.join(given_, tau)
        wanted = sorted((a, int(names[k]), float(score)) for a, k, score in rows)
        assert [tuple(pair) for pair in pairs] == wanted
        blocks = index.join(given_, tau, blocks=True, scores=False)
        assert sorted(pair for block in blocks for pair in listed(block)) == [(a, b) for a, b, _ in wanted]
    inside = ids[::2]
    wanted = sorted((a, k) for a, k, _ in rows if a in inside)
    assert listed(index.join(theirs, tau, within=inside)) == wanted


@every_metric
def test_bands_of_pairs_are_differences(metric, rng):
    index = make(rng.integers(1, 5, (300, 3)).astype(np.float32), metric)
    tau, unless = {"ip": (20, 30), "cosine": (0.9, 0.99), "l2": (2, 1)}[metric]
    outer, inner = (set(listed(index.pairs(level))) for level in (tau, unless))
    assert set(listed(index.pairs(tau, unless=unless))) == outer - inner
    assert inner


@every_metric
def test_histogram_of_directions_is_a_count_for_each_threshold(metric, rng):
    index = make(rng.integers(1, 9, (500, 6)).astype(np.float32), metric)
    directions = rng.integers(1, 9, (5, 6)).astype(np.float32)
    taus = {"ip": [50, 100, 200], "cosine": [0.5, 0.9, 0.97], "l2": [3, 6, 9]}[metric]
    counts = index.histogram(taus, directions)
    assert counts.tolist() == np.stack([index.count(directions, tau) for tau in taus], axis=1).tolist()
    assert counts.any()


def test_no_vectors_one_vector_and_none_that_count():
    index = HalfspaceIndex(2)
    for _ in range(2):
        assert len(index.pairs(-np.inf)) == len(index.join([[1, 1]], np.inf)) == 0
        assert list(index.pairs(-np.inf, blocks=True)) == [] or all(len(b) == 0 for b in index.pairs(0, blocks=True))
        assert index.histogram([0, 1]).tolist() == [0, 0]
        assert index.groups(0).tolist() == index.representatives(0).tolist() == index.ids.tolist()
        index.insert([[1, 2]])
    assert listed(index.pairs(-np.inf, within=[0])) == []
    assert listed(index.pairs(-np.inf)) == [(0, 1)]


def test_ids_of_any_size():
    """Whose differences do not fit an int64."""
    vectors = np.array([[1], [1], [5], [1], [5]], np.float32)
    ids = np.array([2**63 - 2, -(2**63), 7, -3, 8])
    index = make(vectors, "l2", "scan", ids=ids)
    assert listed(index.pairs(0.0)) == [(-(2**63), -3), (-(2**63), 2**63 - 2), (-3, 2**63 - 2), (7, 8)]
    assert index.groups(0.0).tolist() == [-(2**63), -(2**63), 7, 7, -(2**63)]
    assert index.representatives(0.0).tolist() == [-(2**63), 7]
    assert index.histogram([0.0, np.inf, -1.0]).tolist() == [4, 10, 0]


def test_pairs_that_do_not_fit_say_what_does(monkeypatch):
    index = make(np.eye(3, dtype=np.float32), "l2")

    def full(*arguments):
        raise MemoryError

    monkeypatch.setattr(np, "concatenate", full)
    with pytest.raises(MemoryError, match="blocks=True"):
        index.pairs(2.0)


def test_the_state_of_one_moment():
    index = make(np.eye(3, dtype=np.float32), "l2")
    blocks = index.pairs(2.0, blocks=True)
    index.insert(np.ones((5, 3)))
    assert sum(map(len, blocks)) == sum(map(len, blocks)) == 3


def test_progress_is_real_and_cancels(rng):
    index = make(rng.standard_normal((5 * CHUNK, 8)).astype(np.float32), "cosine", "cells")
    told = []
    index.pairs(0.99, progress=lambda done, total: told.append((done, total)))
    done = [at for at, _ in told]
    assert len(set(done)) >= 5
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1] > 0
    for ask in (index.pairs, index.groups, index.representatives):

        def stop(at, total):
            if at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ask(0.99, progress=stop)
    equal(index.query(index.vectors([0])[0], 2.0), (np.empty(0, np.int64), np.empty(0, np.float32)))


def test_bad_input_is_named():
    index = make(np.eye(3, dtype=np.float32), "cosine")
    cases = [
        (lambda: index.pairs(np.nan), ValueError, "tau"),
        (lambda: index.pairs([0.5, 0.6]), ValueError, "tau"),
        (lambda: index.pairs(0.5, within=[7]), KeyError, "id 7"),
        (lambda: index.pairs(0.5, threads=0), ValueError, "threads"),
        (lambda: index.join([[1, 2]], 0.5), ValueError, "other"),
        (lambda: index.join([[0, 0, 0]], 0.5), ValueError, "zero"),
        (lambda: index.join(HalfspaceIndex(3), 0.5), ValueError, "metric='ip'"),
        (lambda: index.join(HalfspaceIndex(4, metric="cosine"), 0.5), ValueError, "dim=4"),
        (lambda: index.representatives(0.5, priority=[1, 2]), ValueError, r"\(3,\)"),
        (lambda: index.representatives(0.5, priority=[1, np.nan, 2]), ValueError, "priority"),
        (lambda: index.histogram(0.5), ValueError, "taus"),
        (lambda: index.histogram([0.5, np.nan]), ValueError, "taus"),
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1, 300])
def test_ids_may_lie_2_64_apart(size):
    """Blocks of a segment, whose ids are those of hashes, beside another segment."""
    ids = np.arange(0, 4000, 2)
    ids[:2] = -(2**63), 2**63 - 1
    index = HalfspaceIndex(1)
    for own in (ids, np.arange(1, 2 * size, 2)):
        index.insert(np.ones((own.size, 1), np.float32), own)
    n = len(index)
    found = index.pairs(1.0)
    assert len(found) == len(set(listed(found))) == n * (n - 1) // 2 == index.histogram([1.0])[0]
    assert len(index.pairs(1.0, within=index.ids[1:])) == (n - 1) * (n - 2) // 2
    assert np.unique(index.groups(1.0)).tolist() == [-(2**63)]


@pytest.mark.parametrize("blocks", [False, True])
def test_a_join_names_vectors_that_are_zero_at_once(blocks):
    index = make(np.eye(2, dtype=np.float32), "cosine")
    other = np.ones((20_000, 2), np.float32)
    other[15_000] = 0
    with pytest.raises(ValueError, match=r"other\[15000\] is zero"):
        index.join(other, 0.5, blocks=blocks)


def test_a_histogram_names_the_threshold():
    index = make(np.eye(2, dtype=np.float32), "ip")
    with pytest.raises(ValueError, match=r"taus\[1\] is nan"):
        index.histogram([0.5, np.nan])
