"""Thresholds that are certified, or estimated; see `halfspace.attention.policy`.

A threshold is certified from brackets of all scores alone, which the codes give: a key that is dropped lies below the
threshold, and below its own upper bound. Exact scores of the heaviest keys make the sum of all weights known better.
"""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.attention.cache import CACHE, describe
from halfspace.gpu.runtime.launch import Kernel, format_of
from halfspace.gpu.runtime.records import THREADS
from halfspace.model.kv_cache import ESTIMATORS, RESERVOIR, Cache
from halfspace.model.segment import address

__all__ = ["certify", "estimate"]

BELOW = -(1 << 15)
"""The lower end of a bracket that has none."""
BINS = 1536
"""Positions that are told apart."""
SET = 4
"""Query heads that share the codes that are read."""
RESIDENT = 2
"""Blocks that bracket scores on a multiprocessor at once."""
SPREAD = 4
"""Blocks that count brackets, for each multiprocessor."""
SCORING = 8
"""Blocks that score the sample of a query head."""
MOST_ROWS = 1 << 15
"""Rows that a block counts, at most: it has 16 bits for them."""
RATE = 4
"""Numbers in a struct Rate."""

_WORK = ("brackets", "rates", "tops", "counts", "tickets", "turns")
CERTIFY = np.dtype(
    [
        *((name, np.int64) for name in ("queries", "wide", "group")),
        *((name, np.float64) for name in ("eps", "scale", "cap")),
        *((name, np.int64) for name in ("refined", *_WORK, "tau", "dropped")),
    ]
)
"""The twin of the struct Certify in ``kernels/attention/certify.cuh``."""
ESTIMATE = np.dtype(
    [
        *((name, np.int64) for name in ("queries", "wide", "group")),
        ("keep", np.float64),
        *((name, np.int64) for name in ("estimator", "slots", "scores", "tickets", "tau")),
    ]
)
"""The twin of the struct Estimate in ``kernels/attention/estimate.cu``."""

_bracket = Kernel("attention/bracket.cu", "bracket_scores", ("cache", CACHE), ("call", CERTIFY))
_certify = Kernel("attention/certify.cu", "certify_thresholds", ("cache", CACHE), ("call", CERTIFY))
_estimate = Kernel("attention/estimate.cu", "estimate_thresholds", ("cache", CACHE), ("call", ESTIMATE))


class _Room:
    """What the kernels that certify leave for each other, for one number of query heads.

    The most of it are the brackets, 4 bytes for each query head and row.
    """

    def __init__(self, cache: Cache, query_heads: int) -> None:
        heads, spaces = cache.batch * query_heads, cache.batch * cache.heads
        self.arrays = (
            cp.zeros((heads, cache.capacity), np.uint32),
            cp.zeros((heads, RATE), np.float64),
            cp.full(heads, BELOW, np.int32),
            cp.zeros((heads, BINS), np.uint64),
            cp.zeros(heads, np.uint32),
            cp.zeros((spaces, 2), np.uint64),
        )
        self.call = np.zeros(1, CERTIFY)
        for name, array in zip(_WORK, self.arrays, strict=True):
            self.call[name] = address(array)
        group = query_heads // cache.heads
        self.call["group"], self.call["refined"] = group, not cache.offload
        processors = cp.cuda.Device().attributes["MultiProcessorCount"]
        sets = -(-group // SET)
        self.grid = _parts(cache.capacity, RESIDENT * processors // (spaces * sets), THREADS), spaces, sets
        parts = _parts(cache.capacity, SPREAD * processors // heads, 4 * THREADS)
        self.counting = max(parts, -(-cache.capacity // MOST_ROWS)), heads


def _parts(rows: int, wanted: int, least: int) -> int:
    """Into how many parts rows are split, of at least so many rows each."""
    return max(1, min(wanted, -(-rows // least)))


def certify(cache: Cache, queries: Any, eps: float, scale: float, threads: int, cap: float = 0.0) -> tuple[Any, Any]:
    """Find thresholds below which at most a share `eps` of each head's softmax mass lies, which is proved.

    queries : float32 or bits (batch, query_heads, d); logits are scale * <q, k>, which a `cap` above 0 bends to
        cap tanh(scale <q, k> / cap)

    Returns tau (batch, query_heads), -inf where all keys are kept, and an upper bound of the share that is dropped, at
    most `eps`. Where most keys of all heads that share them were kept, all are kept in the next calls, without a look.
    Nothing waits for the GPU, and a graph may capture it.
    """
    batch, query_heads = queries.shape[:2]
    key = f"certify {query_heads}"
    room: _Room = cache.kept.get(key) or cache.kept.setdefault(key, _Room(cache, query_heads))
    tau, dropped = cp.empty((2, batch, query_heads), np.float64)  # one block: who holds the one holds the other
    call = room.call.copy()
    own = call[0]
    own["queries"], own["wide"] = address(queries), queries.dtype == np.float32
    own["eps"], own["scale"], own["cap"] = eps, scale, cap
    own["tau"], own["dropped"] = address(tau), address(dropped)
    record, format = describe(cache), format_of(cache.keys.dtype)
    _bracket(room.grid, THREADS, record, call, format=format, head_dim=cache.dim, overlap=True)
    _certify(room.counting, THREADS, record, call, format=format, head_dim=cache.dim, overlap=True)
    return tau, dropped


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
