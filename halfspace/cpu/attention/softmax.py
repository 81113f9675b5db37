"""Softmax over lists of keys: exponentials, weighted values, and parts of a sum that are merged in their order."""

import numpy as np

from halfspace.cpu.formats import widen
from halfspace.cpu.runtime.jit import bits_of, compiled, float64_of, inlined, multiply_add

__all__ = ["MOST", "add_values", "capped", "exponential", "merge", "raise_to"]

MOST = 700.0
"""Exponents are cut to this magnitude, where their exponentials are normal numbers still."""

_SHIFT = 1.5 * 2.0**52
_PER_LN2 = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


@inlined
def exponential(x):
    """Compute exp(x) for |x| <= `MOST`, with a relative error below 2^-45; loops over it vectorise.

    With n the integer nearest to x / ln 2 and |r| = |x - n ln 2| <= 0.35, exp(r) is its series up to r^11: what is left
    is below 2^-47.
    """
    shifted = x * _PER_LN2 + _SHIFT
    n = shifted - _SHIFT
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = 1.0 / 39916800.0
    p = multiply_add(1.0 / 3628800.0, p, r)
    p = multiply_add(1.0 / 362880.0, p, r)
    p = multiply_add(1.0 / 40320.0, p, r)
    p = multiply_add(1.0 / 5040.0, p, r)
    p = multiply_add(1.0 / 720.0, p, r)
    p = multiply_add(1.0 / 120.0, p, r)
    p = multiply_add(1.0 / 24.0, p, r)
    p = multiply_add(1.0 / 6.0, p, r)
    p = multiply_add(0.5, p, r)
    p = multiply_add(1.0, p, r)
    p = multiply_add(1.0, p, r)
    return float64_of(bits_of(p) + (bits_of(shifted) << np.int64(52)))


@inlined
def capped(logit, cap):
    """Compute cap tanh(logit / cap), with an error below 2^-44 cap; `cap` above 0."""
    return cap * (1.0 - 2.0 / (exponential(min(max(2.0 * (logit / cap), -MOST), MOST)) + 1.0))


@inlined
def raise_to(logits, count, top):
    """Replace the first logits, none above `top`, by exp(logit - top); returns their sum."""
    total = 0.0
    for at in range(count):
        value = exponential(max(logits[at] - top, -MOST))
        logits[at] = value
        total = multiply_add(total, value, 1.0)
    return total


@inlined
def add_values(values, rows, weights, count, out):
    """Add the rows of values (n, d) that are listed, times their weights (count,), to float32 out (d,)."""
    dim = out.size
    at = 0
    while at + 4 <= count:
        a, b, c, d = values[rows[at]], values[rows[at + 1]], values[rows[at + 2]], values[rows[at + 3]]
        p, q = np.float32(weights[at]), np.float32(weights[at + 1])
        r, s = np.float32(weights[at + 2]), np.float32(weights[at + 3])
        for j in range(dim):
            total = multiply_add(out[j], p, widen(a[j]))
            total = multiply_add(total, q, widen(b[j]))
            total = multiply_add(total, r, widen(c[j]))
            out[j] = multiply_add(total, s, widen(d[j]))
        at += 4
    while at < count:
        a, p = values[rows[at]], np.float32(weights[at])
        for j in range(dim):
            out[j] = multiply_add(out[j], p, widen(a[j]))
        at += 1


@compiled
def merge(tops, sums, kept, weighted, output, log_sum_exp, counts):
    """Merge the runs (heads, runs) of each head in their order, `weighted` being (heads, runs, d).

    output, log_sum_exp, counts : float32 (heads, d), float32 (heads,) and int64 (heads,), get the attention, its
    log-sum-exp and how many keys were kept
    """
    heads, runs, dim = weighted.shape
    mean = np.empty(dim)
    for k in range(heads):
        top = -np.inf
        counts[k], log_sum_exp[k] = 0, np.float32(-np.inf)
        output[k] = np.float32(0.0)
        for run in range(runs):
            counts[k] += kept[k, run]
            if kept[k, run]:
                top = max(top, tops[k, run])
        if counts[k] == 0:
            continue
        total = 0.0
        mean[:] = 0.0
        for run in range(runs):
            if kept[k, run]:
                factor = exponential(max(tops[k, run] - top, -MOST))
                total += sums[k, run] * factor
                for j in range(dim):
                    mean[j] += weighted[k, run, j] * factor
        log_sum_exp[k] = top + np.log(total)
        for j in range(dim):
            output[k, j] = mean[j] / total
