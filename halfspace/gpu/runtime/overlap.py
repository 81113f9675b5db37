"""Launching a kernel that begins while the one before it ends, which CuPy has no name for.

CUDA C++ Programming Guide, "Programmatic Dependent Launch": the kernel before lets it begin (`let_next_begin` in
``kernels/runtime/ptx.cuh``, or its end), and it waits for what that one writes itself (`wait_for_previous`).
"""

import ctypes
import os
from functools import cache
from typing import Any

import cupy as cp
import numpy as np

__all__ = ["Launch", "can_overlap"]

_LEAST_CAPABILITY = 90
_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_NO_CONTEXT = 201  # CUDA_ERROR_INVALID_CONTEXT: of a thread that has asked nothing of the device yet


class _Attribute(ctypes.Structure):
    """The struct CUlaunchAttribute of the driver."""

    _fields_ = (("id", ctypes.c_int), ("_pad", ctypes.c_int), ("value", ctypes.c_int), ("_rest", ctypes.c_char * 60))


class _Config(ctypes.Structure):
    """The struct CUlaunchConfig of the driver."""

    _fields_ = (
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared")),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


_ATTRIBUTE = _Attribute(_STREAM_SERIALIZATION, 0, 1, b"")


@cache
def _entry() -> Any:
    """Return the driver's function that launches with attributes; None where there is none."""
    try:
        function = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1").cuLaunchKernelEx
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p,) * 4
    return function


@cache
def can_overlap(device: int) -> bool:
    """Tell whether GPU and driver can; otherwise one kernel comes after the other, with the same results."""
    return int(cp.cuda.Device(device).compute_capability) >= _LEAST_CAPABILITY and _entry() is not None


class Launch:
    """A kernel with its arguments; when called, it is launched on the current stream, which takes half of CuPy's time.

    kernel : a function of CuPy; arguments : records, whose bytes are read at each launch, arrays, int and float
    overlap : whether it begins while the kernel before it ends
    """

    def __init__(
        self, kernel: Any, grid: tuple[int, ...], block: int, arguments: tuple[Any, ...], shared: int, overlap: bool
    ) -> None:
        self._entry, self._kernel = _entry(), kernel
        self._config = _Config(*(*grid, 1, 1)[:3], block, 1, 1, shared, None, ctypes.pointer(_ATTRIBUTE), overlap)
        self._slots = arguments, [_slot(argument) for argument in arguments]
        places = [
            argument.ctypes.data if slot is None else ctypes.addressof(slot)
            for argument, slot in zip(*self._slots, strict=True)
        ]
        self._values = (ctypes.c_void_p * len(places))(*places)
        self._addresses = ctypes.addressof(self._config), kernel.ptr, ctypes.addressof(self._values), None

    def __call__(self) -> None:
        """Launch it."""
        self._config.stream = cp.cuda.get_current_stream().ptr
        problem = self._entry(*self._addresses)
        if problem == _NO_CONTEXT:
            cp.cuda.runtime.free(0)  # makes one
            problem = self._entry(*self._addresses)
        if problem:
            shape = self._config.grid_x, self._config.grid_y, self._config.grid_z
            raise RuntimeError(f"the driver refused {shape} blocks of {self._config.block_x} threads: error {problem}")


def _slot(argument: Any) -> Any:
    """Return what holds an argument for the driver; a record holds itself."""
    if isinstance(argument, np.ndarray):
        return None
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_longlong(argument if isinstance(argument, int) else argument.data.ptr)
