"""Number formats: what an index stores, how values are rounded into it, how norms are measured.

See `halfspace.cpu.formats` for how formats are carried; `kernels/formats.cuh` has its stages.
"""

from math import inf, ldexp
from typing import Any

import cupy as cp
import ml_dtypes
import numpy as np

from halfspace.gpu.runtime.launch import STORED, Kernel, format_of
from halfspace.runtime.progress import Advance, ignore

__all__ = ["BLOCK_ROWS", "measure", "store"]

BLOCK_ROWS = 128
"""Rows in a block of threads, one for each; see ``kernels/rows.cuh``."""

_NOTHING = 1000
"""What `lowest_exponent` is of zero."""

_SOURCES = {
    np.dtype(np.float64): (np.float64, "store_float64"),
    np.dtype(np.float32): (np.float32, "store_float32"),
    np.dtype(np.float16): (np.uint16, "store_float16"),
    np.dtype(ml_dtypes.bfloat16): (np.int16, "store_bfloat16"),
    np.dtype(np.int64): (np.int64, "store_int64"),
    np.dtype(np.uint64): (np.uint64, "store_uint64"),
}
"""Of each kind of number that can be rounded at once: what carries it, and its kernel."""

_store = {
    kind: Kernel("store.cu", name, ("values", bits), ("out", STORED), ("size", int), ("bad", np.int64))
    for kind, (bits, name) in _SOURCES.items()
}
_measure = Kernel(
    "measure.cu",
    "measure_vectors",
    ("vectors", STORED),
    ("norms", np.float32),
    ("lowest", np.int32),
    ("rows", int),
    ("dim", int),
)


def store(values: Any, bits: np.dtype[Any], threads: int, advance: Advance = ignore) -> tuple[Any, int]:
    """Round numbers (..., d) to the nearest of a stored format, ties to even.

    Returns the bits (n, d) and the flat position of the first number that is NaN or infinite in that format, or -1.
    """
    if values.dtype not in _SOURCES:  # booleans and integers of up to 32 bits, which float64 holds
        values = values.astype(np.float64)
    carrier, _ = _SOURCES[values.dtype]
    source = cp.ascontiguousarray(values.view(carrier))
    out = cp.empty(source.shape, bits)
    bad = cp.full(1, -1, np.int64)
    blocks = min(-(-out.size // 256), 1 << 13)
    _store[values.dtype]((blocks,), 256, source, out, out.size, bad, format=format_of(bits))
    first = int(bad.item())
    advance(out.size)
    return out, first


def measure(vectors: Any, threads: int, advance: Advance = ignore) -> tuple[Any, float]:
    """Bound the norms of stored vectors (spaces, n, d), rounded up; returns them (spaces, n) and the common grain.

    The grain is a power of two of which every component is a multiple, infinite where all are zero.
    """
    spaces, rows, dim = vectors.shape
    norms = cp.empty((spaces, rows), np.float32)
    lowest = cp.full(1, _NOTHING, np.int32)
    blocks = -(-spaces * rows // BLOCK_ROWS)
    _measure((blocks,), BLOCK_ROWS, vectors, norms, lowest, spaces * rows, dim, format=format_of(vectors.dtype))
    exponent = int(lowest.item())
    advance(vectors.size)
    return norms, ldexp(1.0, exponent) if exponent < _NOTHING else inf
