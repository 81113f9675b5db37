"""Attention over keys that one pass over their codes chooses; see `halfspace.attention.policy`.

A first kernel brackets all scores by the codes of the keys, and counts where the brackets end. The block that comes
last to a set of query heads reads thresholds off these counts: a key that is dropped lies below the threshold, and
below its own upper bound. Then keys are attended as by a threshold that was given, but upper ends of scores, 2 bytes
for each key and query head, stand in for the codes.
"""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.attention.attend import SET, WARPS, Scores, Workspace, attend_with, workspace_of
from halfspace.gpu.attention.cache import CACHE, describe
from halfspace.gpu.runtime.launch import Kernel, format_of
from halfspace.gpu.runtime.records import THREADS
from halfspace.model.kv_cache import Aim, Cache, Chosen
from halfspace.model.segment import address

__all__ = ["attend_chosen"]

BINS = 1024
"""Positions that are told apart."""
FINE, COARSE = 32.0, 16.0
"""Positions in a nat, a factor e of a softmax weight: for a certificate; for a share of the keys, or capped logits."""
RESIDENT = 2
"""Blocks that bracket scores on a multiprocessor at once."""
MOST_ROWS = 1 << 15
"""Rows that a block counts, at most: it has 16 bits for them."""
REST_SHARE = 0.75
"""A set of query heads is asked about keys it may leave out only now and then where more of them are of use."""
FEW_TO_CHOOSE = 500_000
"""Where heads and sequences have room for fewer keys in all, all are kept: reading them costs less than choosing."""

_WORK = ("uppers", "counts", "tickets", "turns")
CHOOSE = np.dtype(
    [
        *((name, np.int64) for name in ("queries", "wide", "group")),
        *((name, np.float64) for name in ("eps", "keep", "scale", "cap", "steps")),
        *((name, np.int64) for name in ("few", "whole")),
        *((name, np.int64) for name in (*_WORK, "shares", "works", "limits", "tau", "dropped")),
    ]
)
"""The twin of the struct Choose in ``kernels/attention/choose.cuh``."""

_scan = Kernel("attention/scan.cu", "scan_scores", ("cache", CACHE), ("call", CHOOSE))


class _Room:
    """What the kernels leave for each other, for one number of query heads.

    The most of it are the upper ends, 2 bytes for each row and query head.
    """

    def __init__(self, cache: Cache, query_heads: int, room: Workspace) -> None:
        spaces, group = cache.batch * cache.heads, query_heads // cache.heads
        sets = -(-group // SET)
        self.uppers = cp.empty((spaces * sets, cache.capacity, SET), np.int16)
        self.limits = cp.empty((cache.batch, query_heads), np.int32)
        self.counts = cp.zeros((spaces * sets, SET, BINS), np.uint64)
        self.tickets = cp.zeros(spaces * sets, np.uint32)
        self.turns = cp.zeros((spaces * sets, 3), np.uint64)
        self.works = cp.empty(spaces * sets, np.float32)
        self.call = np.zeros(1, CHOOSE)
        for name in (*_WORK, "works", "limits"):
            self.call[name] = address(getattr(self, name))
        self.call["shares"] = address(room.shares)
        self.call["group"] = group
        processors = cp.cuda.Device().attributes["MultiProcessorCount"]
        wanted = min(RESIDENT * processors, spaces * sets * -(-cache.capacity // THREADS))
        self.grid = (max(wanted, spaces * sets * -(-cache.capacity // MOST_ROWS)),)
        self.all_kept = cp.full((cache.batch, query_heads), -np.inf), cp.zeros((cache.batch, query_heads))


def attend_chosen(
    cache: Cache, queries: Any, aim: Aim, scale: float, recent: int, sinks: int, threads: int, cap: float = 0.0
) -> Chosen:
    """Attend over keys that one pass over their codes chooses, and the first `sinks` and last `recent` of a sequence.

    queries : float32 or bits (batch, query_heads, d); logits are scale * <q, k>, which a `cap` above 0 bends to
        cap tanh(scale <q, k> / cap)

    The keys that are kept are those that reach `tau`, in real arithmetic: -inf where all are kept. With `eps`, all are
    kept of short sequences, and for some calls of heads that most keys are of use to. Nothing waits for the GPU, and a
    graph may capture it.
    """
    batch, query_heads = queries.shape[:2]
    how = scale, cap, recent, sinks
    own_workspace = workspace_of(cache, query_heads)
    key = f"choose {query_heads}"
    room: _Room = cache.kept.get(key) or cache.kept.setdefault(key, _Room(cache, query_heads, own_workspace))
    whole = aim.eps is not None and not cache.offload  # whether all keys will do, and are read as fast
    few = -(-FEW_TO_CHOOSE // (cache.batch * cache.heads)) if whole else 0  # of a sequence
    if cache.capacity < few:
        tau, dropped = room.all_kept
        return Chosen(attend_with(cache, queries, tau, how, few=few), tau, dropped)
    tau, dropped = cp.empty((2, batch, query_heads), np.float64)  # one block: who holds the one holds the other
    call = room.call.copy()
    own = call[0]
    own["queries"], own["wide"] = address(queries), queries.dtype == np.float32
    own["eps"], own["keep"] = (-1.0 if share is None else share for share in aim)
    own["scale"], own["cap"] = scale, cap
    own["steps"] = FINE if aim.eps is not None and cap == 0.0 else COARSE
    own["few"], own["whole"] = few, whole
    own["tau"], own["dropped"] = address(tau), address(dropped)
    options: dict[str, Any] = {"format": format_of(cache.keys.dtype), "head_dim": cache.dim, "overlap": True}
    ring = max(WARPS * 2 * (32 * cache.dim + 128), 50 << 10)  # tiles of codes; then counts
    _scan(room.grid, THREADS, describe(cache), call, shared=ring, **options)
    scores = Scores(room.uppers, room.limits, room.works, room.turns, REST_SHARE)
    return Chosen(attend_with(cache, queries, tau, how, scores, few), tau, dropped)
