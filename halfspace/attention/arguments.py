"""What users give to a `KVIndex`, validated and brought into the arrays of the stages, in place where that can be."""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.arguments.interop import is_tensor
from halfspace.backend import Backend, load
from halfspace.model.formats import FORMATS, as_bits, parse

__all__ = ["Given", "as_cap", "as_counts", "as_scale", "as_sequences", "as_sink_logits"]

MAX_HEAD_DIM = 256
"""Largest head_dim that kernels on a GPU hold in registers."""
_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Given:
    """The shapes and the format that arrays must fit."""

    backend: Backend
    heads: int
    query_heads: int
    dim: int
    format: str
    threads: int

    @classmethod
    def of(
        cls,
        num_kv_heads: int,
        head_dim: int,
        num_query_heads: int | None,
        device: str,
        dtype: Any,
        offload: bool,
        threads: int | None,
    ) -> "Given":
        """Validate what a user gave, and load the backend; see `KVIndex`."""
        heads = checks.as_count(num_kv_heads, "num_kv_heads", 1)
        dim = checks.as_count(head_dim, "head_dim", 1)
        query_heads = heads if num_query_heads is None else checks.as_count(num_query_heads, "num_query_heads", 1)
        if query_heads % heads:
            raise ValueError(f"num_query_heads must be a multiple of num_kv_heads ({heads}), got {query_heads}")
        backend = load(device)
        if backend.xp is not np and (dim > MAX_HEAD_DIM or dim % 8):
            raise ValueError(f"head_dim must be a multiple of 8 up to {MAX_HEAD_DIM} on a GPU, got {dim}")
        if backend.xp is np and offload:
            raise ValueError("offload keeps keys and values of an index on a GPU in the host's memory: device is 'cpu'")
        format = parse(dtype)
        most = backend.available() if threads is None else checks.as_count(threads, "threads", 1)
        return cls(backend, heads, query_heads, dim, format, most)

    @property
    def on_gpu(self) -> bool:
        """Whether arrays are CuPy's."""
        return self.backend.xp is not np

    def tokens(self, k: Any, v: Any, lengths: Any, batch: int) -> tuple[Any, Any, npt.NDArray[np.int64]]:
        """Bring keys and values into bits (batch, heads, tokens, d); returns how many each sequence gets, too.

        Of a sequence's tokens only those that it gets are read: what pads them may be anything.
        """
        keys, values = self._shaped(k, "k", batch), self._shaped(v, "v", batch)
        if keys.shape != values.shape:
            raise ValueError(f"k and v must have one shape, got {keys.shape} and {values.shape}")
        tokens = keys.shape[2]
        counts = as_counts(tokens if lengths is None else lengths, "lengths", batch)
        if counts.max() > tokens:
            raise ValueError(f"lengths must be at most the {tokens} tokens of k, got {int(counts.max())}")
        return self._stored(keys, "k", counts), self._stored(values, "v", counts), counts

    def _shaped(self, values: Any, name: str, batch: int) -> Any:
        """Return keys or values as an array (batch, heads, tokens, d) of real numbers."""
        array = self.backend.asarray(values, name)
        shape = array.shape
        if batch == 1 and shape == (self.heads, self.dim):
            array = array[None, :, None]
        elif batch == 1 and array.ndim == 3:
            array = array[None]
        if array.ndim != 4 or array.shape[:2] != (batch, self.heads) or array.shape[3] != self.dim:
            raise ValueError(f"{name} must have shape ({batch}, {self.heads}, tokens, {self.dim}), got {shape}")
        checks.real(array, name)
        return array

    def _stored(self, array: Any, name: str, counts: npt.NDArray[np.int64]) -> Any:
        """Bring keys or values into bits; what lies behind a sequence's count becomes zero, or nobody reads it."""
        numbers, bits = FORMATS[self.format]
        if self.on_gpu and array.dtype == numbers:  # kernels find what is not finite
            return as_bits(array)
        array = array[:, :, : int(counts.max())]
        if counts.min() < array.shape[2]:
            kept = self.backend.xp.zeros(array.shape, array.dtype)
            for sequence, count in enumerate(counts.tolist()):
                kept[sequence, :, :count] = array[sequence, :, :count]
            array = kept
        return checks.rounded(array, bits, name, self.backend, self.threads)

    def queries(self, array: Any, batch: int) -> Any:
        """Bring queries into (batch, query heads, d): float32, or on a GPU the bits of the stored format."""
        shape = batch, self.query_heads, self.dim
        shapes = [shape, (*shape[:2], 1, self.dim), *([shape[1:]] if batch == 1 else [])]
        if array.shape not in shapes:
            raise ValueError(f"q must have shape {shape}, got {array.shape}")
        if self.on_gpu and array.dtype in (FORMATS[self.format][0], _FLOAT32):  # kernels find what is not finite
            bits = as_bits(array).reshape(shape)
            return bits if self.backend.is_kernel_ready(bits) else bits.copy()
        checks.real(array, "q")
        return self.backend.xp.ascontiguousarray(self._float32(array).reshape(shape))

    def directions(self, array: Any, batch: int) -> Any:
        """Bring queries into float32 (batch * query heads, d)."""
        queries = self.queries(array, batch)
        if queries.dtype != _FLOAT32:
            queries = self._float32(array)
        return queries.reshape(-1, self.dim)

    def thresholds(self, tau: Any, batch: int) -> Any:
        """Bring thresholds into float64 (batch, query heads)."""
        xp = self.backend.xp
        shape = batch, self.query_heads
        array = self.backend.asarray(tau, "tau") if getattr(tau, "ndim", 0) else tau
        count = self.query_heads
        if getattr(array, "ndim", 0) == 2:
            if array.shape != shape:
                raise ValueError(f"tau must be a scalar or have shape {shape}, got {array.shape}")
            array, count = array.reshape(-1), batch * count
        levels = self.backend.as_tau(array, count, False)
        if isinstance(levels, float):
            return xp.full(shape, levels, np.float64)
        return levels.reshape(shape) if levels.size == batch * self.query_heads else xp.tile(levels, (batch, 1))

    def _float32(self, array: Any) -> Any:
        """Round queries (..., d) to float32; what is not finite there is an error that says where."""
        return checks.rounded(array, _FLOAT32, "q", self.backend, self.threads)


