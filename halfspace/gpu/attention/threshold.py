"""Thresholds of attention that are estimated, see `halfspace.attention.policy`."""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.attention.cache import CACHE, describe
from halfspace.gpu.runtime.launch import Kernel, format_of
from halfspace.gpu.runtime.records import THREADS
from halfspace.model.kv_cache import ESTIMATORS, RESERVOIR, Cache
from halfspace.model.segment import address

__all__ = ["estimate"]

SCORING = 8
"""Blocks that score the sample of a query head."""

ESTIMATE = np.dtype(
    [
        *((name, np.int64) for name in ("queries", "wide", "group")),
        ("keep", np.float64),
        *((name, np.int64) for name in ("estimator", "slots", "scores", "tickets", "tau")),
    ]
)
"""The twin of the struct Estimate in ``kernels/attention/estimate.cu``."""

_estimate = Kernel("attention/estimate.cu", "estimate_thresholds", ("cache", CACHE), ("call", ESTIMATE))


def estimate(cache: Cache, queries: Any, keep: float, estimator: str, threads: int) -> Any:
    """Estimate thresholds that a share `keep` of the keys reaches, from the scores of a sample.

    queries : float32 or bits (batch, query_heads, d); estimator : see `halfspace.attention.policy`

    Returns tau (batch, query_heads), -inf where a sequence is empty. Nothing waits for the GPU.
    """
    batch, query_heads = queries.shape[:2]
    heads, key = batch * query_heads, f"estimate {query_heads}"
    scores, tickets = cache.kept.get(key) or cache.kept.setdefault(
        key, (cp.empty((heads, RESERVOIR), np.float32), cp.zeros(heads, np.uint32))
    )
    tau = cp.empty((batch, query_heads), np.float64)
    call = np.zeros(1, ESTIMATE)
    own = call[0]
    own["queries"], own["wide"] = address(queries), queries.dtype == np.float32
    own["group"], own["keep"] = query_heads // cache.heads, keep
    own["estimator"], own["slots"] = ESTIMATORS.index(estimator), min(RESERVOIR, max(1, round(1.0 / keep) - 1))
    own["scores"], own["tickets"], own["tau"] = address(scores), address(tickets), address(tau)
    options: dict[str, Any] = {"format": format_of(cache.keys.dtype), "head_dim": cache.dim, "overlap": True}
    _estimate((SCORING, heads), THREADS, describe(cache), call, **options)
    return tau
