"""Arrays of either device: NumPy's on the host, CuPy's on a GPU; one code reads and makes both."""

import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["beside", "host", "is_array", "namespace"]


def namespace(array: Any) -> ModuleType:
    """Return the module whose functions take an array: NumPy, or CuPy, which such an array has imported."""
    if isinstance(array, np.ndarray):
        return np
    return sys.modules[type(array).__module__.partition(".")[0]]


def host(array: Any) -> np.ndarray:
    """Return an array in the host's memory: the array itself, or a copy, for which the host waits."""
    if isinstance(array, np.ndarray):
        return array
    copy: np.ndarray = array.get()
    return copy


def beside(array: Any) -> AbstractContextManager[Any]:
    """Return what makes the device of an array the current one while it is entered."""
    if isinstance(array, np.ndarray):
        return nullcontext()
    device: AbstractContextManager[Any] = array.device
    return device


def is_array(value: Any) -> bool:
    """Whether a value is an array of either device."""
    return isinstance(value, np.ndarray) or (hasattr(value, "dtype") and hasattr(value, "get"))
