"""Stands in for CuPy where there is no GPU: see README.md."""

# ruff: noqa: SIM905, TID251
import functools
from types import SimpleNamespace

import numpy as _np

from . import _functions, _memory, cuda, emulator
from ._array import call as _call
from ._array import ndarray
from ._functions import *  # noqa: F403
from ._functions import array, asarray, asnumpy, ufunc
from ._raw import RawKernel, RawModule

__version__ = "14.2.0"
__all__ = ["RawKernel", "RawModule", "array", "asarray", "asnumpy", "cuda", "emulator", "ndarray", "ufunc"]
_ABSENT = _functions.ABSENT | {name for name in dir(_np) if name.startswith("_")}


def __getattr__(name):
    if name in _ABSENT or not hasattr(_np, name):
        raise AttributeError(f"module 'cupy' has no attribute '{name}'")
    globals()[name] = _functions.adopt(name, getattr(_np, name))
    return globals()[name]


def get_default_memory_pool():
    return _memory.pool


def get_default_pinned_memory_pool():
    return _memory.pinned_pool


def is_available():
    return cuda.is_available()


def memoize(for_each_device=False):
    def decorate(function):
        cached = functools.lru_cache(maxsize=None)(lambda device, args, kwargs: function(*args, **dict(kwargs)))

        @functools.wraps(function)
        def memoized(*args, **kwargs):
            return cached(cuda.Device().id if for_each_device else 0, args, tuple(sorted(kwargs.items())))

        return memoized

    return decorate


class _Generator:
    """``cupy.random.Generator``: NumPy's, with its results on the device."""

    def __init__(self, seed=None):
        self._generator = _np.random.default_rng(seed)

    def __getattr__(self, name):
        if name in ("choice", "permutation", "permuted", "shuffle", "normal", "bytes"):
            raise AttributeError(f"'Generator' object has no attribute '{name}'")
        method = getattr(self._generator, name)
        return lambda *args, **kwargs: _call(method, args, kwargs)


random = SimpleNamespace(default_rng=_Generator, Generator=_Generator)
linalg = SimpleNamespace(
    **{
        name: _functions.adopt(name, getattr(_np.linalg, name))
        for name in "LinAlgError cholesky det eigh eigvalsh inv lstsq norm pinv qr slogdet solve svd".split()
    }
)
