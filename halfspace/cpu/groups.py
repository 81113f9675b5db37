"""Groups: rows that lie close together follow one another, with a ball around each 1,024 of them, each 16 and each one.

Each ball is coded around the centre of the ball above it, so that codes get finer as balls get smaller. On the way down
a direction's threshold is moved from centre to centre, by s a (A c) and, for safety, by s k.
"""

import numpy as np
import numpy.typing as npt

from halfspace.cpu import _threads
from halfspace.cpu._jit import entry
from halfspace.cpu._simd import BLOCK
from halfspace.cpu.codes import CHUNK, blank, mean, put_ball, put_rows, widen_centre
from halfspace.cpu.formats import SLICE
from halfspace.segment import Groups

__all__ = ["enclose_groups"]


def enclose_groups(vectors: np.ndarray, threads: int, centre: npt.NDArray[np.float32] | None = None) -> Groups:
    """Put balls around rows of stored vectors (spaces, n, d) that follow one another: each 1,024, each 16 and each one.

    They are coded around `centre` (spaces, d) or the mean of their space. Time O(n d); the result does not depend on
    the number of threads.
    """
    spaces, rows, dim = vectors.shape
    spans = _threads.spans(rows, -(-rows * dim // SLICE), CHUNK)
    middle = mean(vectors, threads) if centre is None else centre
    levels = [blank(spaces, -(-rows // size), dim) for size in (1, BLOCK, CHUNK)]
    for space in range(spaces):
        x, base = vectors[space], middle[space]
        places = [part[space] for level in levels for part in (level.codes, level.scales, level.radii)]
        _threads.run(lambda span: _encode(x, base, *places, *span), spans, threads)  # noqa: B023
    return Groups(middle, *levels)


@entry
def _encode(
    vectors, centre, codes, scales, radii, group_codes, group_scales, group_radii, chunk_codes, chunk_scales,
    chunk_radii, first, last,
):  # fmt: skip
    """Encode rows [first, last), whole chunks but for the last, into balls around balls around balls."""
    base = widen_centre(centre)
    of_chunk = np.empty(base.size)
    of_group = np.empty(base.size)
    row = np.empty(base.size)
    for chunk in range(first, last, CHUNK):
        end = min(chunk + CHUNK, last)
        number = chunk // CHUNK
        wide = put_ball(
            vectors, None, 0, base, 0.0, chunk_codes, chunk_scales, chunk_radii, number, chunk, end, of_chunk
        )
        for group in range(chunk, end, BLOCK):
            stop = min(group + BLOCK, end)
            number = group // BLOCK
            extent = put_ball(
                vectors, None, 0, of_chunk, wide, group_codes, group_scales, group_radii, number, group, stop, of_group
            )
            put_rows(vectors, of_group, extent, codes, scales, radii, group, stop, row)
