"""Attention by exact arithmetic and float64. Imports nothing of the library that it judges.

The functions have the names of the stages, or of what they return.
"""

from fractions import Fraction

import numpy as np

from helpers import reference


def kept(keys, query, tau, recent=0, sinks=0):
    """Which rows (n,) of keys (n, d) are attended: those with <q, k> >= tau in real numbers, and the forced ones."""
    rows = np.arange(len(keys))
    mask = (rows < sinks) | (rows >= len(keys) - recent)
    if len(keys):
        mask[reference.one_faster(keys, query, float(tau))[0]] = True
    return mask


MANY = 2**17


def logits(keys, query, scale, cap=0.0):
    """scale * <q, k> for keys (n, d), in float64; without exact arithmetic where there are MANY numbers.

    A cap above 0 bends a logit s to cap * tanh(s / cap).
    """
    if cap:
        return cap * np.tanh(logits(keys, query, scale) / cap)
    if keys.size >= MANY:
        return keys.astype(np.float64) @ query.astype(np.float64) * scale
    products, exponent = reference.dots(keys, query)
    unit = Fraction(2) ** int(exponent)
    return np.array([float(Fraction(int(product)) * unit) for product in products]) * scale


def softmax(keys, values, query, mask, scale, cap=0.0):
    """Output (d,) and log-sum-exp of the keys (n, d) in the mask (n,), in float64."""
    if not mask.any():
        return np.zeros(values.shape[1]), -np.inf
    exponents = logits(keys[mask], query, scale, cap)
    top = exponents.max()
    weights = np.exp(exponents - top)
    return weights @ values[mask].astype(np.float64) / weights.sum(), top + np.log(weights.sum())


def dropped_share(keys, query, tau, scale, cap=0.0):
    """The share of the softmax over all keys (n, d) that those with <q, k> < tau hold."""
    if not len(keys):
        return 0.0
    exponents = logits(keys, query, scale, cap)
    weights = np.exp(exponents - exponents.max())
    return float(weights[~kept(keys, query, tau)].sum() / weights.sum())


def smallest(keys, query, eps, scale, cap=0.0):
    """How many keys the smallest set has that holds a share 1 - eps of the softmax."""
    exponents = logits(keys, query, scale, cap)
    weights = np.sort(np.exp(exponents - exponents.max()))
    return len(weights) - int(np.searchsorted(np.cumsum(weights), eps * weights.sum(), side="right"))


def reservoir(length, size):
    """Positions in the slots of a reservoir after so many rows, -1 where there is none: drawn one after another."""
    slots, mask = [-1] * size, 2**64 - 1
    for position in range(length):
        mixed = (position + 1) * 0x9E3779B97F4A7C15 & mask
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & mask
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & mask
        slot = position if position < size else (mixed ^ mixed >> 31) % (position + 1)
        if slot < size:
            slots[slot] = position
    return slots


def estimate(keys, query, sample, keep, estimator):
    """The threshold that a sample of rows of keys (n, d) gives."""
    rows = [row for row in sample if row >= 0]
    if estimator == "max":
        few, count = max(1, round(1 / keep) - 1), len(rows)
        rows = [row for slot, row in enumerate(rows) if (slot * few + count // 2) % count < few]
    if not rows:
        return -np.inf
    scores = sorted(logits(keys[rows], query, 1.0), reverse=True)
    count = len(scores)
    if estimator == "max":
        return scores[0]
    if estimator == "budget":
        return scores[min(count, max(1, int(np.ceil(keep * count)))) - 1]
    first = min(count, max(1, int(np.floor(keep * count / 2))))
    last = min(count, max(first + 1, int(np.ceil(2 * keep * count))))
    gaps = [(scores[rank - 1] - scores[rank], -rank) for rank in range(first, last)]
    if not gaps:
        return scores[first - 1]
    rank = -max(gaps)[1]
    return (scores[rank - 1] + scores[rank]) / 2
