"""What users get: for tensors of PyTorch on its stream, and as tensors without a copy, by DLPack."""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfspace.arguments.interop import is_tensor

__all__ = ["Attended", "given_back", "on_stream"]


@dataclass(frozen=True, eq=False)
class Attended:
    """Attention over the keys that reach a threshold, and what is known of it.

    Arrays are of the library, and on the device, of the queries.

    Attributes
    ----------
    output : array, of the shape and dtype of the queries
        Softmax-weighted means of the values that were kept; 0 where none was.
    log_sum_exp : array of float32, shape (batch, query heads)
        Logarithm of the sum of exp(logit) over the keys that were kept, and of the sink if there is one; -inf where
        there is none.
    kept : array of int64, shape (batch, query heads)
        How many keys were kept.
    tau : array of float64, shape (batch, query heads)
        The threshold of <q, k>.
    dropped : array of float64, shape (batch, query heads), or None
        The share of the softmax over all keys that was dropped, at most. None where the threshold was given, or
        estimated from a sample.
    error : array of float64, shape (batch, query heads), or None
        How far the output is from attention over all keys, at most, in the Euclidean norm and but for rounding:
        ``dropped * (max |v| + |output|)``. None where `dropped` is.
    """

    output: Any
    log_sum_exp: Any
    kept: Any
    tau: Any
    dropped: Any
    error: Any


def on_stream(values: Any, backend: Any) -> AbstractContextManager[Any]:
    """Return what makes PyTorch's current stream the one of kernels, where tensors on a GPU are given."""
    if backend.xp is np or not is_tensor(values) or not values.is_cuda:
        return nullcontext()
    torch = sys.modules["torch"]
    stream: AbstractContextManager[Any] = backend.stream(torch.cuda.current_stream(values.device).cuda_stream)
    return stream


def given_back(array: Any, like: Any) -> Any:
    """Return an array of the backend in the library of `like`; it shares the memory."""
    if not is_tensor(like):
        return array
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(array)
