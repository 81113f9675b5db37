"""Launching a kernel that begins while the one before it ends, which CuPy has no name for.

CUDA C++ Programming Guide, "Programmatic Dependent Launch": the kernel before lets it begin (`wait_for_previous` in
``kernels/ptx.cuh``, or its end), and it waits for what that one writes itself.
"""

import ctypes
import os
from functools import cache
from typing import Any

import cupy as cp
import numpy as np

__all__ = ["can_overlap", "launch"]

_LEAST_CAPABILITY = 90
_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


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
    pointers = ctypes.POINTER(ctypes.c_void_p)
    function.argtypes = (ctypes.POINTER(_Config), ctypes.c_void_p, pointers, pointers)
    return function


@cache
def can_overlap(device: int) -> bool:
    """Tell whether GPU and driver can; otherwise one kernel comes after the other, with the same results."""
    return int(cp.cuda.Device(device).compute_capability) >= _LEAST_CAPABILITY and _entry() is not None


def launch(kernel: Any, grid: tuple[int, ...], block: int, records: tuple[np.ndarray, ...], shared: int) -> None:
    """Launch a kernel that takes nothing but records on the current stream, while the one before it ends."""
    config = _Config(
        *(*grid, 1, 1)[:3], block, 1, 1, shared, cp.cuda.get_current_stream().ptr, ctypes.pointer(_ATTRIBUTE), 1
    )
    values = (ctypes.c_void_p * len(records))(*(record.ctypes.data for record in records))
    problem = _entry()(ctypes.byref(config), kernel.ptr, values, None)
    if problem:
        raise RuntimeError(f"the driver refused {grid} blocks of {block} threads: error {problem}")
