"""Cells, which are scalar quantization: every vector is a ball of its own, whose centre lies on a lattice.

    x = m + s W c + rest,   |rest| <= r,   c in {-127..127}^d

with a centre m and weights W for a segment, and a scale s and a radius r for each vector. Weights follow the spread of
each dimension, so that no dimension takes the range of the others. The code of a component is cut into two halves of 4
bits: the high ones make a coarser cell of half the bytes, with a radius of its own, and are tested first.

For a direction q, W q = a A + (what its own coding costs), so

    <q, x>  <=  <q, m> + s a (A c) + s k + |q| r

with k from `halfspace.model.rounding.reach`; A c = 16 (A high) + (A low) is an integer.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.cpu.codes import mean
from halfspace.cpu.filters import FilterCode, axes
from halfspace.cpu.filters.lengths import row_lengths
from halfspace.cpu.filters.multiply import search_cells
from halfspace.cpu.filters.prepared import share
from halfspace.cpu.filters.records import cells_record
from halfspace.cpu.filters.views import look
from halfspace.cpu.formats import SLICE, exact64, round_up16, widen, widen16
from halfspace.cpu.rounding import norm_bound, residual_bound
from halfspace.cpu.runtime import jit as _jit
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import bits_of, blank, cleared, compiled, float64_of, hold, pointer
from halfspace.model.filters.cells import Cells
from halfspace.model.formats import as_numbers
from halfspace.model.layout import BLOCK, CHUNK, HIGH_MIDDLE, LARGEST_CODE, MODERATE, TILE
from halfspace.model.metrics import Metric
from halfspace.runtime.progress import Advance, ignore

__all__ = ["CODE", "choose_frame", "encode", "encode_rows"]

FLATTEN = 0.75
"""Weights are spreads to this power: the codes of a dimension get coarser with its spread, but less than that."""
LEAST_WEIGHT = 2.0**-16
SPREAD_ROWS = 1 << 14
"""Rows from which spreads and axes are estimated."""
LOW_HALVES, HIGH_HALVES = np.uint32(0x0F0F0F0F), np.uint32(0xF0F0F0F0)
"""Of four codes of 8 bits in a word."""
TWICE_HIGH_MIDDLE = int(2 * HIGH_MIDDLE)
LEAST_NORM = 2.0**-40
"""If the largest norm of a segment is below this, or above `MODERATE`, all weights are 1 and there are no axes."""


class _Frame(NamedTuple):
    """What the cells of a segment are coded in."""

    centre: npt.NDArray[np.float32]  # (spaces, d)
    weights: npt.NDArray[np.float32]  # (spaces, d)
    axes: axes.Basis | None


def _frame_of(cells: Cells) -> _Frame:
    basis = None if cells.axes is None else axes.measured(cells.axes.axes, cells.axes.weights)
    return _Frame(cells.centre, cells.weights, basis)


def _choose(vectors: np.ndarray, norms: npt.NDArray[np.float32], threads: int) -> _Frame:
    """Choose centre, weights and axes for stored vectors (spaces, n, d)."""
    centre, weights, sample = choose_frame(vectors, norms, threads)
    return _Frame(centre, weights, None if sample is None else axes.choose(sample, vectors.shape[1], threads))


def choose_frame(
    vectors: np.ndarray, norms: npt.NDArray[np.float32], threads: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Choose centre and weights (spaces, d) for stored vectors (spaces, n, d).

    Returns them, and the offsets (spaces, k, d) of a sample from the centre, or None where norms are not moderate.
    """
    spaces, rows, dim = vectors.shape
    centre = mean(vectors, threads)
    moderate = LEAST_NORM <= float(norms.max()) <= MODERATE
    if not moderate:
        return centre, np.ones((spaces, dim), np.float32), None
    chosen = np.linspace(0, rows - 1, min(rows, SPREAD_ROWS)).astype(np.int64)
    sample = np.empty((spaces, chosen.size, dim), np.float32)

    def gather(task: tuple[int, tuple[int, int]]) -> None:
        space, (low, high) = task
        part = as_numbers(vectors[space, chosen[low:high]]).astype(np.float32, copy=False)
        np.subtract(part, centre[space], out=sample[space, low:high])

    spans = _threads.spans(chosen.size, -(-chosen.size * dim // SLICE))
    _threads.run(gather, [(space, span) for space in range(spaces) for span in spans], threads)
    weights = np.stack([_weigh(_spreads(part, threads)) for part in sample])
    return centre, weights, sample


def _spreads(sample: npt.NDArray[np.float32], threads: int) -> npt.NDArray[np.float64]:
    """Measure the standard deviation of each column of a sample (k, d)."""
    rows, dim = sample.shape
    spreads = np.empty(dim)
    _threads.run(
        lambda span: _deviate(sample, spreads, *span), _threads.spans(dim, -(-rows * dim // SLICE), 16), threads
    )
    return spreads


@compiled
def _deviate(sample, spreads, first, last):
    """Measure the standard deviation of columns [first, last) of a sample (k, d), summed in order of rows."""
    rows, count = sample.shape[0], last - first
    means, squares = cleared(count, np.float64), cleared(count, np.float64)
    for i in range(rows):
        own = sample[i, first:last]
        for j in range(count):
            means[j] += np.float64(own[j])
    for j in range(count):
        means[j] /= rows
    for i in range(rows):
        own = sample[i, first:last]
        for j in range(count):
            offset = np.float64(own[j]) - means[j]
            squares[j] += offset * offset
    for j in range(count):
        spreads[first + j] = np.sqrt(squares[j] / rows)


def _weigh(spreads: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Weights, at most 1 and of 8 significant bits, for dimensions of these spreads."""
    most = float(spreads.max())
    if most == 0.0:
        return np.ones(spreads.size, np.float32)
    weights = np.maximum((spreads / most) ** FLATTEN, LEAST_WEIGHT).astype(np.float32)
    cut: npt.NDArray[np.float32] = (weights.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return cut


def encode(
    vectors: np.ndarray,
    norms: npt.NDArray[np.float32],
    threads: int,
    like: Cells | None = None,
    advance: Advance = ignore,
    metric: Metric = Metric.IP,
) -> Cells:
    """Give every stored vector (spaces, n, d) its cell.

    norms : (spaces, n), upper bounds of the vectors' norms
    like : cells whose centre, weights and axes are taken over
    advance : called with components done, each twice: for its codes, and for axes, even if there are none

    Time O(n d); the result does not depend on the number of threads.
    """
    spaces, rows, dim = vectors.shape
    own = _choose(vectors, norms, threads) if like is None else _frame_of(like)
    cells = Cells.blank(
        _jit.zeros,
        Cells.shapes(spaces, rows, dim, metric),
        centre=own.centre,
        weights=own.weights,
        peaks=np.maximum.reduceat(norms, np.arange(0, rows, CHUNK), axis=1),
        axes=None if own.axes is None else axes.blank(own.axes, rows),
    )
    spans = _threads.spans(rows, -(-rows * dim // SLICE), TILE)
    longest = np.zeros((spaces, len(spans), 2))

    def fill(task: tuple[int, int]) -> None:
        space, at = task
        frame = own.centre[space], own.weights[space]
        places = cells.high[space], cells.low[space], cells.scales[space], cells.radii[space]
        encode_rows(vectors[space], frame, places, longest[task], spans[at])
        if cells.lengths is not None:
            row_lengths(vectors[space], norms[space], frame[0], cells.lengths[space], spans[at], metric)
        advance((spans[at][1] - spans[at][0]) * dim)

    _threads.run(fill, [(space, at) for space in range(spaces) for at in range(len(spans))], threads)
    for space, most in enumerate(longest.max(axis=1)):
        cells.spans[space] = [norm_bound.py_func(float(one), dim) for one in most]
        if cells.axes is None:
            advance(rows * dim)
        else:
            axes.encode(vectors[space], own.centre[space], cells.axes, space, threads, advance)
    return cells


@compiled
def encode_rows(vectors, frame, places, lengths, span):
    """Encode rows [first, last) of (n, d) vectors.

    frame : centre and weights, each (d,); places : high, low, scales, radii of the cells
    lengths : (2,), get the longest squared norms of high and of whole codes, or keep what is larger
    """
    centre, weights = frame
    high, low, scales, radii = places
    first, last = span
    dim = centre.size
    words = high.shape[1]
    base, weight, inverse = blank(dim, np.float64), blank(dim, np.float64), blank(dim, np.float64)
    for j in range(dim):
        base[j] = exact64(centre[j])
        weight[j] = np.float64(weights[j])
        inverse[j] = 1.0 / weight[j]
    offset, fine, coarse = blank(dim, np.float64), blank(dim, np.float64), blank(dim, np.float64)
    code = cleared(8 * words, np.uint8)  # joined in words of four
    fours = pointer(code.ctypes.data, np.uint32)
    upper, lower = pointer(high.ctypes.data, np.uint32), pointer(low.ctypes.data, np.uint32)
    longest_high, longest = lengths[0], lengths[1]
    for i in range(first, last):
        largest = np.int64(0)  # as bits, which order magnitudes as they do integers: that vectorises
        for j in range(dim):
            offset[j] = exact64(widen(vectors[i, j])) - base[j]
            largest = max(largest, bits_of(abs(offset[j]) * inverse[j]))
        scales[i] = round_up16(float64_of(largest) / LARGEST_CODE)
        scale = widen16(scales[i])
        step = 1.0 / scale if 0.0 < scale < np.inf else 0.0
        length, length_high = np.int64(0), np.int64(0)
        for j in range(dim):
            nearest = min(max(np.rint(offset[j] * inverse[j] * step), -LARGEST_CODE), LARGEST_CODE)
            whole = np.int64(nearest)
            code[j] = whole + 128
            middle = np.float64(16 * ((whole + 128) >> 4)) - HIGH_MIDDLE
            error = offset[j] - weight[j] * scale * nearest
            fine[j] = error * error
            error = offset[j] - weight[j] * scale * middle
            coarse[j] = error * error
            length += whole * whole
            twice = 32 * ((whole + 128) >> 4) - TWICE_HIGH_MIDDLE
            length_high += twice * twice
        rest, rest_high = 0.0, 0.0
        for j in range(dim):  # in this order, since files are verified by it
            rest += fine[j]
            rest_high += coarse[j]
        radii[0, i] = round_up16(residual_bound(norm_bound(rest_high, dim), scale, 0.0, dim))
        radii[1, i] = round_up16(residual_bound(norm_bound(rest, dim), scale, 0.0, dim))
        longest = max(longest, np.float64(length))
        longest_high = max(longest_high, 0.25 * np.float64(length_high))
        at = BLOCK * words * (i // BLOCK) + i % BLOCK
        for word in range(words):
            one, other = fours[2 * word], fours[2 * word + 1]
            upper[at + BLOCK * word] = ((one >> np.uint32(4)) & LOW_HALVES) | (other & HIGH_HALVES)
            lower[i * words + word] = (one & LOW_HALVES) | ((other & LOW_HALVES) << np.uint32(4))
    hold(code)
    lengths[0], lengths[1] = longest_high, longest


CODE = FilterCode("cells", describe=cells_record, search=search_cells, prepare=look, share=share, sources=(__file__,))
