"""Validation of what users pass: every error names the value and the place, and comes before anything changes."""

import operator
from math import isfinite
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from halfspace.arguments.interop import on_host
from halfspace.model.arrays import host, namespace
from halfspace.model.filters import AUTO, FILTERS, FilterSpec
from halfspace.model.formats import FORMATS, widen32
from halfspace.runtime.progress import Advance, ignore

__all__ = [
    "as_count",
    "as_ids",
    "as_matrix",
    "as_tau",
    "asarray",
    "distinct",
    "finite",
    "grouping",
    "nonzero",
    "numbers",
    "one_of",
    "real",
    "rounded",
    "suits",
]

_FLOATS = frozenset(np.dtype(kind) for kind in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16))


def as_count(value: Any, name: str, least: int) -> int:
    """Return an integer of at least `least`."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def one_of(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def grouping(subspaces: Any, group_size: Any, dim: int, filter: str) -> tuple[int | None, int | None]:
    """Return the arguments that only some filters take."""
    for name, given, most in (("subspaces", subspaces, dim), ("group_size", group_size, np.iinfo(np.int64).max)):
        if given is None:
            continue
        if filter == AUTO or name not in FILTERS[filter].options:
            owners = " and ".join(repr(spec.name) for spec in FILTERS.values() if name in spec.options)
            raise ValueError(f"{name} belongs to the filters {owners}, not to {filter!r}")
        if as_count(given, name, 1) > most:
            raise ValueError(f"{name} must be at most {most}, got {given}")
    return None if subspaces is None else int(subspaces), None if group_size is None else int(group_size)


def suits(spec: FilterSpec, dim: int, metric: str, device: str | None = None) -> None:
    """Refuse a filter that does not take so many dimensions, or a metric, or does not run on a device."""
    if (why_not := spec.why_not(dim, metric)) is not None:
        raise ValueError(why_not)
    if device is not None and device not in spec.code:
        raise ValueError(f"filter {spec.name!r} does not run on the device {device!r}, but on {', '.join(spec.code)}")


def asarray(values: Any, name: str) -> np.ndarray:
    """Return an array on the host, in native byte order; see `on_host` in `halfspace.arguments.interop`."""
    array = on_host(values, name)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_matrix(array: np.ndarray, dim: int, name: str) -> tuple[np.ndarray, bool]:
    """Return (n, dim) numbers in their own dtype, and whether a single (dim,) was given, of an array of any device."""
    if array.dtype in _FLOATS and array.shape == (dim,):
        return array.reshape(1, dim), True
    if array.size == 0 and array.shape in ((0,), (0, dim)):
        return namespace(array).empty((0, dim), np.float32), False
    real(array, name)
    if array.ndim not in (1, 2) or array.shape[-1] != dim:
        raise ValueError(f"{name} must have shape ({dim},) or (n, {dim}), got {array.shape}")
    return (array[None], True) if array.ndim == 1 else (array, False)


def real(array: np.ndarray, name: str) -> None:
    """Refuse an array, of any device, whose dtype is not one of real numbers that can be stored."""
    if not (array.dtype in _FLOATS or array.dtype.kind in "biu"):
        raise TypeError(f"{name} must be real numbers of at most 64 bits, got dtype {array.dtype}")


def numbers(values: np.ndarray, name: str) -> None:
    """Refuse float64 numbers (n,), of any device, that are NaN."""
    bad = np.flatnonzero(np.isnan(host(values)))
    if bad.size:
        raise ValueError(f"{name}[{int(bad[0])}] is nan")


def finite(values: np.ndarray, name: str) -> None:
    """Refuse float32 numbers (n, d), of any device, that are NaN or infinite."""
    values = host(values)
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        row, column = bad[0]
        raise ValueError(f"{name}[{row}, {column}] is {float(values[row, column])}")


def nonzero(values: np.ndarray, name: str) -> None:
    """Refuse rows of numbers (n, d), of any device, that are zero: they have no cosine."""
    bad = np.flatnonzero(~host(values).astype(np.bool_).any(axis=1))
    if bad.size:
        raise ValueError(f"{name}[{int(bad[0])}] is zero, which has no cosine: leave it out, or use another metric")


def rounded(
    numbers: np.ndarray,
    bits: np.dtype[Any],
    name: str,
    backend: Any,
    threads: int,
    advance: Advance = ignore,
) -> np.ndarray:
    """Round (..., d) numbers to a stored format, on their device; refuse what is not finite there."""
    stored: np.ndarray
    stored, bad = backend.store(numbers, bits, threads, advance)
    if bad >= 0:
        place = np.unravel_index(bad, numbers.shape)
        value = float(numbers[place])
        format = next(format for format, (_, carried) in FORMATS.items() if carried == bits)
        how = f", which is infinite in {format}" if isfinite(value) else ""
        raise ValueError(f"{name}[{', '.join(map(str, place))}] is {value}{how}")
    return stored


def as_tau(tau: Any, count: int, single: bool, name: str = "tau") -> npt.NDArray[np.float64]:
    """Return the thresholds (count,) in float64; `name` is that of the argument."""
    if isinstance(tau, float) and tau == tau:
        return np.array([tau], np.float64) if single else np.full(count, tau)
    array = asarray(float(tau) if type(tau) is int and abs(tau) < 2**1023 else tau, name)
    if not (array.dtype in _FLOATS or array.dtype.kind in "iu"):
        raise TypeError(f"{name} must be a real number or an array of them, got {tau!r}")
    if array.ndim > 0 and (single or array.shape != (count,)):
        expected = "a scalar" if single else f"a scalar or have shape ({count},)"
        raise ValueError(f"{name} must be {expected}, got shape {array.shape}")
    if array.dtype.itemsize == 2:
        array = array.astype(np.float32)
    wide = widen32(array) if array.dtype == np.float32 else array.astype(np.float64)
    if np.isnan(wide).any():
        where = f"{name}[{int(np.flatnonzero(np.isnan(wide))[0])}]" if array.ndim else name
        raise ValueError(f"{where} is nan")
    return wide if array.ndim else np.full(count, wide)


def as_ids(array: np.ndarray, name: str = "ids", *, scalar: bool = False) -> npt.NDArray[np.int64]:
    """Return ids (n,) in int64, a copy, on the device of an array; `scalar` says whether a single id may be given."""
    if scalar and array.ndim == 0:
        array = array[None]
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {array.shape}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit in int64, got {int(array.max())}")
    return array.astype(np.int64)


def distinct(ids: npt.NDArray[np.int64]) -> None:
    """Refuse ids (n,) that are given twice."""
    ordered = namespace(ids).sort(ids)
    repeated = ordered[1:] == ordered[:-1]
    if repeated.any():
        raise ValueError(f"id {int(ordered[1:][repeated][0])} is given twice")
