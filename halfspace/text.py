"""Searching embeddings of texts, as sentence-transformers' helpers do, exactly; that library is not needed."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.best_pairs import best_pairs
from halfspace.index import HalfspaceIndex

__all__ = ["community_detection", "paraphrase_mining_embeddings", "semantic_search"]

_METRICS = {"cos_sim": "cosine", "pytorch_cos_sim": "cosine", "dot_score": "ip", "euclidean_sim": "l2"}
"""The metric that each function of scores means."""
_ASKED = 256
"""Communities that are fetched at once."""
_BUILT = 512
"""Queries of one call for which building codes pays; fewer read all vectors."""


def semantic_search(
    query_embeddings: npt.ArrayLike,
    corpus_embeddings: npt.ArrayLike | HalfspaceIndex,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: str | Callable[..., Any] = "cos_sim",
    score_threshold: float | None = None,
) -> list[list[dict[str, int | float]]]:
    """Find of each query the best matches in a corpus, as ``sentence_transformers.util.semantic_search`` does.

    Parameters
    ----------
    query_embeddings : array_like, shape (m, d) or (d,)
        Arrays of NumPy, tensors of PyTorch, lists of them: whatever `HalfspaceIndex.query` takes.
    corpus_embeddings : array_like, shape (n, d), or HalfspaceIndex
        An index of the metric that `score_function` means is searched as it is, which saves building one each time.
    query_chunk_size, corpus_chunk_size : int
        Without effect, here for those who pass them: memory is bounded, and answers do not depend on blocks.
    top_k : int
        How many matches of each query, at most.
    score_function : {"cos_sim", "dot_score", "euclidean_sim"}, or a function of that name
        Cosine, inner product, or negative distance; functions of sentence-transformers are known by their names.
    score_threshold : float, optional
        Only matches whose score is at least this: in real arithmetic, before scores are rounded.

    Returns
    -------
    list of list of dict
        Of each query its matches ``{"corpus_id": int, "score": float}``, in order of descending real score, and then
        of ids. All that belong there, in that order: scores are compared as real numbers, and rounded to float32
        afterwards. ``corpus_id`` is the row in the corpus, or the id in the index.

    Raises
    ------
    ValueError
        If a score function is unknown, or the metric of an index is another; if an embedding is zero, which has no
        cosine (the error names the row); and as for `HalfspaceIndex.search`.

    Examples
    --------
    >>> from halfspace.text import semantic_search
    >>> corpus = [[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]]
    >>> semantic_search([[0.0, 1.0]], corpus, top_k=2)
    [[{'corpus_id': 2, 'score': 1.0}, {'corpus_id': 1, 'score': 0.800000011920929}]]
    >>> semantic_search([[0.0, 1.0]], corpus, score_function="dot_score", score_threshold=3.0)
    [[{'corpus_id': 1, 'score': 4.0}]]
    """
    metric = _metric(score_function)
    queries = np.atleast_2d(checks.asarray(query_embeddings, "query_embeddings"))
    index = _indexed(corpus_embeddings, metric, len(queries))
    sign = -1 if metric == "l2" else 1
    tau = None if score_threshold is None else sign * score_threshold
    hits = index.search(queries, top_k, tau=tau)
    scores: Any = hits.scores
    found: list[dict[str, int | float]] = [
        {"corpus_id": id, "score": score} for id, score in zip(hits.ids.tolist(), (sign * scores).tolist(), strict=True)
    ]
    return [found[first:last] for first, last in pairwise(hits.offsets.tolist())]


def paraphrase_mining_embeddings(
    embeddings: npt.ArrayLike | HalfspaceIndex,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: str | Callable[..., Any] = "cos_sim",
) -> list[list[float | int]]:
    """Find the most similar pairs, as ``sentence_transformers.util.paraphrase_mining_embeddings`` does.

    Parameters
    ----------
    embeddings : array_like, shape (n, d), or HalfspaceIndex
        As the corpus of `semantic_search`.
    query_chunk_size, corpus_chunk_size, top_k : int
        Without effect: memory is bounded by the pairs that are returned, and no pair is missed because one of its
        texts has many others that are similar.
    max_pairs : int
        How many pairs are returned, at most.
    score_function : {"cos_sim", "dot_score", "euclidean_sim"}, or a function of that name
        As for `semantic_search`.

    Returns
    -------
    list of [score, i, j]
        The pairs with the best scores, each once, i < j: in descending order of score, then of i and j.

    Raises
    ------
    TypeError, ValueError
        As for `semantic_search`.

    Notes
    -----
    A sample suggests a threshold, and the pairs that reach it are counted: where there are too few, it is lowered.

    Examples
    --------
    >>> from halfspace.text import paraphrase_mining_embeddings
    >>> paraphrase_mining_embeddings([[1.0, 0.0], [3.0, 4.0], [2.0, 0.0], [4.0, 3.0]], max_pairs=2)
    [[1.0, 0, 2], [0.9599999785423279, 1, 3]]
    """
    metric = _metric(score_function)
    index = _indexed(embeddings, metric, _BUILT)
    most = checks.as_count(max_pairs, "max_pairs", 0)
    pairs = best_pairs(index, most)
    sign = -1 if metric == "l2" else 1
    scores: Any = pairs.scores
    columns = zip((sign * scores).tolist(), pairs.ids_a.tolist(), pairs.ids_b.tolist(), strict=True)
    return [list(row) for row in columns]


def community_detection(
    embeddings: npt.ArrayLike | HalfspaceIndex,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Find groups of similar embeddings, as ``sentence_transformers.util.community_detection`` does.

    Parameters
    ----------
    embeddings : array_like, shape (n, d), or HalfspaceIndex
        An index has the metric ``"cosine"``.
    threshold : float
        The least cosine of a community's members with its centre.
    min_community_size : int
        The least size of a community.
    batch_size, show_progress_bar
        Without effect.

    Returns
    -------
    list of list of int
        Disjoint communities, the largest first; in each, the centre first, unless an earlier community has it, and then
        the others by their cosines with it. Communities are chosen greedily: around the vectors with the most
        neighbours first.

    Raises
    ------
    TypeError, ValueError
        As for `semantic_search`.

    Examples
    --------
    >>> from halfspace.text import community_detection
    >>> community_detection([[1.0, 0.0], [3.0, 4.0], [2.0, 0.1], [4.0, 3.0]], 0.9, min_community_size=2)
    [[0, 2], [1, 3]]
    """
    index = _indexed(embeddings, "cosine", _BUILT).copy()  # one state, whoever changes it meanwhile
    ids = np.asarray(index.ids)
    least = min(checks.as_count(min_community_size, "min_community_size", 1), max(ids.size, 1))
    sizes = np.concatenate(
        [np.zeros(0, np.int64), *(index.count(index.vectors(part), threshold) for part in _parts(ids))]
    )
    order = np.flatnonzero(sizes >= least)
    centres = ids[order[np.argsort(-sizes[order], kind="stable")]]
    taken: set[int] = set()
    communities: list[list[int]] = []
    for part in _parts(centres):
        for centre, hits in zip(part.tolist(), index.query(index.vectors(part), threshold, sort=True), strict=True):
            left = [id for id in hits.ids.tolist() if id not in taken]
            if centre in left[1:]:  # another cosine rounds to 1, too
                left.remove(centre)
                left.insert(0, centre)
            if len(left) >= least:
                communities.append(left)
                taken.update(left)
    return sorted(communities, key=len, reverse=True)


def _parts(ids: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    return (ids[first : first + _ASKED] for first in range(0, ids.size, _ASKED))


def _metric(score_function: Any) -> str:
    """Return the metric that a function of scores means."""
    name = score_function if isinstance(score_function, str) else getattr(score_function, "__name__", "")
    if name not in _METRICS:
        raise ValueError(f"score_function must be one of {', '.join(_METRICS)}, got {score_function!r}")
    return _METRICS[name]


def _indexed(corpus: Any, metric: str, queries: int) -> HalfspaceIndex:
    """Return an index of a corpus, or the one that it is."""
    if isinstance(corpus, HalfspaceIndex):
        if corpus.metric != metric:
            raise ValueError(f"corpus_embeddings is an index of the metric {corpus.metric!r}, not {metric!r}")
        return corpus
    vectors = np.atleast_2d(checks.asarray(corpus, "corpus_embeddings"))
    index = HalfspaceIndex(vectors.shape[1], metric=metric, filter="auto" if queries >= _BUILT else "scan")
    index.insert(vectors)
    return index
