"""Listed rows: their exact scores, the decision which of them a query head keeps, and their share of the softmax."""

import numpy as np

from halfspace.cpu.attention.softmax import MOST, add_values, capped, exponential, raise_to
from halfspace.cpu.job import fetch
from halfspace.cpu.metrics.inner_product import decide_hairline, dot, precision
from halfspace.cpu.runtime.jit import inlined

__all__ = ["AHEAD", "decide_rows", "score_rows", "weigh_rows"]

AHEAD = 8
"""Rows that are fetched before they are scored."""


@inlined
def score_rows(keys, wide, rows, count, scores):
    """Score the first `count` of the listed rows of keys (n, d) for a query head, in float64."""
    row_bytes = keys.shape[1] * keys.itemsize
    for at in range(count):
        if at + AHEAD < count:
            fetch(keys.ctypes.data + rows[at + AHEAD] * row_bytes, row_bytes)
        scores[at] = dot(keys[rows[at]], wide)


@inlined
def decide_rows(store, how, group, k, forced, listed, parts):
    """Keep of the listed rows those that reach the threshold of head k, or are forced, with their logits.

    store : keys, values (which are fetched) and norms of the space; how : scale, cap, grain
    listed : rows, their scores and how many there are; what is kept moves to the front, and scores become logits

    Returns how many rows are kept.
    """
    keys, values, norms = store
    scale, cap, grain = how
    rows, scores, left = listed
    tau, plan = group.tau[k], group.plans[k]
    trust = precision(plan, grain)
    row_bytes = keys.shape[1] * keys.itemsize
    kept = 0
    for at in range(left):
        row = rows[at]
        score, norm = scores[at], np.float64(norms[row])
        error = 0.0 if trust.norm * norm <= trust.exact else trust.slope * norm + trust.intercept
        gap = score - tau
        if not gap >= error and forced[0] <= row < forced[1]:
            if gap < -error:
                continue
            hit, _ = decide_hairline(keys[row], norm, grain, group.narrow[k], plan, tau, False, parts)
            if not hit:
                continue
        fetch(values.ctypes.data + row * row_bytes, row_bytes)
        rows[kept] = row
        scores[kept] = scale * score
        kept += 1
    if cap > 0.0:
        for at in range(kept):
            scores[at] = capped(scores[at], cap)
    return kept


@inlined
def weigh_rows(values, listed, part, before, weighted):
    """Add the values of the listed rows to `weighted`, with weights exp(logit - top).

    listed : rows, their logits, which become weights, and how many there are
    before : how many rows were added before; if there were any, their top and the total of their weights

    Returns the new top and the total of the weights.
    """
    rows, logits, count = listed
    added, top, total = before
    highest = logits[0]
    for at in range(1, count):
        highest = max(highest, logits[at])
    part[:] = 0.0
    if not added:
        total = raise_to(logits, count, highest)
        add_values(values, rows, logits, count, part)
        for j in range(part.size):
            weighted[j] = np.float64(part[j])
        return highest, total
    highest = max(highest, top)
    factor = exponential(max(top - highest, -MOST))
    total = total * factor + raise_to(logits, count, highest)
    add_values(values, rows, logits, count, part)
    for j in range(part.size):
        weighted[j] = weighted[j] * factor + np.float64(part[j])
    return highest, total
