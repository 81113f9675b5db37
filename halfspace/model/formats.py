"""The three formats that an index stores, and how arrays carry them."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = ["FORMATS", "as_bits", "as_float32", "as_numbers", "parse", "widen32"]

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


def widen32(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Convert float32 to float64, subnormals by their bits: a processor may flush them."""
    wide = values.astype(np.float64)
    bits = values.view(np.int32)
    tiny = (bits & 0x7F800000) == 0
    if tiny.any():
        wide[tiny] = np.copysign((bits[tiny] & 0x7FFFFF) * 2.0**-149, bits[tiny] + 0.5)
    return wide


def as_bits(numbers: np.ndarray) -> np.ndarray:
    """View numbers of a stored format as kernels see them."""
    for public, bits in FORMATS.values():
        if numbers.dtype == public:
            return numbers.view(bits)
    raise TypeError(f"{numbers.dtype} is not a stored format")


def as_float32(bits: np.ndarray) -> npt.NDArray[np.float32]:
    """Widen bits to the float32 that they stand for."""
    if bits.dtype == np.int16:
        return (bits.astype(np.int32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32) if bits.dtype == np.uint16 else bits


def as_numbers(bits: np.ndarray) -> np.ndarray:
    """View bits as the numbers that users see."""
    for public, carried in FORMATS.values():
        if bits.dtype == carried:
            return bits.view(public)
    raise TypeError(f"{bits.dtype} does not carry a stored format")
