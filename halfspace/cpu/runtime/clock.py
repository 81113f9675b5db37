"""The clock of kernels, which return to Python every so often: a signal handler runs only between two bytecodes."""

import ctypes
import sys
import time
from typing import Any

import numpy as np
from llvmlite import binding
from numba import types

from halfspace.cpu.runtime.jit import inlined

__all__ = ["CLOCK", "CLOCK_FIELDS", "TURN", "overdue", "start_clock"]

TURN = 0.05
"""Seconds after which a kernel returns, done or not."""

CLOCK_FIELDS: list[Any] = [("now", np.int64, (2,)), ("until", np.float64)]
"""Room for what the system's clock says, and the time to return."""
CLOCK = np.dtype(CLOCK_FIELDS)


def _add_symbol(function: object) -> None:  # under a name of our own: compiled code on disk looks it up again
    binding.add_symbol("halfspace_clock", ctypes.cast(function, ctypes.c_void_p).value)  # type: ignore[arg-type]


if sys.platform == "win32":
    _ticks = ctypes.c_int64()
    ctypes.windll.kernel32.QueryPerformanceFrequency(ctypes.byref(_ticks))
    _TICK = 1.0 / _ticks.value
    _add_symbol(ctypes.windll.kernel32.QueryPerformanceCounter)
    _read = types.ExternalFunction("halfspace_clock", types.int32(types.intp))

    @inlined
    def _seconds(clock):
        _read(clock.now.ctypes.data)
        return _TICK * clock.now[0]

else:
    _WHICH = int(time.CLOCK_MONOTONIC)
    _add_symbol(ctypes.CDLL(None).clock_gettime)
    _read = types.ExternalFunction("halfspace_clock", types.int32(types.int32, types.intp))

    @inlined
    def _seconds(clock):
        _read(_WHICH, clock.now.ctypes.data)
        return clock.now[0] + 1e-9 * clock.now[1]


@inlined
def start_clock(clock, budget):
    """Set the time to return, so many seconds from now; `clock` : a record with the fields of `CLOCK`."""
    clock.until = _seconds(clock) + budget


@inlined
def overdue(clock):
    """Whether it is time to return."""
    return _seconds(clock) > clock.until
