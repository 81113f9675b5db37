"""Principal axes (PCA): the part of each vector along them, coded in 4 bits, and the length of what lies beyond.

Where most of the vectors' spread lies along a few axes P, and tau is high, these bytes alone rule most vectors out:

    <q, x - m>  <=  <p, z> + |p| |z - its code| + |g| |what of x - m is beyond the axes|,    p = P q,  g = q - P' p

with z the part of x - m along the axes. The bound is tested after half of them, and again after all. Cauchy-Schwarz
needs no orthogonality; how far P is from it is measured, and added. See `halfspace.model.rounding.axes_error`.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.formats import exact64, round_up16, widen, widen16
from halfspace.cpu.rounding import axes_error, axes_rest, norm_bound
from halfspace.cpu.runtime import jit as _jit
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import bits_of, compiled, float64_of, hold, pointer
from halfspace.cpu.runtime.lanes import along_axes
from halfspace.model.filters.cells import AXES_STEP, Axes
from halfspace.model.layout import BLOCK, LOW_MIDDLE, TILE
from halfspace.model.rounding import axes_spread
from halfspace.runtime.interrupts import undisturbed
from halfspace.runtime.progress import Advance, ignore

__all__ = ["Basis", "blank", "choose", "encode", "measured"]

SHARE = 4
"""One axis for so many dimensions."""
DIMS = (256, 1536)
"""Dimensions between which axes are worth their bytes and their time."""
ROWS = 16
"""Rows for each dimension that make axes worth their time."""
MOST_LEFT = 0.4
"""Axes are kept if at most this share of the squared spread lies beyond them."""
PRODUCTS = 1 << 27
"""Multiplications that are done as one task."""
SUMMED, AT_ONCE, TOGETHER = 64, 1 << 11, 128
"""Rows of a sample whose products are summed in float32, and those that are multiplied before others are read.

And columns of the former that are multiplied with all others while they are in the nearest cache.
"""


class Basis(NamedTuple):
    """Axes, and what is derived of them."""

    axes: npt.NDArray[np.float32]  # (spaces, h, d), about orthonormal
    weights: npt.NDArray[np.float32]  # (spaces, h), of 8 significant bits
    spread: npt.NDArray[np.float64]  # (spaces,)


def choose(sample: npt.NDArray[np.float32], rows: int, threads: int) -> Basis | None:
    """Find the axes of offsets (spaces, k, d) from the centre, if they are worth it for so many rows.

    The offsets are changed.
    """
    spaces, _, dim = sample.shape
    if not DIMS[0] <= dim <= DIMS[1] or rows < ROWS * dim:
        return None
    count = dim // SHARE // AXES_STEP * AXES_STEP
    found = np.empty((spaces, count, dim), np.float32)
    weights = np.empty((spaces, count), np.float32)
    for space, part in enumerate(sample):
        largest = max(float(part.max()), -float(part.min()))
        if not 0.0 < largest < np.inf:
            return None
        unit = np.divide(part, np.float32(largest), out=part)  # so that no square overflows
        products = _products(unit, threads) / len(unit)
        spreads, vectors = undisturbed(_largest, products, count)
        spreads = np.maximum(spreads, 0.0)
        if not float(np.trace(products)) - spreads.sum() <= MOST_LEFT * np.trace(products) or not spreads[-1] > 0.0:
            return None
        found[space] = vectors[:, ::-1].T
        weights[space] = np.sqrt(spreads[::-1] / spreads[-1])
    return measured(found, (np.maximum(weights, 2.0**-16).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32))


def _largest(products: npt.NDArray[np.float64], count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the largest eigenvalues (count,), ascending, of a symmetric matrix (d, d), and their vectors (d, count).

    On one thread of SciPy's BLAS: its others spin after each call, for ten times what they save. That setting is the
    process's, so this is called `undisturbed`: no interrupt and no other call comes before it is changed back.
    """
    from scipy.linalg import eigh  # takes long to import
    from threadpoolctl import ThreadpoolController

    dim = len(products)
    libraries = ThreadpoolController()
    own = [library.filepath for library in libraries.lib_controllers if "scipy" in library.filepath]
    with libraries.select(filepath=own).limit(limits=1, user_api="blas"):
        spreads, vectors = eigh(products, subset_by_index=(dim - count, dim - 1), driver="evr")
    return spreads, vectors


