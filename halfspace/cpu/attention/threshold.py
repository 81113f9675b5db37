"""Thresholds of attention that are estimated, see `halfspace.attention.policy`."""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.attention.heads import writeable
from halfspace.cpu.formats import exact64, widen
from halfspace.cpu.metrics.inner_product import dot
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.clock import CLOCK, TURN, overdue, start_clock
from halfspace.cpu.runtime.jit import borrowed, compiled, fetch_add, hold, inlined
from halfspace.model.kv_cache import ESTIMATORS, RESERVOIR, Cache

__all__ = ["estimate"]

BUDGET, MAX = ESTIMATORS.index("budget"), ESTIMATORS.index("max")


def estimate(cache: Cache, queries: np.ndarray, keep: float, estimator: str, threads: int) -> npt.NDArray[np.float64]:
    """Estimate thresholds that a share `keep` of the keys reaches, from the scores of a sample.

    queries : float32 or bits (batch, query_heads, d), finite; estimator : see `halfspace.attention.policy`

    Returns tau (batch, query_heads), -inf where a sequence is empty.
    """
    queries = writeable(queries)
    tau = np.empty(queries.shape[:2])
    which = ESTIMATORS.index(estimator)
    slots = min(RESERVOIR, max(1, round(1.0 / keep) - 1)) if which == MAX else RESERVOIR
    how = float(keep), which, slots
    begun = np.zeros(1, np.int64)

    def work(_: int) -> None:
        while begun[0] < tau.size:
            _threads.go_on()
            _estimate_heads(cache.keys, cache.lengths, cache.sample, queries, how, begun, tau)

    _threads.run(work, range(threads), threads)
    return tau


@compiled
def _estimate_heads(keys, lengths, sample, queries, how, begun, tau):
    """Estimate thresholds of heads, one after another: those that no thread has begun, while the clock allows.

    how : the share to be kept, the number of the estimator, and how many slots of the sample are looked at
    begun : int64 (1,), how many heads are begun
    """
    keep, estimator, slots = how
    batch, query_heads, dim = queries.shape
    heads = keys.shape[0] // batch
    wide, scores = np.empty(dim), np.empty(RESERVOIR)
    rows = borrowed(keys)
    clock = np.empty(1, CLOCK)
    start_clock(clock[0], TURN)
    while not overdue(clock[0]):
        at = fetch_add(begun.ctypes.data, 1)
        if at >= batch * query_heads:
            break
        sequence, head = at // query_heads, at % query_heads
        own = rows[sequence * heads + head // (query_heads // heads)]
        for j in range(dim):
            wide[j] = exact64(widen(queries[sequence, head, j]))
        count, members = 0, min(lengths[sequence], RESERVOIR)
        for slot in range(members):
            if (slot * slots + members // 2) % members < slots:  # evenly spread: early slots hold early keys
                scores[count] = -dot(own[sample[sequence, slot]], wide)
                count += 1
        tau[sequence, head] = _read_off(scores[:count], keep * count, estimator)
    hold(clock)


@inlined
def _read_off(scores, asked, estimator):
    """Read a threshold off the negated scores of a sample, of which so many are asked to reach it."""
    count = scores.size
    if count == 0:
        return -np.inf
    if estimator == MAX:
        return -scores.min()
    if estimator == BUDGET:
        rank = max(1, min(int(np.ceil(asked)), count))
        return -np.partition(scores, rank - 1)[rank - 1]
    first = max(1, min(int(np.floor(0.5 * asked)), count))
    last = min(max(int(np.ceil(2.0 * asked)), first + 1), count)
    best = np.sort(np.partition(scores, last - 1)[:last])
    tau, widest = -best[first - 1], -1.0
    for rank in range(first, last):
        gap = best[rank] - best[rank - 1]
        if gap > widest:
            tau, widest = -0.5 * (best[rank - 1] + best[rank]), gap
    return tau
