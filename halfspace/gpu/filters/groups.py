"""Groups: rows that lie close together follow one another, with a ball around each 1,024 of them, each 16 and each one.

See `halfspace.cpu.filters.groups`.
"""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.codes import blank, mean, put_balls, put_rows, widen_centre
from halfspace.model.filters.groups import Groups
from halfspace.model.layout import BLOCK, CHUNK, TILE
from halfspace.runtime.progress import Advance, ignore

__all__ = ["enclose_groups"]


def enclose_groups(vectors: Any, threads: int, centre: Any = None, advance: Advance = ignore) -> Groups:
    """Put balls around rows of stored vectors (spaces, n, d) that follow one another: each 1,024, each 16 and each one.

    They are coded around `centre` (spaces, d) or the mean of their space. Time O(n d); nothing waits for the GPU.
    `advance` counts each component three times, once a level, as they are launched.
    """
    spaces, rows, dim = vectors.shape
    middle = mean(vectors, threads) if centre is None else centre
    cells, groups, chunks = (blank(spaces, -(-rows // size), dim) for size in (1, BLOCK, CHUNK))
    base = widen_centre(middle)[:, None]
    nothing = cp.zeros((spaces, 1), np.float64)
    of_chunks = put_balls(vectors, None, None, 0, CHUNK, base, nothing, max(1, -(-rows // CHUNK)), chunks)
    advance(vectors.size)
    of_groups = put_balls(vectors, None, None, 0, BLOCK, *of_chunks, TILE, groups)
    put_rows(vectors, *of_groups, BLOCK, cells)
    advance(2 * vectors.size)
    return Groups(middle, cells, groups, chunks)