def as_counts(given: Any, name: str, batch: int | None) -> npt.NDArray[np.int64]:
    """Return integers >= 0 of shape (batch,), on the host; or of any number where `batch` is None."""
    anywhere = is_tensor(given) or hasattr(given, "__cuda_array_interface__")
    array = checks.asarray(given.tolist() if anywhere else given, name)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.ndim == 0 and batch is not None:
        array = np.full(batch, array)
    if array.ndim != 1 or (batch is not None and array.size != batch):
        raise ValueError(f"{name} must have shape {'(k,)' if batch is None else f'({batch},)'}, got {array.shape}")
    if array.size and array.min() < 0:
        raise ValueError(f"{name} must not be negative, got {int(array.min())}")
    return checks.as_ids(array, name)


def as_sequences(given: Any, batch: int) -> npt.NDArray[np.int64]:
    """Return the numbers (k,) of sequences, at least one, of a batch."""
    chosen = as_counts(given, "sequences", None)
    if chosen.size == 0:
        raise ValueError("sequences must name at least one")
    if chosen.max() >= batch:
        raise ValueError(f"sequences must be below {batch}, got {int(chosen.max())}")
    return chosen


def as_scale(given: Any, dim: int) -> float:
    """Return what <q, k> is multiplied with to be a logit, 1 / sqrt(d) by default."""
    scale: float = dim**-0.5 if given is None else float(given)
    if not (isfinite(scale) and scale > 0.0):
        raise ValueError(f"scale must be above 0 and finite, got {given}")
    return scale


def as_cap(given: Any) -> float:
    """Return what logits are bent to, or 0.0 where they are not."""
    if given is None:
        return 0.0
    cap = float(given)
    if not (isfinite(cap) and cap > 0.0):
        raise ValueError(f"soft_cap must be above 0 and finite, or None, got {given}")
    return cap


def as_sink_logits(given: Any, query_heads: int) -> npt.NDArray[np.float32] | None:
    """Return the logits (query_heads,) of sinks, on the host, or None."""
    if given is None:
        return None
    anywhere = is_tensor(given) or hasattr(given, "__cuda_array_interface__")
    array = checks.asarray(given.tolist() if anywhere else given, "sink_logits")
    checks.real(array, "sink_logits")
    if array.shape != (query_heads,):
        raise ValueError(f"sink_logits must have shape ({query_heads},), got {array.shape}")
    logits = array.astype(np.float32)
    if not np.isfinite(logits).all():
        raise ValueError(f"sink_logits must be finite in float32, got {array[~np.isfinite(logits)][0]}")
    return logits
