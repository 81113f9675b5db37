"""Number formats: what an index stores, how values are rounded into it, how it widens back.

Formats are carried as the arrays' dtypes: float32 as itself, float16 as its bits in uint16, bfloat16 as its bits in
int16. Rounding and the decoding of subnormals work on bits, so that a process that flushes denormals stores and sees
the same values as any other.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from halfspace.cpu.rounding import norm_bound
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import (
    bit_length,
    bits_of,
    by_type,
    compiled,
    float32_of,
    float64_of,
    inlined,
    pointer,
    trailing_zeros,
)
from halfspace.cpu.runtime.simd import half_to_float
from halfspace.model.formats import FORMATS
from halfspace.model.segment import address
from halfspace.runtime.progress import Advance, ignore

__all__ = [
    "exact64",
    "grain_of",
    "leading_bit",
    "lowest_exponent",
    "measure",
    "measure_rows",
    "round_down32",
    "round_to_format",
    "round_up16",
    "round_up32",
    "rounds_once",
    "store",
    "widen",
    "widen16",
]

SLICE = 1 << 20
"""Components that are converted or measured as one task."""


@inlined
def half_by_bits(value):
    """Widen the bits of a float16 (uint16) to float32 without an instruction for it."""
    magnitude = np.int32(value) & 0x7FFF
    if magnitude >= 0x7C00:  # infinity and NaN
        bits = (magnitude << 13) + 0x70000000
    elif magnitude >= 0x400:
        bits = (magnitude << 13) + 0x38000000
    else:
        bits = np.int64(bits_of(np.float32(np.float32(magnitude) * np.float32(2.0**-24))))
    return float32_of(bits | ((np.int32(value) & 0x8000) << 16))


def widen(value: Any) -> Any:
    """Widen one stored value to the float32 that it stands for (exact, but a subnormal float32 stays one)."""


@by_type(widen)
def _widen_overload(value):
    def bfloat16(value):
        return float32_of(np.int32(value) << 16)

    def float16(value):
        return half_to_float(value, half_by_bits(value))

    def float32(value):
        return value

    return {types.float32: float32, types.uint16: float16, types.int16: bfloat16}.get(value)


@inlined
def exact64(value):
    """Convert a float32 to float64; subnormals are decoded from their bits, so that no mode flushes them.

    Both are done for every number, so that a loop of it vectorises.
    """
    bits, usual = bits_of(value), np.float64(value)
    tiny = np.float64(bits & np.int32(0x7FFFFF)) * 2.0**-149
    tiny = -tiny if bits < 0 else tiny
    return usual if bits & np.int32(0x7F800000) else tiny


@inlined
def lowest_exponent(value):
    """Exponent of the lowest set bit of a float32, 1000 for 0: as integers alone, so that a loop of it vectorises."""
    bits = bits_of(value) & np.int32(0x7FFFFFFF)
    field = bits >> np.int32(23)
    mantissa = (bits & np.int32(0x7FFFFF)) | (np.int32(0x800000) if field > 0 else np.int32(0))
    exponent = max(field, np.int32(1)) - np.int32(150) + np.int32(trailing_zeros(mantissa))
    return np.int32(exponent) if mantissa != 0 else np.int32(1000)


@inlined
def grain_of(exponent):
    """Power of two with this `lowest_exponent`, infinite where there is none."""
    return float64_of((np.int64(exponent) + np.int64(1023)) << np.int64(52)) if exponent < 1000 else np.inf


@inlined
def leading_bit(value):
    """Largest power of two that is at most the positive normal float64 `value`."""
    return float64_of((bits_of(value) >> np.int64(52)) << np.int64(52))


@inlined
def round_up32(value):
    """Smallest normal float32 (or zero, or an infinity) that is at least the float64 `value`."""
    if abs(value) <= 2.0**-126:
        return np.float32(2.0**-126) if value > 0.0 else np.float32(0.0)
    rounded = np.float32(value)
    if np.float64(rounded) < value:
        rounded = float32_of(bits_of(rounded) + (1 if value > 0.0 else -1))
    return rounded


@inlined
def round_down32(value):
    """Largest normal float32 (or zero, or minus infinity) that is at most the float64 `value`."""
    return np.float32(0.0) - round_up32(-value)


@inlined
def rounds_once(value, error):
    """Whether every real number within `error` of `value` has the same nearest float32, and that is not subnormal."""
    settled = bits_of(np.float32(value - error)) == bits_of(np.float32(value + error))
    return settled and (abs(value) >= 2.0**-125 or (value == 0.0 and error == 0.0))


@inlined
def round_up16(value):
    """Bits (uint16) of the smallest normal bfloat16 (or zero, or infinity) that is at least a float64 that is >= 0."""
    return np.uint16((np.int64(bits_of(round_up32(value))) + 0xFFFF) >> 16)


@inlined
def widen16(bits):
    """Widen the bits (uint16) of a bfloat16 that is not subnormal to float64."""
    return np.float64(float32_of(np.int32(bits) << 16))


@inlined
def round_to_format(mantissa, exponent, sticky, precision, lowest, highest):
    """Round mantissa * 2^exponent to the nearest number of a binary format, ties to even.

    mantissa : int64, below 2^62; `sticky` says that the true magnitude lies strictly between it and the next
    precision : significant bits of the format, the hidden one included
    lowest : exponent of its smallest subnormal; `highest` : exponent of its largest binade

    Returns the magnitude's bit pattern in the format's own encoding; that of infinity on overflow.
    """
    one = np.int64(1)
    unit = max(exponent + bit_length(mantissa) - precision, lowest)  # exponent of the result's last place
    drop = unit - exponent
    if drop <= 0:
        kept = mantissa << (-drop)
    elif drop > 62:
        kept = np.int64(0)
    else:
        kept = mantissa >> drop
        rest = mantissa & ((one << drop) - one)
        half = one << (drop - one)
        if rest > half or (rest == half and (sticky or (kept & one) == one)):
            kept += one
    if kept >= (one << precision):
        kept >>= one
        unit += one
    if kept == 0:
        return np.int64(0)
    if unit + precision - 1 > highest:
        return (highest - lowest - precision + 3) << (precision - one)
    if kept < (one << (precision - one)):
        return kept
    return ((unit - lowest) << (precision - one)) + kept


@inlined
def _split64(value):
    """Mantissa and exponent of a finite float64: |value| = mantissa * 2^exponent."""
    bits = bits_of(value)
    field = (bits >> np.int64(52)) & np.int64(0x7FF)
    fraction = bits & np.int64(0xFFFFFFFFFFFFF)
    if field == 0:
        return fraction, np.int64(-1074)
    return fraction | np.int64(0x10000000000000), field - np.int64(1075)


def _store(value: Any, out: Any, at: int) -> None:
    """Round a float64 into element `at` of `out`."""


@by_type(_store)
def _store_overload(value, out, at):
    def through_bits(precision, lowest, highest, shift):
        def store(value, out, at):
            mantissa, exponent = _split64(value)
            pattern = round_to_format(mantissa, exponent, False, precision, lowest, highest)
            if bits_of(value) < 0:
                pattern |= np.int64(1) << shift
            out[at] = pattern

        return store

    if out.dtype == types.uint16:
        return through_bits(11, -24, 15, 15)
    if out.dtype == types.int16:
        return through_bits(8, -133, 127, 15)
    if out.dtype == types.float32:

        def store(value, out, at):
            if abs(value) >= 2.0**-126 or bits_of(value) << np.int64(1) == 0:
                out[at] = np.float32(value)
            else:
                mantissa, exponent = _split64(value)
                pattern = np.int32(round_to_format(mantissa, exponent, False, 24, -149, 127))
                if bits_of(value) < 0:
                    pattern |= np.int32(-0x80000000)
                out[at] = float32_of(pattern)

        return store
    return None


def _wide64(value: Any) -> Any:
    """Widen a float32 or float64 source value to float64."""


@by_type(_wide64)
def _wide64_overload(value):
    if value == types.float32:
        return lambda value: exact64(value) if bits_of(value) & 0x7F800000 != 0x7F800000 else np.float64(value)
    return lambda value: value


@inlined
def finite(value):
    """Whether a stored value is a finite number."""
    return bits_of(widen(value)) & np.int32(0x7F800000) != np.int32(0x7F800000)


def store(values: np.ndarray, bits: np.dtype[Any], threads: int, advance: Advance = ignore) -> tuple[np.ndarray, int]:
    """Round numbers (..., d) to the nearest of a stored format, ties to even.

    Returns the bits (n, d) and the flat position of the first number that is NaN or infinite in that format, or -1.
    """
    source = _contiguous(values, threads)
    same = source.dtype == _SAME[bits]
    out = np.empty(source.shape, bits)
    wide, flat = source.reshape(-1), out.reshape(-1)
    convert = _copy_into if same else _round_into

    def fill(span: tuple[int, int]) -> int:
        first, last = span
        part = wide[first:last]
        if part.dtype.kind in "biu":
            part = _integers_as_float64(part)
        elif part.dtype.itemsize == 2 and not same:
            part = part.astype(np.float32)  # exact: both halves fit
        own = flat[first:last]
        bad: int = convert(address(part), own[:0] if same else np.empty(0, part.dtype), own, 0, last - first)
        advance(last - first)
        return first + bad if bad >= 0 else -1

    bad = _threads.run(fill, _threads.spans(flat.size, -(-flat.size // SLICE)), threads)
    return out, min((at for at in bad if at >= 0), default=-1)


def _contiguous(values: np.ndarray, threads: int) -> np.ndarray:
    """Return an array in C order: itself or a copy, which is made in parts."""
    if values.flags.c_contiguous or values.size <= SLICE:
        return np.ascontiguousarray(values)
    copy = np.empty(values.shape, values.dtype)
    axis = int(np.argmax(values.shape))
    source, target = np.moveaxis(values, axis, 0), np.moveaxis(copy, axis, 0)

    def fill(span: tuple[int, int]) -> None:
        target[slice(*span)] = source[slice(*span)]

    _threads.run(fill, _threads.spans(len(source), -(-values.size // SLICE)), threads)
    return copy


_SAME = {bits: numbers for numbers, bits in FORMATS.values()}
"""Of each format's bits, the numbers that need no conversion."""


