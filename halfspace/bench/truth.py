"""The answers in real arithmetic, found without the code that is measured, and how others compare with them.

A product of two float32 numbers is exact in float64, so only sums round. A float64 sum of d products in any order is
off by at most about d u sum_j |q_j x_j| <= d u |q| |x|, with u = 2^-53. A score further than twice that from tau is on
the side where it seems to be; for the rest, `math.fsum` rounds the sum of all products and -tau once, so its sign is
that of the real number.

Cosines and distances are compared in float64 without root or division, in the same way: <q, x> with tau |q| |x|, and
|x|^2 - 2 <q, x> + |q|^2 with the square of the radius. Where the difference is less than some times d u of the terms,
integers decide: a float32 is a multiple of 2^-149.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfspace.bench.engines.spec import Rows

__all__ = ["exact_hits", "midpoints", "recall_and_false", "wrong_answers"]

_PAIRS = 1 << 23
"""Scores, or numbers of vectors, that are held in float64 at once."""
_U = 2.0**-53
_ENDS = {"cosine": 2.0, "l2": 2.0**200}
"""What no cosine, and no distance, reaches: further thresholds mean the same."""


def exact_hits(vectors: ArrayLike, directions: ArrayLike, tau: ArrayLike, metric: str = "ip") -> Rows:
    """Find every vector x with <q, x> >= tau, a cosine of at least tau, or a distance of at most tau, without error.

    Parameters
    ----------
    vectors : array_like of float32 or float16, shape (n, d)
        Finite numbers.
    directions : array_like of float32 or float16, shape (m, d)
    tau : array_like of float64, scalar or shape (m,)
    metric : {"ip", "cosine", "l2"}
        With ``"cosine"``, no vector and no direction may be zero.

    Returns
    -------
    offsets : ndarray of int64, shape (m + 1,)
    ids : ndarray of int64
        Rows of `vectors`, ascending for each direction.

    Raises
    ------
    TypeError
        If an array holds other numbers: the products of float64 numbers would not be exact.

    Examples
    --------
    >>> from halfspace.bench import exact_hits
    >>> truth = exact_hits(np.float32([[1, 0], [0, 1], [2, 2]]), np.float32([[1, 1]]), 1.0)
    >>> [part.tolist() for part in truth]
    [[0, 3], [0, 1, 2]]
    """
    x, q = _narrow(vectors, "vectors"), _narrow(directions, "directions").astype(np.float64)
    n, m = len(x), len(q)
    taus = np.broadcast_to(np.asarray(tau, np.float64), m)
    if metric != "ip":
        taus = np.clip(taus, -_ENDS[metric], _ENDS[metric])
    found = []
    for first, part in _parts(x, m):
        above, bounds = _compared(q, part, taus[:, None], metric)
        hits = above > bounds
        for j, i in np.argwhere(np.abs(above) <= bounds):
            hits[j, i] = _reaches(q[j], part[i], float(taus[j]), metric)
        places, ids = np.nonzero(hits)
        found.append(places * n + ids + first)
    flat = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
    places, ids = np.divmod(flat, max(n, 1))
    return np.searchsorted(places, np.arange(m + 1)).astype(np.int64), ids


def _compared(
    q: NDArray[np.float64], x: NDArray[np.float64], taus: NDArray[np.float64], metric: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return by how much vectors (n, d) reach thresholds (m, 1) of directions (m, d), in float64, and its error."""
    d = x.shape[1]
    lengths, sizes = (np.sqrt(np.einsum("ij,ij->i", part, part)) for part in (q, x))
    products = q @ x.T
    if metric == "ip":
        return products - taus, 2 * d * _U * lengths[:, None] * sizes
    if metric == "cosine":
        both = lengths[:, None] * sizes
        return products - taus * both, 4 * (d + 8) * _U * (1 + np.abs(taus)) * both
    squares, own = sizes * sizes, (lengths * lengths)[:, None]
    limits = taus * np.abs(taus)
    return limits - (squares - 2 * products + own), 8 * (d + 8) * _U * (squares + own + np.abs(limits))


def _reaches(q: NDArray[np.float64], x: NDArray[np.float64], tau: float, metric: str) -> bool:
    """Decide for one vector without error."""
    if metric == "ip":
        return math.fsum([*(q * x), -tau]) >= 0
    a, b = ([int(number) for number in (part * 2.0**149).tolist()] for part in (q, x))
    limit = Fraction(tau) * abs(Fraction(tau))
    if metric == "l2":
        return sum((i - j) ** 2 for i, j in zip(a, b, strict=True)) <= limit * 2**298
    product, own, other = (sum(i * j for i, j in zip(*pair, strict=True)) for pair in ((a, b), (a, a), (b, b)))
    return product * abs(product) >= limit * own * other


