"""What other libraries hand over, as arrays: in place where that can be, refused where something would be lost."""

import reprlib
import sys
from collections.abc import Callable, Mapping, Set
from typing import Any

import ml_dtypes
import numpy as np

from halfspace.arguments.columns import converted, is_column

__all__ = ["exchanged", "is_tensor", "must_be_dense", "on_host"]

_READ = frozenset({bool, int, float, str, np.ndarray, np.bool_, np.float32, np.float64, np.int64})
"""Types of what NumPy reads in lists as it should, the usual ones."""
_ROWS = (list, tuple, np.ndarray)
_TENSORS = frozenset(
    {
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64"),
    }
)
"""The dtypes of tensors that are real numbers, of at least 16 bits where they are floats."""


def on_host(values: Any, name: str) -> np.ndarray:
    """Return values as an array of NumPy, of any dtype of numbers and in any byte order.

    Raises
    ------
    TypeError
        If something would be lost, as the mask of an array or the zeros of a sparse one; if it lies on a GPU, or if it
        is no array of numbers. The error says what to pass instead.
    ValueError
        If rows differ in length, or a value is missing; the error says where.
    """
    array = values if type(values) is np.ndarray else _converted(values, name)
    return _of_objects(array, name) if array.dtype.kind in "OSU" else array


def _converted(values: Any, name: str) -> np.ndarray:
    if is_column(values):
        values = converted(values, name)
    must_be_dense(values, name)
    if isinstance(values, (list, tuple)):
        return _of_list(values, name)
    if is_tensor(values):
        return _of_tensor(values, name)
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(values, cupy.ndarray):
        raise TypeError(_elsewhere(name, "a GPU", f"cupy.asnumpy({name})"))
    return np.asarray(values)


def must_be_dense(values: Any, name: str) -> None:
    """Refuse what is no array, and arrays of which NumPy would not see all."""
    if _is_masked(values):
        raise TypeError(f"{name} is a masked array, and its mask would be lost: pass {name}.filled(value)")
    for method in ("toarray", "todense"):
        if hasattr(values, "nnz") and hasattr(values, method):
            raise TypeError(f"{name} is sparse, a {type(values).__name__}: pass {name}.{method}()")
    if isinstance(values, (bytes, bytearray)):
        remedy = f"pass numpy.frombuffer({name}, dtype)"
        raise TypeError(f"{name} must be a number or an array of numbers, got {_shown(values)}: {remedy}")
    if values is None or isinstance(values, (str, Mapping, Set)):
        raise TypeError(f"{name} must be a number or an array of numbers, got {_shown(values)}")


def _is_masked(values: Any) -> bool:
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(values, masked.MaskedArray)


