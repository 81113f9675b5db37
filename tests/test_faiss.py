"""The face of FAISS: its own answers where float32 is exact, and those of rational arithmetic elsewhere."""

import subprocess
import sys
from fractions import Fraction

import faiss
import numpy as np
import pytest

from halfspace.faiss import IndexFlatIP, IndexFlatL2

PAIRS = {"ip": (IndexFlatIP, faiss.IndexFlatIP), "l2": (IndexFlatL2, faiss.IndexFlatL2)}
both = pytest.mark.parametrize("metric", PAIRS)


def built(metric, vectors):
    """Our index of the vectors, and that of FAISS."""
    pair = [kind(vectors.shape[1]) for kind in PAIRS[metric]]
    for index in pair:
        index.train(vectors)
        index.add(vectors)
    return pair


def values(metric, vectors, query):
    """Real products or squared distances, as Fractions."""
    rows = [[Fraction(float(x)) for x in row] for row in vectors]
    q = [Fraction(float(x)) for x in query]
    if metric == "ip":
        return [sum(a * b for a, b in zip(row, q, strict=True)) for row in rows]
    return [sum((a - b) ** 2 for a, b in zip(row, q, strict=True)) for row in rows]


def beyond(metric, value, edge):
    return value > Fraction(edge) if metric == "ip" else value < Fraction(edge)


@both
def test_whole_numbers_are_searched_like_faiss(metric, rng):
    vectors = rng.integers(-4, 5, (3000, 12)).astype(np.float32)
    queries = rng.integers(-4, 5, (40, 12)).astype(np.float32)
    ours, theirs = built(metric, vectors)
    own, rows = ours.search(queries, 10)
    expected, _ = theirs.search(queries, 10)
    assert own.dtype == np.float32
    assert rows.dtype == np.int64
    assert own.tolist() == expected.tolist()
    sign = -1 if metric == "ip" else 1
    for j, query in enumerate(queries.astype(np.int64)):
        exact = (vectors.astype(np.int64) @ query) if metric == "ip" else ((vectors - query) ** 2).sum(axis=1)
        assert rows[j].tolist() == np.lexsort((np.arange(3000), sign * exact))[:10].tolist()


@both
def test_ranges_of_whole_numbers_are_those_of_faiss_and_strict(metric, rng):
    vectors = rng.integers(-4, 5, (3000, 12)).astype(np.float32)
    queries = rng.integers(-4, 5, (20, 12)).astype(np.float32)
    ours, theirs = built(metric, vectors)
    for edge in (-20.0, 0.0, 2.0, 60.0, 61.0, 225.0):
        lims, own, rows = ours.range_search(queries, edge)
        their_lims, their_own, their_rows = theirs.range_search(queries, edge)
        assert lims.tolist() == their_lims.tolist()
        assert rows.tolist() == their_rows.tolist()
        assert own.tolist() == their_own.tolist()


@both
def test_the_edge_is_decided_by_real_numbers(metric, rng):
    """Edges that are values, rounded to float64, and their neighbours; norms huge, tiny and subnormal."""
    vectors = rng.standard_normal((150, 5)).astype(np.float32)
    vectors[::3] = (vectors[::3] * 4).round()
    vectors[20:30] *= np.float32(1e-22)
    vectors[30:40] *= np.float32(1e18)
    vectors[40:45] = rng.integers(-9, 10, (5, 5)) * np.float32(2.0**-149)
    vectors[45] = 0
    queries = np.concatenate([rng.standard_normal((3, 5)).astype(np.float32), vectors[[0, 3, 21, 31, 41, 45]]])
    (ours, _) = built(metric, vectors)
    for query in queries:
        exact = values(metric, vectors, query)
        for edge in sorted(float(exact[row]) for row in (*range(0, 60, 7), 41, 45)):
            for own in (np.nextafter(edge, -np.inf), edge, np.nextafter(edge, np.inf)):
                lims, found, rows = ours.range_search(query[None], own)
                expected = [row for row, value in enumerate(exact) if beyond(metric, value, float(own))]
                assert rows.tolist() == expected
                assert lims.tolist() == [0, len(expected)]
                assert found.tolist() == [np.float32(float(exact[row])) for row in expected]


def test_where_a_root_lies_between_two_floats(rng):
    """Squared distances of 2, 3, ..., as roots of which are no floats: each edge loses those on it alone."""
    vectors = np.array([[1, 1, 0], [1, 1, 1], [2, 1, 0], [2, 1, 1], [1, 0, 0]], np.float32)
    index = IndexFlatL2(3)
    index.add(vectors)
    squares = (vectors**2).sum(axis=1)
    for edge in (1, 2, 3, 5, 6, 7):
        _, _, rows = index.range_search(np.zeros((1, 3)), edge)
        assert rows.tolist() == np.flatnonzero(squares < edge).tolist()