def _integers_as_float64(values: np.ndarray) -> npt.NDArray[np.float64]:
    """Convert integers so that rounding the result rounds them as if at once: long ones keep a sticky last bit."""
    wide = values.astype(np.float64)
    if values.dtype.itemsize == 8:
        long = (values > 2**53) | (values < -(2**53)) if values.dtype.kind == "i" else values > 2**53
        kept = values[long] >> 11
        sticky = (kept << 11) != values[long]
        wide[long] = (kept | sticky.astype(values.dtype)).astype(np.float64) * 2048.0
    return wide


@compiled
def _round_into(address, like, out, first, last):
    """Round elements [first, last) of what lies at `address`, float32 or float64 as `like`.

    Returns the first that is not finite, or -1.
    """
    values = pointer(address, like)
    bad = np.int64(-1)
    for i in range(first, last):
        value = _wide64(values[i])
        if abs(value) < np.inf:
            _store(value, out, i)
            if not finite(out[i]) and bad < 0:
                bad = i
        elif bad < 0:
            bad = i
    return bad


@compiled
def _copy_into(address, like, out, first, last):
    """Like `_round_into`, from the format of `out` itself."""
    values = pointer(address, like)
    for i in range(first, last):
        out[i] = values[i]
    for i in range(first, last):
        if not finite(out[i]):
            return i
    return np.int64(-1)


