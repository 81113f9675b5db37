"""Arrays in and out without copies: NumPy's, CuPy's, or PyTorch's tensors by DLPack."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["given_back", "on_stream", "taken"]


def _is_tensor(values: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def on_stream(values: Any, backend: Any) -> AbstractContextManager[Any]:
    """Return what makes PyTorch's current stream the one of kernels, where tensors on a GPU are given."""
    if backend.xp is np or not _is_tensor(values) or not values.is_cuda:
        return nullcontext()
    torch = sys.modules["torch"]
    stream: AbstractContextManager[Any] = backend.stream(torch.cuda.current_stream(values.device).cuda_stream)
    return stream


def taken(values: Any, name: str, backend: Any) -> Any:
    """Return values as an array of the backend; it shares the memory of arrays and tensors on its device."""
    if not _is_tensor(values):
        return backend.asarray(values, name)
    if values.requires_grad:
        raise TypeError(f"{name} requires its gradient, and nothing is differentiated here: pass {name}.detach()")
    torch = sys.modules["torch"]
    narrow = values.dtype is torch.bfloat16
    if narrow:  # a dtype that not all libraries exchange
        values = values.view(torch.int16)
    if backend.xp is np:
        if values.device.type != "cpu":
            raise TypeError(f"{name} is on {values.device}, the index on the CPU: bring it there with {name}.cpu()")
        array = np.from_dlpack(values)
    else:
        array = backend.asarray(values, name)
    return array.view(ml_dtypes.bfloat16) if narrow else array


def given_back(array: Any, like: Any) -> Any:
    """Return an array of the backend in the library of `like`; it shares the memory."""
    if not _is_tensor(like):
        return array
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(array)