@both
def test_each_query_may_have_an_edge_of_its_own(metric, rng):
    vectors = rng.integers(-3, 4, (500, 6)).astype(np.float32)
    queries = rng.integers(-3, 4, (7, 6)).astype(np.float32)
    ours, theirs = built(metric, vectors)
    edges = np.array([3.0, 10.0, -1.0, 0.0, 25.0, np.inf, -np.inf])
    lims, own, rows = ours.range_search(queries, edges)
    for j, edge in enumerate(edges.tolist()):
        _, their_own, their_rows = theirs.range_search(queries[j : j + 1], edge)
        part = slice(lims[j], lims[j + 1])
        assert rows[part].tolist() == their_rows.tolist()
        assert own[part].tolist() == their_own.tolist()


@both
def test_many_on_one_edge(metric, rng, monkeypatch):
    monkeypatch.setattr("halfspace.faiss._ROWS", 64)
    vectors = rng.integers(0, 2, (3000, 10)).astype(np.float32)
    ours, theirs = built(metric, vectors)
    for edge in (3.0, 4.0):
        found, expected = (index.range_search(vectors[:9], edge) for index in (ours, theirs))
        assert [part.tolist() for part in found] == [part.tolist() for part in expected]


@both
def test_what_is_not_there_is_padded_as_faiss_does(metric, rng):
    vectors = rng.integers(-3, 4, (3, 4)).astype(np.float32)
    ours, theirs = built(metric, vectors)
    own, rows = ours.search(vectors[:2], 5)
    expected, their_rows = theirs.search(vectors[:2], 5)
    assert own.tolist() == expected.tolist()
    assert (rows == -1).tolist() == (their_rows == -1).tolist()
    ours.reset()
    theirs.reset()
    for found, other in zip(ours.search(vectors, 2), theirs.search(vectors, 2), strict=True):
        assert found.tolist() == other.tolist()
    assert [part.tolist() for part in ours.range_search(vectors, 1.0)] == [[0, 0, 0, 0], [], []]


@both
def test_attributes_and_vectors(metric, rng):
    vectors = rng.standard_normal((300, 4)).astype(np.float32)
    ours, theirs = built(metric, vectors)
    for name in ("d", "ntotal", "is_trained", "metric_type"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.reconstruct(7).tolist() == vectors[7].tolist()
    assert ours.reconstruct_n(5, 3).tolist() == theirs.reconstruct_n(5, 3).tolist()
    assert ours.reconstruct_n().tolist() == vectors.tolist()
    assert ours.reconstruct_batch([9, 2]).tolist() == vectors[[9, 2]].tolist()
    ours.reset()
    assert ours.ntotal == 0
    ours.add(vectors[:2])
    assert ours.index.ids.tolist() == [0, 1]


@both
def test_ids(metric, rng):
    vectors = rng.integers(-3, 4, (6, 4)).astype(np.float32)
    index = PAIRS[metric][0](4)
    index.add_with_ids(vectors[:4], [7, 3, 20, 11])
    index.add(vectors[4:])
    assert index.index.ids.tolist() == [3, 7, 11, 20, 21, 22]
    assert index.reconstruct(20).tolist() == vectors[2].tolist()
    assert index.remove_ids(np.array([3, 99, 21, 21])) == 2
    assert index.remove_ids(faiss.IDSelectorRange(10, 21)) == 2
    assert index.remove_ids([]) == 0
    assert index.index.ids.tolist() == [7, 22]
    assert index.reconstruct(22).tolist() == vectors[5].tolist()
    with pytest.raises(KeyError):
        index.reconstruct(3)
    with pytest.raises(ValueError, match="7"):
        index.add_with_ids(vectors[:1], [7])


@both
def test_half_precision_is_stored_once_rounded(metric, rng):
    vectors, queries = rng.standard_normal((200, 6)), rng.standard_normal((3, 6))
    index = PAIRS[metric][0](6, dtype="float16", filter="scan", threads=1)
    index.add(vectors)
    stored = vectors.astype(np.float16).astype(np.float32)
    assert index.reconstruct_n().tolist() == stored.tolist()
    for query in queries.astype(np.float32):
        exact = values(metric, stored, query)
        edge = float(sorted(exact)[100])
        _, _, rows = index.range_search(query[None], edge)
        assert rows.tolist() == [row for row, value in enumerate(exact) if beyond(metric, value, edge)]


def test_mistakes_are_named(rng):
    index = IndexFlatIP(3)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3\), got \(3,\)"):
        index.add([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="shape"):
        index.search([[1.0, 2.0]], 1)
    with pytest.raises(ValueError, match="thresh is nan"):
        index.range_search([[1.0, 2.0, 3.0]], np.nan)
    with pytest.raises(ValueError, match="inf"):
        index.range_search([[1.0, 2.0, 1e39]], 1.0)
    with pytest.raises(TypeError, match="real numbers"):
        index.search([[1.0, 2.0, 1j]], 1)


def test_faiss_is_not_imported():
    code = "import sys, halfspace.faiss; raise SystemExit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
