"""Balls: each subspace has its own partition of the rows into small groups, and a ball around each group.

See `halfspace.cpu.filters.balls`.
"""

from typing import Any

import cupy as cp
import numpy as np
import numpy.typing as npt

from halfspace.gpu.codes import blank, mean, put_balls, widen_centre
from halfspace.gpu.partition import partition
from halfspace.model.filters.balls import Balls
from halfspace.model.layout import Codes
from halfspace.runtime.progress import Advance, ignore

__all__ = ["enclose"]


def enclose(
    vectors: Any,
    columns: npt.NDArray[np.int64],
    size: int,
    threads: int,
    advance: Advance = ignore,
    like: Balls | None = None,
) -> Balls:
    """Partition stored vectors (spaces, n, d) into groups of `size` in each subspace, and put balls around them.

    columns : (S + 1,), on the host, where subspaces begin and end
    like : balls whose partition and centre are taken over
    advance : told of each component twice: of those that `partition` tells of, and of those in balls
    """
    spaces, rows, _ = vectors.shape
    subspaces, groups = columns.size - 1, -(-rows // size)
    if like is None:
        members = cp.stack([partition(x, columns, size, threads, advance) for x in vectors])
        centre = mean(vectors, threads)
    else:
        members, centre = like.members, like.centre
        advance(vectors.size)
    holders = cp.empty_like(members)
    codes = blank(spaces * subspaces, groups, int(np.diff(columns).max()))
    bases, nothing = widen_centre(centre), cp.zeros((1, 1), np.float64)
    for space in range(spaces):
        for part, (low, high) in enumerate(zip(columns[:-1].tolist(), columns[1:].tolist(), strict=True)):
            at = slice(space * subspaces + part, space * subspaces + part + 1)
            place = Codes(codes.codes[at], codes.scales[at], codes.radii[at])
            lists = members[space, part : part + 1], holders[space, part : part + 1]
            base = cp.ascontiguousarray(bases[space, None, None, low:high])
            put_balls(vectors[space : space + 1], *lists, low, size, base, nothing, groups, place)
            advance(rows * (high - low))
    return Balls(columns, size, centre, codes, members, holders)
