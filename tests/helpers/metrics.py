"""The answer by exact arithmetic for every metric, like `helpers.reference`, which has that of inner products.

Of a distance or a cosine, the *signed square* is a rational number: ``numerator / denominator * 4**exponent``, with the
sign of the cosine. Sets compare it with the signed square of a threshold, and scores round its root, by integers alone.
"""

from math import isqrt

import numpy as np

from helpers import families, reference
from helpers.families import EXTREME_TAUS

METRICS = ["ip", "cosine", "l2"]


@reference.remembered
def cosines(vectors, direction):
    """Signed squares ``(numerators, denominators, exponent)`` of cosines; rows and direction must not be zero."""
    (rows, _), (q, _) = reference.whole(vectors), reference.whole(direction)
    products = rows @ q
    return products * abs(products), (rows * rows).sum(axis=1) * (q * q).sum(), 0


@reference.remembered
def distances(vectors, direction):
    """Squares ``(numerators, denominators, exponent)`` of distances."""
    (rows, e), (q, f) = reference.whole(vectors), reference.whole(direction)
    least = min(e, f)
    apart = (rows << (e - least)) - (q << (f - least))
    squares = (apart * apart).sum(axis=1)
    return squares, np.ones_like(squares), least


def measures(metric, vectors, direction):
    """The signed squares of the rows of ``vectors``; of inner products ``(integers, exponent)``."""
    return {"ip": reference.dots, "cosine": cosines, "l2": distances}[metric](vectors, direction)


def reaches(metric, squares, tau):
    """Which products or cosines are at least ``tau``, or which distances at most that."""
    if metric == "ip":
        return reference.reaches(*squares, tau)
    numerators, denominators, exponent = squares
    tau = np.asarray(tau, np.float64)
    if np.isinf(tau):
        return np.full(len(numerators), bool((tau < 0) == (metric == "cosine")))
    threshold, e = (int(part) for part in reference.decode(tau))
    least = min(e, exponent)
    ours = numerators << 2 * (exponent - least)
    theirs = denominators * (threshold * abs(threshold) << 2 * (e - least))
    return (ours >= theirs if metric == "cosine" else ours <= theirs).astype(bool)


def root(numerator, denominator, exponent, dtype="float32"):
    """The bit pattern of the float nearest to the root of a signed square, ties to even; a zero is that of its sign."""
    bits = 2 * (64 + max(0, denominator.bit_length() - abs(numerator).bit_length()))
    quotient, rest = divmod(abs(numerator) << bits, denominator)
    whole = isqrt(quotient)
    mantissa = 2 * whole + (rest > 0 or whole * whole != quotient)  # the last bit says that more follows
    return reference.encode(-mantissa if numerator < 0 else mantissa, exponent - bits // 2 - 1, dtype)


def roots(squares, dtype="float32"):
    """The floats nearest to the roots of signed squares."""
    numerators, denominators, exponent = squares
    pairs = zip(numerators, denominators, strict=True)
    return reference.from_bits([root(n, d, exponent, dtype) for n, d in pairs], dtype)


def score(metric, direction, vector):
    """The real score rounded once to the nearest float32."""
    if metric == "ip":
        return reference.score(direction, vector)
    return roots(measures(metric, vector[None], direction))[0]


def one(metric, vectors, direction, tau):
    """``(positions, scores)`` of the hits of one direction."""
    if metric == "ip":
        return reference.one_faster(vectors, direction, tau)
    numerators, denominators, exponent = squares = measures(metric, vectors, direction)
    found = np.flatnonzero(reaches(metric, squares, tau))
    return found, roots((numerators[found], denominators[found], exponent))


def hits(metric, vectors, direction, tau):
    """Positions of the rows that reach ``tau``, ascending."""
    if metric == "ip":
        return reference.hits(vectors, direction, tau)
    return np.flatnonzero(reaches(metric, measures(metric, vectors, direction), tau))


def query(metric, vectors, directions, tau, *, ids=None):
    """For each direction ``(ids, scores)`` of its hits, by ascending id; ids are row numbers unless given."""
    directions = np.atleast_2d(directions)
    taus = np.broadcast_to(np.asarray(tau, np.float64), len(directions))
    answers = [one(metric, vectors, q, t) for q, t in zip(directions, taus, strict=True)]
    if ids is None:
        return answers
    named = [(np.asarray(ids, np.int64)[found], scores) for found, scores in answers]
    return [(i[np.argsort(i)], scores[np.argsort(i)]) for i, scores in named]


def best(metric, ids, scores, limit=None):
    """The answer of one direction, nearest first, then by id, cut to the ``limit`` best."""
    order = np.lexsort((ids, scores if metric == "l2" else -scores))[:limit]
    return ids[order], scores[order]


def boundary_taus(metric, rng, vectors, direction, k):
    """For ``k`` stored vectors the float64 nearest to the real score, and its two neighbours."""
    if metric == "ip":
        return families.boundary_taus(rng, vectors, direction, k)
    few = vectors[rng.integers(0, len(vectors), k)]
    tau = roots(measures(metric, few, direction), "float64")
    return np.concatenate([tau, np.nextafter(tau, np.inf), np.nextafter(tau, -np.inf)])


def nearest(metric, squares):
    """The float64 nearest to the best of real scores."""
    if metric == "ip":
        products, exponent = squares
        return reference.from_bits([reference.encode(products.max(), exponent, "float64")], "float64")[0]
    scores = roots(squares, "float64")
    return scores.min() if metric == "l2" else scores.max()


def pairs(metric, rng, vectors, directions, k=3):
    """A batch of (direction, tau): every direction with taus on the boundary and with the extreme ones."""
    taus = [np.concatenate([boundary_taus(metric, rng, vectors, q, k), EXTREME_TAUS]) for q in directions]
    return np.repeat(directions, [len(t) for t in taus], axis=0), np.concatenate(taus)


def made(metric, family, rng, n, d, m, dtype):
    """What a family of data makes, with which a metric can do."""
    vectors, directions = family(rng, n, d, m, dtype)
    return nonzero(vectors, directions) if metric == "cosine" else (vectors, directions)


def nonzero(vectors, directions):
    """Both without zero rows, which have no cosine: a component of each becomes 1."""
    vectors, directions = vectors.copy(), directions.copy()
    for array in (vectors, directions):
        array[~reference.decode(array)[0].any(axis=1), 0] = 1
    return vectors, directions
