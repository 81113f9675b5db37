"""Semantic search: the return type of sentence-transformers, and all that belongs into it, in its real order."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from halfspace import HalfspaceIndex
from halfspace.text import community_detection, paraphrase_mining_embeddings, semantic_search


def dot_score(a, b):
    raise AssertionError("it is known by its name, and not called")


def ranked(name, corpus, query):
    """Rows in order of real scores, by squares of cosines where there are roots; and the scores in float64."""
    rows = [[Fraction(float(x)) for x in row] for row in corpus]
    q = [Fraction(float(x)) for x in query]
    products = [sum(a * b for a, b in zip(row, q, strict=True)) for row in rows]
    if name == "dot_score":
        keys, scores = products, [float(product) for product in products]
    elif name == "cos_sim":
        own = [sum(a * a for a in row) for row in rows]
        keys = [product * abs(product) / norm for product, norm in zip(products, own, strict=True)]
        length = float(sum(b * b for b in q)) ** 0.5
        scores = [float(p) / float(n) ** 0.5 / length for p, n in zip(products, own, strict=True)]
    else:
        keys = [-sum((a - b) ** 2 for a, b in zip(row, q, strict=True)) for row in rows]
        scores = [-(float(-key) ** 0.5) for key in keys]
    return sorted(range(len(rows)), key=lambda row: (-keys[row], row)), scores


@pytest.mark.parametrize("name", ["cos_sim", "dot_score", "euclidean_sim"])
@pytest.mark.parametrize("m", [2, 20])
def test_the_best_matches_are_found_in_order(name, m, rng, monkeypatch):
    monkeypatch.setattr("halfspace.text._BUILT", 16)
    corpus = rng.standard_normal((200, 6)).astype(np.float32)
    corpus[50:60] = corpus[:10]
    queries = rng.standard_normal((m, 6)).astype(np.float32)
    found = semantic_search(queries, corpus, top_k=7, score_function=name)
    assert len(found) == m
    for query, own in zip(queries, found, strict=True):
        order, scores = ranked(name, corpus, query)
        assert [match["corpus_id"] for match in own] == order[:7]
        np.testing.assert_allclose([match["score"] for match in own], [scores[row] for row in order[:7]], rtol=1e-6)
        assert all(type(match["corpus_id"]) is int and type(match["score"]) is float for match in own)


def test_the_cosine_is_the_default_and_ten_are_found(rng):
    corpus = rng.standard_normal((30, 4)).astype(np.float32) * np.float32(7)
    (own,) = semantic_search(corpus[3], corpus)
    assert len(own) == 10
    assert own[0] == {"corpus_id": 3, "score": 1.0}


@pytest.mark.parametrize(("name", "threshold"), [("cos_sim", 0.6), ("dot_score", 6.0), ("euclidean_sim", -5.0)])
def test_thresholds_include_the_edge(name, threshold, rng):
    corpus = np.array([[3, 4], [6, 8], [2, 0], [0, 3], [-3, 4], [8, 6]], np.float32)
    query = np.array([1, 0] if name == "cos_sim" else [2, 0] if name == "dot_score" else [3, 9], np.float32)
    (own,) = semantic_search(query, corpus, score_function=name, score_threshold=threshold)
    order, scores = ranked(name, corpus, query)
    assert [match["corpus_id"] for match in own] == [row for row in order if scores[row] >= threshold]
    assert own[-1]["score"] == np.float32(threshold)


@pytest.mark.parametrize(
    "convert", [torch.from_numpy, list, lambda array: list(torch.from_numpy(array)), np.ndarray.tolist]
)
def test_what_embeddings_may_be(convert, rng):
    corpus, queries = (rng.standard_normal((n, 5)).astype(np.float32) for n in (40, 3))
    expected = semantic_search(queries, corpus, top_k=3)
    assert semantic_search(convert(queries), convert(corpus), top_k=3) == expected
    assert semantic_search(convert(queries), convert(corpus), 1, 7, 3) == expected


def test_a_function_is_known_by_its_name(rng):
    corpus = rng.standard_normal((20, 5)).astype(np.float32)
    by_name = semantic_search(corpus[:2], corpus, score_function="dot_score")
    assert semantic_search(corpus[:2], corpus, score_function=dot_score) == by_name
    with pytest.raises(ValueError, match="score_function must be one of cos_sim, pytorch_cos_sim, dot_score"):
        semantic_search(corpus[:2], corpus, score_function=max)


def test_an_index_is_searched_as_it_is(rng):
    corpus = rng.standard_normal((60, 5)).astype(np.float32)
    index = HalfspaceIndex(5)
    index.insert(corpus, ids=np.arange(100, 160))
    (own,) = semantic_search(corpus[0], index, top_k=4, score_function="dot_score")
    (expected,) = semantic_search(corpus[0], corpus, top_k=4, score_function="dot_score")
    assert [match["corpus_id"] - 100 for match in own] == [match["corpus_id"] for match in expected]
    with pytest.raises(ValueError, match="an index of the metric 'ip', not 'cosine'"):
        semantic_search(corpus[0], index)


def test_zero_embeddings_are_named(rng):
    corpus = rng.standard_normal((6, 3)).astype(np.float32)
    corpus[4] = 0
    with pytest.raises(ValueError, match=r"vectors\[4\] is zero"):
        semantic_search(corpus[:1], corpus)
    with pytest.raises(ValueError, match=r"directions\[1\] is zero"):
        semantic_search(corpus[3:5], corpus[:3])


def test_few_and_none():
    assert (
        semantic_search(np.ones((2, 3)), np.ones((1, 3)), score_function="dot_score")
        == [[{"corpus_id": 0, "score": 3.0}]] * 2
    )
    assert semantic_search(np.ones((2, 3)), np.empty((0, 3))) == [[], []]
    assert semantic_search(np.empty((0, 3)), np.ones((1, 3))) == []


def test_sentence_transformers_and_torch_are_not_imported():
    code = "import sys, halfspace.text; raise SystemExit(bool({'torch', 'sentence_transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def cosines_of(vectors):
    """Exact orders of cosines, by Fractions: signed squares of integers."""
    whole = vectors.astype(np.int64)
    squares = (whole * whole).sum(axis=1)
    products = whole @ whole.T
    return [
        [Fraction(int(p) * abs(int(p)), int(squares[i] * squares[j])) for j, p in enumerate(row)]
        for i, row in enumerate(products)
    ]


@pytest.mark.parametrize("most", [0, 1, 7, 100, 10**9])
def test_the_best_pairs_are_complete(most, rng):
    """Without the caps of top_k: one vector may be in many pairs."""
    vectors = rng.integers(-3, 4, (60, 3)).astype(np.float32)
    vectors[(vectors == 0).all(axis=1)] = 1
    vectors[:30] = vectors[0]  # all pairs of these have the cosine 1
    found = paraphrase_mining_embeddings(vectors, max_pairs=most, top_k=1)
    exact = cosines_of(vectors)
    order = sorted(((i, j) for i in range(60) for j in range(i + 1, 60)), key=lambda p: (-exact[p[0]][p[1]], p))
    assert [(i, j) for _, i, j in found] == order[:most]
    for score, i, j in found:
        assert score == pytest.approx(np.sign(exact[i][j]) * abs(float(exact[i][j])) ** 0.5, abs=1e-7)


@pytest.mark.parametrize("function", ["dot_score", "euclidean_sim"])
def test_the_best_pairs_by_other_scores(function, rng):
    vectors = rng.integers(-9, 10, (40, 4)).astype(np.float32)
    whole = vectors.astype(np.int64)
    scores = whole @ whole.T if function == "dot_score" else -((whole[:, None] - whole) ** 2).sum(axis=2)
    order = sorted(((i, j) for i in range(40) for j in range(i + 1, 40)), key=lambda p: (-scores[p], p))
    found = paraphrase_mining_embeddings(vectors, max_pairs=50, score_function=function)
    assert [(i, j) for _, i, j in found] == order[:50]
    real = [
        float(scores[p]) if function == "dot_score" else -float(np.float32(np.sqrt(-scores[p]))) for p in order[:50]
    ]
    assert [score for score, _, _ in found] == real


def test_the_best_pairs_where_products_are_too_large_for_float32():
    vectors = np.full((50, 2), 1e30, np.float32)
    found = paraphrase_mining_embeddings(vectors, max_pairs=3, score_function="dot_score")
    assert found == [[np.inf, 0, 1], [np.inf, 0, 2], [np.inf, 0, 3]]


@pytest.mark.parametrize("spread", [3e-4, 1e-5])
@pytest.mark.parametrize("most", [1, 10, 100])
def test_the_best_pairs_where_float32_cannot_tell_them(spread, most, rng, monkeypatch):
    """Pairs whose scores round to one number come by their ids, whatever the sample, and are not told apart."""
    monkeypatch.setattr("halfspace.best_pairs.SAMPLE", 64)
    monkeypatch.setattr("halfspace.nearest._order", None)
    vectors = (rng.standard_normal(8) + spread * rng.standard_normal((400, 8))).astype(np.float32)
    index = HalfspaceIndex(8, metric="cosine")
    index.insert(vectors)
    pairs = sorted((-pair.score, pair.id_a, pair.id_b) for pair in index.pairs(-1.0))
    assert paraphrase_mining_embeddings(index, max_pairs=most) == [[-score, i, j] for score, i, j in pairs[:most]]


def test_the_centre_of_a_community_comes_first(rng):
    """Also where other cosines round to 1."""
    vectors = (rng.standard_normal(8) + 1e-4 * rng.standard_normal((300, 8))).astype(np.float32)
    index = HalfspaceIndex(8, metric="cosine")
    index.insert(vectors)
    sizes = index.count(vectors, 1 - 3e-9)
    assert int(sizes.argmax()) > 0
    assert sizes.max() < 300
    assert community_detection(index, 1 - 3e-9, 3)[0][0] == sizes.argmax()


@pytest.mark.parametrize(
    "find",
    [lambda index: paraphrase_mining_embeddings(index, max_pairs=9), lambda index: community_detection(index, 0.9, 2)],
)
def test_an_index_that_changes_meanwhile_is_asked_at_one_moment(find, rng, monkeypatch):
    index = HalfspaceIndex(3, metric="cosine")
    index.insert(rng.standard_normal((300, 3)))
    expected, vectors = find(index), HalfspaceIndex.vectors

    def cleared(self, ids):
        index.clear()
        return vectors(self, ids)

    monkeypatch.setattr(HalfspaceIndex, "vectors", cleared)
    assert find(index) == expected
    assert len(index) == 0


def test_communities_are_those_of_the_greedy_rule(rng):
    vectors = rng.integers(-4, 5, (120, 3)).astype(np.float32)
    vectors[(vectors == 0).all(axis=1)] = 1
    exact = cosines_of(vectors)
    for threshold, least in ((0.5, 4), (0.96875, 2), (1.0, 1)):
        level = Fraction(threshold) ** 2
        around = [
            sorted((j for j in range(120) if row[j] >= level), key=lambda j, row=row: (-row[j], j)) for row in exact
        ]
        taken, expected = set(), []
        for members in sorted((own for own in around if len(own) >= least), key=len, reverse=True):
            left = [j for j in members if j not in taken]
            if len(left) >= least:
                expected.append(left)
                taken.update(left)
        assert community_detection(vectors, threshold, least) == sorted(expected, key=len, reverse=True)


def test_few_embeddings_and_indexes():
    assert paraphrase_mining_embeddings([[1.0, 0.0]]) == []
    assert community_detection([[1.0, 0.0]], min_community_size=10) == [[0]]
    index = HalfspaceIndex(2, metric="cosine")
    index.insert([[1, 0], [2, 0], [0, 1]], ids=[5, 9, 7])
    assert paraphrase_mining_embeddings(index, max_pairs=1) == [[1.0, 5, 9]]
    assert community_detection(index, 0.9, 2) == [[5, 9]]
    with pytest.raises(ValueError, match="'cosine'"):
        paraphrase_mining_embeddings(index, score_function="dot_score")
    with pytest.raises(ValueError, match="score_function"):
        paraphrase_mining_embeddings([[1.0]], score_function="manhattan_sim")
