"""Lengths of rows and of balls, which lift the thresholds of cosines and distances: `halfspace.model.metrics`."""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.codes import widen_centre
from halfspace.cpu.formats import exact64, round_down32, widen
from halfspace.cpu.rounding import ball_doubt, half_square, norm_bound
from halfspace.cpu.runtime.jit import blank, compiled, inlined
from halfspace.model.layout import BLOCK, CHUNK, Codes
from halfspace.model.metrics import Metric

__all__ = ["fill_cosine", "fill_distances", "row_lengths"]

MOST = np.finfo(np.float32).max


def row_lengths(
    vectors: np.ndarray,
    norms: npt.NDArray[np.float32],
    centre: npt.NDArray[np.float32],
    lengths: npt.NDArray[np.float32],
    span: tuple[int, int],
    metric: Metric,
) -> None:
    """Fill in the lengths of rows [*span) of stored vectors (n, d), for cells."""
    if metric == Metric.L2:
        _half_squares(vectors, centre, lengths, *span)
    else:
        lengths[slice(*span)] = np.minimum(norms[slice(*span)], MOST)


@compiled
def _half_squares(vectors, centre, lengths, first, last):
    dim = centre.size
    base = widen_centre(centre)
    for i in range(first, last):
        total = 0.0
        for j in range(dim):
            offset = exact64(widen(vectors[i, j])) - base[j]
            total += offset * offset
        lengths[i] = round_down32(half_square(total, dim))


def fill_cosine(norms: npt.NDArray[np.float32], levels: dict[str, Codes], sizes: dict[str, int]) -> float:
    """Fill in the least norm of each ball of one space; returns how much lengths may lack: 0, or infinity."""
    own = np.minimum(norms, MOST)
    for name, level in levels.items():
        assert level.lengths is not None
        least = np.minimum.reduceat(own, np.arange(0, own.size, sizes[name]))
        level.lengths[0, : least.size] = least
    return np.inf if bool(np.isinf(norms).any()) else 0.0


@inlined
def _decode(level, ball, base, point):
    """Compute the centre that the code of a ball stands for, as `halfspace.cpu.codes.put` has done."""
    codes, scales = level[0], level[1]
    block, lane, wide = codes[ball // BLOCK], ball % BLOCK, np.float64(scales[ball])
    for j in range(point.size):
        code = np.float64(block[j // 4, lane, j % 4]) - 128.0
        point[j] = base[j] + wide * code


@inlined
def _measure(level, ball, point, centre, extent):
    """Fill in the length of a ball around a point.

    extent : sum of the norms of the computed centres that it was coded around

    Returns how much the length may lack, and the norm of the point.
    """
    dim = point.size
    total, own = 0.0, 0.0
    for j in range(dim):
        offset = point[j] - centre[j]
        total += offset * offset
        own += point[j] * point[j]
    norm, radius = norm_bound(own, dim), np.float64(level[2][ball])
    doubt = ball_doubt(norm_bound(total, dim), radius, extent + norm, dim)
    length = 0.5 * (total - radius * radius)
    level[3][ball] = round_down32(length - doubt)
    return (length + doubt - np.float64(level[3][ball])) * (1.0 + 2.0**-40), norm


@compiled
def fill_distances(centre, chunks, groups, rows, count, span):
    """Fill in the lengths of the balls of whole chunks, of rows [*span) among `count`, and of all balls in them.

    centre : float32 (d,); chunks, groups, rows : codes, scales, radii and lengths of each level

    Returns how much a length may lack.
    """
    first, last = span
    dim = centre.size
    base = widen_centre(centre)
    of_chunk, of_group, of_row = blank(dim, np.float64), blank(dim, np.float64), blank(dim, np.float64)
    lack = 0.0
    for start in range(first, last, CHUNK):
        chunk = start // CHUNK
        _decode(chunks, chunk, base, of_chunk)
        own, extent = _measure(chunks, chunk, of_chunk, base, 0.0)
        lack = max(lack, own)
        for begin in range(start, min(start + CHUNK, count), BLOCK):
            group = begin // BLOCK
            _decode(groups, group, of_chunk, of_group)
            own, more = _measure(groups, group, of_group, base, extent)
            lack = max(lack, own)
            for row in range(begin, min(begin + BLOCK, count)):
                _decode(rows, row, of_group, of_row)
                lack = max(lack, _measure(rows, row, of_row, base, extent + more)[0])
    return lack