def _products(rows: npt.NDArray[np.float32], threads: int) -> npt.NDArray[np.float64]:
    """Sum the products of each two columns of rows (k, d), into the lower triangle of (d, d).

    In an order of its own, whatever the number of threads. A BLAS would be told apart by them, and its own would spin.
    """
    count, dim = rows.shape
    sums = np.zeros((dim, dim))
    for low in range(0, count, AT_ONCE):
        own = rows[low : low + AT_ONCE]
        if len(own) % SUMMED:
            own = np.concatenate([own, np.zeros((-len(own) % SUMMED, dim), np.float32)])
        spans = _threads.spans(dim, -(-own.size * dim // PRODUCTS))
        _threads.run(lambda span: _multiply(own, sums, *span), spans, threads)  # noqa: B023
    return sums


@compiled
def _multiply(rows, sums, first, last):
    """Sum the products of columns [first, last) of rows (k, d) with themselves and all before them.

    k is a multiple of `SUMMED`.
    """
    dim = rows.shape[1]
    part = np.empty(TOGETHER, np.float32)
    for start in range(0, rows.shape[0], SUMMED):
        for low in range(0, last, TOGETHER):
            for i in range(max(first, low), last):
                count = min(i + 1 - low, TOGETHER)
                whole = min((count + 15) // 16 * 16, dim - low)  # as many as registers take
                part[:] = np.float32(0.0)
                for at in range(start, start + SUMMED, 8):
                    a, b, c, e = rows[at, i], rows[at + 1, i], rows[at + 2, i], rows[at + 3, i]
                    f, g, h, k = rows[at + 4, i], rows[at + 5, i], rows[at + 6, i], rows[at + 7, i]
                    one = pointer(rows.ctypes.data + 4 * (at * dim + low), np.float32)
                    five = pointer(rows.ctypes.data + 4 * ((at + 4) * dim + low), np.float32)
                    for j in range(whole):  # from 0: an index that might be negative is not vectorised
                        part[j] += ((a * one[j] + b * one[dim + j]) + (c * one[2 * dim + j] + e * one[3 * dim + j])) + (
                            (f * five[j] + g * five[dim + j]) + (h * five[2 * dim + j] + k * five[3 * dim + j])
                        )
                for j in range(count):
                    sums[i, low + j] += np.float64(part[j])


def measured(axes: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> Basis:
    """Bound how far axes (spaces, h, d) are from orthonormal."""
    _, count, dim = axes.shape
    spread = []
    for part in axes.astype(np.float64):
        products = np.stack([np.einsum("kj,j->k", part, axis) for axis in part])  # not by BLAS, whose threads spin
        defect = float(np.sqrt(np.square(products - np.eye(count)).sum())) + count * dim * 2.0**-50
        spread.append(axes_spread(1.01 * defect, count, dim))
    return Basis(axes, weights, np.ceil(np.array(spread) * 2.0**24) * 2.0**-24)  # the same whoever sums


def blank(basis: Basis, rows: int) -> Axes:
    """Make room for so many rows."""
    spaces, count, dim = basis.axes.shape
    return Axes.blank(_jit.zeros, Axes.shapes(spaces, rows, dim, count), **basis._asdict())


def encode(
    vectors: np.ndarray,
    centre: npt.NDArray[np.float32],
    axes: Axes,
    space: int,
    threads: int,
    advance: Advance = ignore,
) -> None:
    """Fill in the axes' codes of one space's stored vectors (n, d)."""
    rows, dim = vectors.shape
    count = axes.axes.shape[1]
    columns = np.ascontiguousarray(axes.axes[space].T)
    frame = centre, columns, axes.weights[space]
    places = tuple(part[space] for part in (axes.codes, axes.scales, axes.radii, axes.rests))
    spread = float(axes.spread[space])

    def fill(span: tuple[int, int]) -> None:
        _encode(vectors, frame, places, spread, span)
        advance((span[1] - span[0]) * dim)

    _threads.run(fill, _threads.spans(rows, -(-rows * count * dim // PRODUCTS), TILE), threads)


@compiled
def _encode(vectors, frame, places, spread, span):
    """Encode rows [first, last) of (n, d) vectors.

    frame : centre (d,), columns (d, h), which are the axes, one after another, and weights (h,)
    places : codes, scales, radii, rests of the axes
    """
    centre, columns, weights = frame
    codes, scales, radii, rests = places
    first, last = span
    dim, count = columns.shape
    half = count // 2
    eight = 8  # rows whose parts are computed at once
    offsets = np.zeros((eight, dim), np.float32)
    lengths = np.empty(eight)
    parts = np.empty((eight, count), np.float32)
    code = np.empty(count, np.int64)
    quotients, squares, errors = np.empty(count), np.empty(count), np.empty(count)
    for start in range(first, last, eight):
        stop = min(start + eight, last)
        for i in range(start, stop):
            total = 0.0
            for j in range(dim):
                offset = exact64(widen(vectors[i, j])) - exact64(centre[j])
                offsets[i - start, j] = np.float32(offset)
                total += offset * offset
            lengths[i - start] = norm_bound(total, dim)
        # every sum in order of dimensions, whatever the processor: files are verified by it
        along_axes(offsets.ctypes.data, columns.ctypes.data, dim, count, parts.ctypes.data)
        for i in range(start, stop):
            own = parts[i - start]
            largest = np.int64(0)  # as bits, which order magnitudes as they do integers: that vectorises
            for k in range(count):
                quotients[k] = np.float64(own[k]) / np.float64(weights[k])
                largest = max(largest, bits_of(abs(quotients[k])))
            scales[i] = round_up16(float64_of(largest) / LOW_MIDDLE)
            scale = widen16(scales[i])
            step = 1.0 / scale if scale > 0.0 else 0.0
            slack = axes_error(lengths[i - start], spread)
            for k in range(count):
                value, unit = np.float64(own[k]), np.float64(weights[k]) * scale
                code[k] = min(max(np.int64(np.floor(quotients[k] * step)) + 8, 0), 15)
                rest = value - unit * (np.float64(code[k]) - LOW_MIDDLE)
                squares[k], errors[k] = value * value, rest * rest
            along, error = 0.0, 0.0
            for part in range(2):
                for k in range(part * half, count if part else half):
                    along += squares[k]
                    error += errors[k]
                radii[part, i] = round_up16(norm_bound(error, count) + slack)
                left = axes_rest(lengths[i - start], np.sqrt(along), spread)
                rests[part, i] = round_up16(left * (1.0 + 2.0**-40) + slack)
            block, lane = i // BLOCK, i % BLOCK
            for part in range(2):
                for word in range(half // 8):
                    for b in range(4):
                        at = part * half + 8 * word + b
                        codes[part, block, word, lane, b] = code[at] | (code[at + 4] << 4)
    hold(offsets)
    hold(parts)
