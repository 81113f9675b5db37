"""Attention over exactly the keys that reach a threshold; see `halfspace.cpu.attention.attend`.

One launch for all sequences and heads. How much of a space was of use in the last step says how it is read in the next
one, so that nothing waits for the GPU: whole, in both planes of codes first, or in one plane and then the other.
"""

from typing import Any, NamedTuple

import cupy as cp
import numpy as np

from halfspace.gpu.attention.cache import CACHE, describe
from halfspace.gpu.runtime.launch import Kernel, format_of
from halfspace.model.kv_cache import Attention, Cache
from halfspace.model.segment import address

__all__ = ["DENSE_SHARE", "SET", "Scores", "Workspace", "attend", "attend_with", "workspace_of"]

SET = 4
"""Query heads that one block of threads answers."""
WARPS = 8
"""Of a block."""
REST = 28 << 10
"""Bytes of shared memory that a block takes beside its rings, at most, with what is reserved for each."""
LOG2_E = 1.4426950408889634
MOST_DIM = 256
"""Dimensions of a head."""

FEW = 6144
"""A space of fewer keys is read whole."""
MANY = 2400
"""Where a split has so many keys, the high plane is read before the low one."""
DENSE_SHARE = 0.38
"""A space is read whole where more of its keys were of use in the last step."""
MOST_SPLITS = 132
"""Blocks that share the rows of a set, at most, where sets share blocks by what there is to do for each."""
CASCADE_SHARE = 0.05
"""Both planes are read at once where more were of use."""

_FIELDS = "queries tau output log_sum_exp kept weighted parts arrived shares query_heads wide recent sinks"
ATTEND = np.dtype(
    [
        *((name, np.int64) for name in _FIELDS.split()),
        ("scale", np.float64),
        ("cap", np.float64),
        ("few", np.int64),
        ("many", np.int64),
        ("dense_share", np.float64),
        ("cascade_share", np.float64),
        ("uppers", np.int64),
        ("limits", np.int64),
        ("works", np.int64),
        ("turns", np.int64),
        ("rest_share", np.float64),
        ("blocks", np.int64),
        ("most", np.int64),
    ]
)
"""The twin of the struct Attend in ``kernels/attention/attend.cuh``."""

_attend = Kernel("attention/attend.cu", "attend", ("cache", CACHE), ("call", ATTEND))


def _ring(dim: int, itemsize: int) -> int:
    """Bytes of a warp's ring: two tiles of codes, four of high ones and a queue, or rows; the twin of RING."""
    lanes = 32 if dim > 128 else 16 if dim > 64 else 8
    eight = 128 * lanes * itemsize  # eight keys and eight values
    rows = 2 * eight if itemsize == 2 else max(min(2 * eight, 8 << 10), eight)
    return max(64 * dim + 2816, rows)


class Workspace:
    """What splits leave for each other, for one number of query heads."""

    def __init__(self, cache: Cache, query_heads: int) -> None:
        self.shared = WARPS * _ring(cache.dim, cache.keys.itemsize)
        sets = -(-query_heads // cache.heads // SET)
        self.rows = cache.batch * cache.heads * sets
        attributes = cp.cuda.Device().attributes
        room = attributes["MaxSharedMemoryPerMultiprocessor"] // (self.shared + REST)
        resident = max(1, min(1 if cache.dim > 128 else 2, room))
        blocks = resident * attributes["MultiProcessorCount"]
        self.splits = max(1, blocks // self.rows)
        self.shared_out = blocks - self.rows if 3 * self.rows <= blocks else 2 * self.rows
        parts = max(self.rows * self.splits, self.rows + self.shared_out)
        self.weighted = cp.empty((parts, SET, cache.dim), np.float32)
        self.parts = cp.empty((parts, SET, 4), np.float32)
        self.arrived = cp.zeros(self.rows, np.uint32)
        self.shares = cp.zeros(self.rows, np.float32)


class Scores(NamedTuple):
    """What is known of scores, and what is left for the next call."""

    uppers: Any  # int16 (spaces sets, capacity, SET), upper ends
    limits: Any  # int32 (batch, query_heads): keys whose upper end is at most this are left out
    works: Any  # float32 (spaces sets,): how much there is to do
    turns: Any  # uint64 (spaces sets, 3), what is known of a set from call to call
    rest_share: float  # all keys of a set are kept for a while where more of them were of use


def workspace_of(cache: Cache, query_heads: int) -> Workspace:
    """Return the workspace for so many query heads, made once."""
    key = f"attend {query_heads}"
    found: Workspace = cache.kept.get(key) or cache.kept.setdefault(key, Workspace(cache, query_heads))
    return found


def attend(
    cache: Cache, queries: Any, tau: Any, scale: float, recent: int, sinks: int, threads: int, cap: float = 0.0
) -> Attention:
    """Attend over the keys k with <q, k> >= tau, the first `sinks` and the last `recent` of each sequence.

    queries : float32 or bits (batch, query_heads, d); tau : float64 (batch, query_heads)

    The keys that are kept are those in real arithmetic; logits are scale * <q, k> in float32, which a `cap` above 0
    bends to cap tanh(scale <q, k> / cap). Where the status of a sequence is not 0, its output is NaN. Nothing waits for
    the GPU, and a graph may capture it.
    """
    return attend_with(cache, queries, tau, (scale, cap, recent, sinks))


def attend_with(
    cache: Cache,
    queries: Any,
    tau: Any,
    how: tuple[float, float, int, int],
    scores: Scores | None = None,
    few: int | None = None,
) -> Attention:
    """Attend as `attend` does, by what is known of scores, if there is something, instead of codes.

    how : scale, cap, recent, sinks
    few : sequences of fewer keys are read whole, FEW by default
    """
    batch, query_heads, dim = queries.shape
    if dim % 8 or dim > MOST_DIM:
        raise ValueError(f"attention on a GPU takes a multiple of 8 dimensions, at most {MOST_DIM}, got {dim}")
    space = workspace_of(cache, query_heads)
    answer = Attention(
        cp.empty(queries.shape, queries.dtype),
        cp.empty((batch, query_heads), np.float32),
        cp.empty((batch, query_heads), np.int64),
    )
    call = np.zeros(1, ATTEND)
    own = call[0]
    arrays = (queries, tau, *answer, space.weighted, space.parts, space.arrived, space.shares)
    for name, array in zip(_FIELDS.split(), arrays, strict=False):
        own[name] = address(array)
    own["query_heads"], own["wide"] = query_heads, queries.dtype == np.float32
    scale, cap, own["recent"], own["sinks"] = how
    own["scale"], own["cap"] = scale * LOG2_E, cap * LOG2_E
    own["few"], own["many"] = FEW if few is None else few, MANY
    own["dense_share"], own["cascade_share"] = DENSE_SHARE, CASCADE_SHARE
    own["most"] = MOST_SPLITS
    grid = space.splits, space.rows
    if scores is not None:
        grid = space.shared_out + space.rows, 1
        *tables, own["rest_share"] = scores
        own["uppers"], own["limits"], own["works"], own["turns"] = map(address, tables)
        own["blocks"] = space.shared_out
    kind = format_of(cache.keys.dtype)
    options: dict[str, Any] = {"shared": space.shared, "format": kind, "head_dim": dim, "overlap": True}
    _attend(grid, 32 * WARPS, describe(cache), call, **options)
    return answer