def _shown(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"


# -- lists and objects ------------------------------------------------------------------------------------------------


def _of_list(values: Any, name: str) -> np.ndarray:
    rows = _readable(values, name)
    try:
        array = np.asarray(rows)
    except ValueError:
        _must_be_even(rows, name)
        raise
    return np.asarray(rows, object) if array.dtype.kind in "SU" else array  # as they were, to be named


def _readable(values: Any, name: str) -> Any:
    """Return a list in which whatever else it held has become an array of NumPy, however deep it lay."""
    if _READ.issuperset(map(type, values)):
        return values
    rows = list(values)
    for at, row in enumerate(rows):
        if isinstance(row, (list, tuple)):
            rows[at] = _readable(row, f"{name}[{at}]")
        elif type(row) not in _READ and not isinstance(row, np.generic):
            rows[at] = on_host(row, f"{name}[{at}]")
    return rows


def _must_be_even(rows: Any, name: str) -> None:
    """Raise for the first row whose length is not that of the first."""
    lengths = [row.shape[0] if np.ndim(row) else None for row in map(_as_array, rows)]
    for at, length in enumerate(lengths):
        if length != lengths[0]:
            own, first = ("is one value" if n is None else f"has length {n}" for n in (length, lengths[0]))
            raise ValueError(f"{name}[{at}] {own}, {name}[0] {first}: rows must have one length")
    for at, row in enumerate(rows):
        if isinstance(row, (list, tuple)):
            _must_be_even(row, f"{name}[{at}]")


def _as_array(row: Any) -> np.ndarray:
    """Return a row with its length alone, as rows within it may differ."""
    return np.empty(len(row)) if isinstance(row, (list, tuple)) else np.asarray(row)


def _of_objects(array: np.ndarray, name: str) -> np.ndarray:
    """Return rows that an array of objects (n,) holds as (n, d); refuse other objects and text."""
    if array.ndim == 0:
        raise TypeError(f"{name} must be a number or an array of numbers, got {_shown(array.item())}")
    if array.size == 0:
        return array
    flat = array.ravel().tolist()
    if array.ndim == 1 and _is_row(flat[0]):
        bad = next((at for at, row in enumerate(flat) if not _is_row(row)), None)
        if bad is None:
            return on_host(flat, name)
    else:
        bad = next((at for at, value in enumerate(flat) if not _is_number(value)), 0)
    place = ", ".join(map(str, np.unravel_index(bad, array.shape)))
    are_numbers = f"pass numpy.asarray({name}, dtype=numpy.float64)"
    remedy = are_numbers if _is_number(flat[bad]) else "convert it, or leave its row out"
    raise TypeError(
        f"{name} must be real numbers of at most 64 bits, got dtype {array.dtype}: "
        f"{name}[{place}] is {_shown(flat[bad])}; {remedy}"
    )


def _is_row(value: Any) -> bool:
    return isinstance(value, _ROWS) or is_tensor(value) or is_column(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (float, np.number)) or (isinstance(value, int) and -(2**63) <= value < 2**64)


# -- tensors of PyTorch -----------------------------------------------------------------------------------------------


def is_tensor(values: Any) -> bool:
    """Whether a value is a tensor of PyTorch, which it has imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def exchanged(values: Any, name: str, exchange: Callable[[Any], Any]) -> Any:
    """Return a tensor's numbers as an array, by a function that takes tensors; its gradient stays behind.

    Raises
    ------
    TypeError
        If it is not dense, or its dtype is not one of real numbers.
    """
    torch = sys.modules["torch"]
    if values.is_nested:
        raise TypeError(f"{name} is a nested tensor: pass rows of one length, as torch.nested.to_padded_tensor makes")
    if values.layout is not torch.strided:
        raise TypeError(f"{name} is a tensor of layout {values.layout}: pass {name}.to_dense()")
    if values.is_quantized:
        raise TypeError(f"{name} is a quantized tensor: pass {name}.dequantize()")
    if values.is_meta:
        raise TypeError(f"{name} is a tensor on the device meta, which has no numbers")
    if str(values.dtype).removeprefix("torch.") not in _TENSORS:
        remedy = f": pass {name}.float()" if values.dtype.is_floating_point else ""
        raise TypeError(f"{name} must be real numbers of at most 64 bits, got dtype {values.dtype}{remedy}")
    plain = values.detach().resolve_neg()  # numbers whose sign is yet to be turned are read wrongly by others
    if plain.dtype is torch.bfloat16:  # a dtype that not all libraries exchange
        return exchange(plain.view(torch.int16)).view(ml_dtypes.bfloat16)
    return exchange(plain)


def _of_tensor(values: Any, name: str) -> np.ndarray:
    if values.device.type not in ("cpu", "meta"):
        raise TypeError(_elsewhere(name, values.device, f"{name}.cpu()"))
    array: np.ndarray = exchanged(values, name, lambda tensor: tensor.numpy())
    return array


def _elsewhere(name: str, place: Any, remedy: str) -> str:
    return f"{name} is on {place}, not in the host's memory: bring it there with {remedy}"
