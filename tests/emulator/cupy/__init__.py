"""Stands in for CuPy where there is no GPU, with the names that the library and its tests use: see README.md."""

# ruff: noqa: F401, TID251
import numpy as _np

from . import _functions, _memory, cuda, emulator
from ._array import ndarray
from ._functions import (
    argsort,
    asarray,
    ascontiguousarray,
    asnumpy,
    concatenate,
    empty,
    empty_like,
    from_dlpack,
    full,
    lexsort,
    ones,
    packbits,
    partition,
    searchsorted,
    sort,
    unpackbits,
    where,
    zeros,
    zeros_like,
)
from ._raw import RawModule

_COUNTING = "arange bincount cumsum flatnonzero isin nonzero unique"
_ELEMENTS = "asfortranarray exp logaddexp maximum minimum nan_to_num stack tile"
for _name in f"{_COUNTING} {_ELEMENTS}".split():
    globals()[_name] = _functions.adopt(_name, getattr(_np, _name))


def get_default_memory_pool():
    return _memory.pool
