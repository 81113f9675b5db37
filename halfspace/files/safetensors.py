"""Tensors of ``.safetensors`` files, mapped: a header in JSON, and then bytes.

The header is believed only where all of it fits the file: tensors lie side by side, without gaps or overlaps, from the
end of the header to the end of the file, and each takes the bytes that its dtype and shape say.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from halfspace.files.reading import chosen, matrix, reading

__all__ = ["read"]

_HEADER = 100_000_000
"""Bytes that a header may have, by the format."""
_SIZES = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}
_NUMBERS: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}") for kind in _SIZES for size in _SIZES[kind]},
}
"""What can be read; tensors of other dtypes may lie in the same file."""


def read(file: Path, member: str | None) -> NDArray[Any]:
    """Map the named tensor, or the only two-dimensional one of real numbers."""
    with file.open("rb") as stream, reading(file, "not a readable .safetensors file: "):
        size = stream.seek(0, 2)
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER):
            raise ValueError(
                f"{size} bytes, too short for its header" if length <= _HEADER else "its header is too long"
            )
        tensors = _tensors(json.loads(stream.read(length).decode(), object_pairs_hook=_distinct), size - 8 - length)
    with reading(file):
        held = {name: f"{dtype} {shape}" for name, (dtype, shape, _) in tensors.items()}
        fitting = [name for name, (dtype, shape, _) in tensors.items() if len(shape) == 2 and dtype in _NUMBERS]
        member = chosen(file, member, held, fitting, ("tensor", "two-dimensional tensor of numbers"))
        dtype, shape, begin = tensors[member]
        if dtype not in _NUMBERS:
            raise ValueError(f"tensor {member!r} is of dtype {dtype}, none of {', '.join(_NUMBERS)}")
        if 0 in shape:
            array: NDArray[Any] = np.empty(shape, _NUMBERS[dtype])
        else:
            array = np.memmap(file, _NUMBERS[dtype], "r", 8 + length + begin, shape)
    return matrix(array, f"{file}:{member}")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, none of whose keys may come twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{name!r} comes twice in its header")
    return found


def _tensors(header: Any, nbytes: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return dtype, shape and first byte of each tensor, from a header that must fit so many bytes of data."""
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    tensors, places = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or not _are_lengths(shape) or not _are_lengths(offsets) or len(offsets) != 2:
            raise ValueError(f"tensor {name!r} states dtype {dtype!r}, shape {shape!r}, data_offsets {offsets!r}")
        begin, end = offsets
        needed = math.prod(shape) * _NUMBERS[dtype].itemsize if dtype in _NUMBERS else end - begin
        if needed != end - begin or end < begin:
            raise ValueError(f"tensor {name!r} of {dtype} {tuple(shape)} cannot lie in the bytes {begin} to {end}")
        tensors[name] = (dtype, tuple(shape), begin)
        places.append((begin, end, name))
    until = 0
    for begin, end, name in sorted(places):
        if begin != until:
            raise ValueError(f"tensor {name!r} begins at byte {begin} of the data, the one before ends at {until}")
        until = end
    if until != nbytes:
        raise ValueError(f"its tensors take {until} bytes; {nbytes} follow its header")
    return tensors


def _are_lengths(values: Any) -> bool:
    few = isinstance(values, list) and len(values) <= 64  # as many dimensions as arrays of NumPy may have
    return few and all(type(value) is int and 0 <= value < 2**63 for value in values)