def _scores(q: NDArray[np.float64], x: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Score vectors (n, d) for directions (m, d) in float64, about: distances are negative."""
    products: NDArray[np.float64] = q @ x.T
    if metric == "ip":
        return products
    own, squares = (np.einsum("ij,ij->i", part, part) for part in (q, x))
    if metric == "cosine":
        products /= np.sqrt(own[:, None] * squares)
        return products
    distances: NDArray[np.float64] = np.sqrt(np.maximum(squares - 2 * products + own[:, None], 0))
    return -distances


def midpoints(vectors: ArrayLike, directions: ArrayLike, share: float, metric: str = "ip") -> NDArray[np.float64]:
    """Return a threshold for each direction that a share of the vectors reaches.

    Parameters
    ----------
    vectors, directions : array_like, shapes (n, d) and (m, d)
        As for `exact_hits`.
    share : float
        Above 0, at most 1.
    metric : {"ip", "cosine", "l2"}

    Returns
    -------
    ndarray of float64, shape (m,)
        The midpoint between the k-th and the (k + 1)-th largest float64 score, where k is share times n, rounded, and
        at least 1; ``-inf`` where k is n. Equal scores at that place are all on the boundary. Of distances it is a
        radius, and ``inf``.

    Examples
    --------
    >>> from halfspace.bench import midpoints
    >>> midpoints(np.float32([[1, 0], [0, 0], [2, 2], [3, 3]]), np.float32([[1, 1]]), share=0.5).tolist()
    [2.5]
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    x, q = _narrow(vectors, "vectors"), _narrow(directions, "directions").astype(np.float64)
    n, k = len(x), max(1, round(share * len(x)))
    if k >= n:
        return np.full(len(q), np.inf if metric == "l2" else -np.inf)
    taus = np.empty(len(q))
    together = max(1, 4 * _PAIRS // n)
    for low in range(0, len(q), together):
        asked = q[low : low + together]
        scores = np.concatenate([_scores(asked, part, metric) for _, part in _parts(x, together)], axis=1)
        scores.partition((n - k - 1, n - k), axis=1)
        taus[low : low + together] = (scores[:, n - k - 1] + scores[:, n - k]) / 2
    return -taus if metric == "l2" else taus


def recall_and_false(found: Rows, truth: Rows) -> tuple[float, int]:
    """Compare answers with the exact ones.

    Parameters
    ----------
    found, truth : tuple of ndarray
        Offsets (m + 1,) and ids of both.

    Returns
    -------
    recall : float
        The share of all true hits that was found; 1 where there are none.
    false_positives : int
        How many others were found; an id that is there twice counts as one.

    Examples
    --------
    >>> from halfspace.bench import recall_and_false
    >>> truth = np.array([0, 4]), np.array([1, 3, 5, 8])
    >>> recall_and_false((np.array([0, 3]), np.array([1, 2, 3])), truth)
    (0.5, 1)
    """
    true, both = len(truth[1]), sum(len(np.intersect1d(own, exact)) for own, exact in _pairs(found, truth))
    return (both / true if true else 1.0), len(found[1]) - both


def wrong_answers(found: Rows, truth: Rows) -> int:
    """Count the directions whose answer is not the exact set.

    Examples
    --------
    >>> from halfspace.bench import wrong_answers
    >>> truth = np.array([0, 1, 2]), np.array([7, 8])
    >>> wrong_answers((np.array([0, 1, 2]), np.array([7, 9])), truth)
    1
    """
    return sum(not np.array_equal(np.sort(own), exact) for own, exact in _pairs(found, truth))


def _pairs(found: Rows, truth: Rows) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the ids of both for each direction."""
    own, exact = (np.split(ids, offsets[1:-1]) for offsets, ids in (found, truth))
    return list(zip(own, exact, strict=True))


def _narrow(array: ArrayLike, name: str) -> NDArray[Any]:
    """Return an array whose products are exact in float64."""
    found = np.asarray(array)
    if found.dtype not in (np.float32, np.float16):
        raise TypeError(f"{name} must be float32 or float16, got {found.dtype}")
    return found


def _parts(x: NDArray[Any], m: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield runs of vectors in float64 with their first row, few enough for their numbers and scores to be held."""
    step = max(1, _PAIRS // max(m, x.shape[1], 1))
    for first in range(0, len(x), step):
        yield first, x[first : first + step].astype(np.float64)
