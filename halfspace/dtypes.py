"""The three formats that an index stores, and how arrays carry them."""

from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["FORMATS", "as_bits", "as_numbers", "parse"]

FORMATS: dict[str, tuple[np.dtype[Any], np.dtype[Any]]] = {
    "float32": (np.dtype(np.float32), np.dtype(np.float32)),
    "float16": (np.dtype(np.float16), np.dtype(np.uint16)),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), np.dtype(np.int16)),
}
"""Of each format, the dtype that users see and that of the bits that kernels see (all differ: kernels go by them)."""


def parse(dtype: Any) -> str:
    """Name the format that `dtype` (a name, a NumPy dtype or scalar type) stands for."""
    if isinstance(dtype, str):
        name = dtype
    else:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            raise TypeError(f"dtype must be one of {', '.join(FORMATS)}, got {dtype!r}") from None
    if name not in FORMATS:
        raise ValueError(f"dtype must be one of {', '.join(FORMATS)}, got {dtype!r}")
    return name


def as_bits(numbers: np.ndarray) -> np.ndarray:
    """View numbers of a stored format as kernels see them."""
    for public, bits in FORMATS.values():
        if numbers.dtype == public:
            return numbers.view(bits)
    raise TypeError(f"{numbers.dtype} is not a stored format")


def as_numbers(bits: np.ndarray) -> np.ndarray:
    """View bits as the numbers that users see."""
    for public, carried in FORMATS.values():
        if bits.dtype == carried:
            return bits.view(public)
    raise TypeError(f"{bits.dtype} does not carry a stored format")
