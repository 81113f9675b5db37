"""Answers to tensors of PyTorch, on its stream and as tensors without a copy, by DLPack."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from halfspace.arguments.interop import is_tensor

__all__ = ["given_back", "on_stream"]


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
