"""Keys and values of a batch of sequences, coded as they come; see `halfspace.model.kv_cache`.

A key is coded by one warp, whatever it came with, so that a token has the same codes from a prefill as alone.
"""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.runtime.device import capturing
from halfspace.gpu.runtime.launch import Kernel, format_of
from halfspace.model.formats import as_numbers
from halfspace.model.kv_cache import GRAINS, Cache
from halfspace.model.segment import address

__all__ = ["CACHE", "describe", "extend", "new_cache", "reframe"]

_NUMBERS = ("batch", "heads", "dim", "capacity")
_STORED = ("keys", "values", "norms", "value_peaks")
_CELLS = ("centre", "weights", "high", "low", "scales", "radii", "peaks")
CACHE = np.dtype(
    [
        *((name, np.int64) for name in (*_NUMBERS, *_STORED, *_CELLS, "lengths", "sample", "status")),
        ("grain", np.float64),
    ]
)
"""The twin of the struct Cache in ``kernels/attention/cache.cuh``."""
TOKENS = np.dtype(
    [
        *((name, np.int64) for name in ("keys", "values", "counts", "rows")),
        *((name, np.int64, (3,)) for name in ("key_strides", "value_strides")),
        ("arrived", np.int64),
    ]
)
"""The twin of the struct Tokens in ``kernels/attention/extend.cu``."""

TEAM = 8
"""Warps of a block, each with a row of its own."""
PARTS = 32
"""Parts of the keys of a space that are summed on their own."""
STRIDES = 1 << 10
"""Blocks for the rows of a space, at most."""

_extend_one = Kernel("attention/extend.cu", "extend_one", ("cache", CACHE), ("tokens", TOKENS))
_extend_rows = Kernel("attention/extend.cu", "extend_rows", ("cache", CACHE), ("tokens", TOKENS))
_count_rows = Kernel("attention/extend.cu", "count_rows", ("cache", CACHE), ("tokens", TOKENS))
_sum_keys = Kernel("attention/frame.cu", "sum_keys", ("cache", CACHE), ("sums", np.float64), ("parts", int))
_choose_frame = Kernel("attention/frame.cu", "choose_frame", ("cache", CACHE), ("sums", np.float64), ("parts", int))
_encode_keys = Kernel("attention/frame.cu", "encode_keys", ("cache", CACHE))


def new_cache(batch: int, heads: int, dim: int, bits: Any, capacity: int, offload: bool) -> Cache:
    """Make an empty cache on the current GPU; all of it is 0, but for the sample (-1) and the weights (1).

    bits : dtype of the stored bits
    offload : keys and values lie in the host's memory, pinned, where kernels read and write them across the bus
    """
    if dim % 8:
        raise ValueError(f"kernels take whole words of 8 dimensions, got {dim}")
    return Cache.blank(cp.zeros, (batch, heads, capacity, dim), bits, _pinned_zeros if offload else None)


def _pinned_zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """Make an array of zeros in the host's memory, which the GPU reads and writes under the same address."""
    pinned = cp.cuda.PinnedMemory(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    memory = cp.cuda.UnownedMemory(pinned.ptr, pinned.size, pinned, cp.cuda.runtime.getDevice())
    array = cp.ndarray(shape, dtype, cp.cuda.MemoryPointer(memory, 0))
    array.fill(0)
    return array


def describe(cache: Cache) -> np.ndarray:
    """Return the CACHE record (1,) that kernels take."""
    record: np.ndarray | None = cache.kept.get("record")
    if record is None:
        record = np.zeros(1, CACHE)
        row = record[0]
        for name in ("batch", "heads", "dim", "capacity"):
            row[name] = getattr(cache, name)
        for name in (*_STORED, "lengths", "sample", "status"):
            row[name] = address(getattr(cache, name))
        for name in _CELLS:
            row[name] = address(getattr(cache.cells, name))
        row["grain"] = GRAINS[as_numbers(np.empty(0, cache.keys.dtype)).dtype.name]
        cache.kept["record"] = record
    return record


def extend(cache: Cache, keys: Any, values: Any, counts: Any, threads: int = 1) -> None:
    """Append keys and values (batch, heads, rows, d) to their sequences; counts : None, or int64 (batch,), of each.

    A sequence whose rows do not fit, or are not all finite, stays as it is and its status says so; so does one whose
    status is not 0. One launch for a single row; nothing waits for the GPU, and a graph may capture it.
    """
    rows = keys.shape[2]
    if rows == 0:
        return
    keys, values = (_with_rows(cache, part) for part in (keys, values))
    tokens = np.zeros(1, TOKENS)
    own = tokens[0]
    own["keys"], own["values"], own["rows"] = keys.data.ptr, values.data.ptr, rows
    own["counts"] = 0 if counts is None else address(counts)
    own["key_strides"], own["value_strides"] = (
        [step // part.itemsize for step in part.strides[:3]] for part in (keys, values)
    )
    record, options = describe(cache), _options(cache)
    if rows == 1:
        own["arrived"] = address(_arrived(cache))
        _extend_one((cache.heads, cache.batch), 64, record, tokens, **options, overlap=True)
    else:
        grid = min(-(-rows // TEAM), STRIDES), cache.batch * cache.heads
        _extend_rows(grid, 32 * TEAM, record, tokens, **options)
        _count_rows((cache.batch,), 1024, record, tokens, **options)


def _with_rows(cache: Cache, vectors: Any) -> Any:
    """Return vectors (..., d) whose components lie side by side; a copy lives as long as a graph that may read it."""
    if vectors.strides[-1] == vectors.itemsize:
        return vectors
    copy = cp.ascontiguousarray(vectors)
    if capturing():
        cache.kept.setdefault("copies", []).append(copy)
    return copy


def _arrived(cache: Cache) -> Any:
    """Return counters (batch,) that are 0 between calls."""
    counters = cache.kept.get("arrived")
    if counters is None:
        counters = cache.kept["arrived"] = cp.zeros(cache.batch, np.uint64)
    return counters


def _options(cache: Cache) -> dict[str, Any]:
    """Say what kernels are compiled for."""
    return {"format": format_of(cache.keys.dtype), "head_dim": cache.dim}


def reframe(cache: Cache, threads: int = 1) -> None:
    """Choose centre and weights anew, from the keys that are there, and code all keys again.

    The cache is stale until all is launched.
    """
    cache.stale = True
    spaces, record, options = cache.batch * cache.heads, describe(cache), _options(cache)
    sums = cp.empty((spaces, PARTS, 2, cache.dim), np.float64)
    _sum_keys((PARTS, spaces), 32 * TEAM, record, sums, PARTS, **options)
    _choose_frame((spaces,), 256, record, sums, PARTS, **options)
    _encode_keys((min(-(-cache.capacity // TEAM), STRIDES), spaces), 32 * TEAM, record, **options)
    cache.stale = False