def measure(vectors: np.ndarray, threads: int, advance: Advance = ignore) -> tuple[npt.NDArray[np.float32], float]:
    """Bound the norms of stored vectors (spaces, n, d), rounded up; returns them (spaces, n) and the common grain.

    The grain is a power of two of which every component is a multiple, infinite where all are zero.
    """
    spaces, rows, dim = vectors.shape
    norms = np.empty((spaces, rows), np.float32)
    spans = _threads.spans(rows, -(-rows * dim // SLICE)) if rows else []
    tasks = [(space, span) for space in range(spaces) for span in spans]

    def fill(task: tuple[int, tuple[int, int]]) -> float:
        space, (first, last) = task
        grain: float = measure_rows(vectors[space], norms[space], first, last)
        advance((last - first) * dim)
        return grain

    grains = _threads.run(fill, tasks, threads) if tasks else []
    return norms, min(grains, default=np.inf)


@compiled
def measure_rows(vectors, norms, first, last):
    """Bound the norms of rows [first, last) of (n, d) vectors; returns their grain."""
    dim = vectors.shape[1]
    lowest = np.int32(1000)
    for i in range(first, last):
        total = 0.0
        for j in range(dim):
            value = exact64(widen(vectors[i, j]))
            total += value * value
            lowest = min(lowest, lowest_exponent(widen(vectors[i, j])))
        norms[i] = round_up32(norm_bound(total, dim))
    return grain_of(lowest)
