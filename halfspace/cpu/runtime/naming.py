"""What a kernel is called where people read of it: by the stored format that it is compiled for."""

from collections.abc import Callable
from typing import Any

from numba import types

from halfspace.model.formats import FORMATS

__all__ = ["named"]

_FORMAT_OF = {bits.name: name for name, (_, bits) in FORMATS.items()}
_STORED = ("out", "store", "vectors", "like")
"""Parameters of kernels that are, or hold, arrays in the stored format; the first that is there counts."""

_latest = ""


def named(function: Callable[..., Any], signature: tuple[Any, ...]) -> str:
    """Name a kernel as one of many, such as "kernels for float32"; those of no format are of the one at work."""
    global _latest
    kinds = dict(zip(function.__code__.co_varnames, signature, strict=False))
    array = next((kinds[name] for name in _STORED if name in kinds), None)
    if isinstance(array, types.BaseTuple):
        array = next(iter(array), None)
    if isinstance(array, types.Array):
        _latest = _FORMAT_OF.get(str(array.dtype), _latest)
    family = "attention" if ".attention." in (function.__module__ or "") else "kernels"
    return f"{family} for {_latest}" if _latest else family
