"""Groups: a ball tree of two levels, over rows that lie close together: balls around each 1,024, each 16 and each one.

Each ball is coded around the centre of the ball above it, so that codes get finer as balls get smaller. On the way down
a direction's threshold is moved from centre to centre, by s a (A c) and, for safety, by s k.
"""

import numpy as np
import numpy.typing as npt

from halfspace.cpu.codes import blank, mean, put_ball, put_rows, widen_centre
from halfspace.cpu.filters import FilterCode
from halfspace.cpu.filters.group_tests import prepare_groups, search_groups
from halfspace.cpu.filters.records import groups_record
from halfspace.cpu.formats import SLICE
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled
from halfspace.model.filters.groups import Groups
from halfspace.model.layout import BLOCK, CHUNK
from halfspace.runtime.progress import Advance, ignore

__all__ = ["CODE", "enclose_groups"]


def enclose_groups(
    vectors: np.ndarray, threads: int, centre: npt.NDArray[np.float32] | None = None, advance: Advance = ignore
) -> Groups:
    """Put balls around rows of stored vectors (spaces, n, d) that follow one another: each 1,024, each 16 and each one.

    They are coded around `centre` (spaces, d) or the mean of their space. Time O(n d); the result does not depend on
    the number of threads. `advance` counts each component three times, once a level.
    """
    spaces, rows, dim = vectors.shape
    middle = mean(vectors, threads) if centre is None else centre
    levels = [blank(spaces, -(-rows // size), dim) for size in (1, BLOCK, CHUNK)]
    cells, groups, chunks = (
        [(level.codes[space], level.scales[space], level.radii[space]) for space in range(spaces)] for level in levels
    )
    middles, extents = np.empty((spaces, -(-rows // CHUNK), dim)), np.empty((spaces, -(-rows // CHUNK)))

    def encode_chunks(space: int, first: int, last: int) -> None:
        _encode_chunks(vectors[space], middle[space], *chunks[space], middles[space], extents[space], first, last)
        advance((last - first) * dim)

    def encode_groups(space: int, first: int, last: int) -> None:
        above = middles[space], extents[space]
        _encode_groups(vectors[space], *above, *groups[space], *cells[space], first, last)
        advance(2 * (last - first) * dim)

    for encode, step in ((encode_chunks, CHUNK), (encode_groups, BLOCK)):
        spans = _threads.spans(rows, -(-rows * dim // SLICE), step)
        tasks = [(space, *span) for space in range(spaces) for span in spans]
        _threads.run(lambda task: encode(*task), tasks, threads)  # noqa: B023
    return Groups(middle, *levels)


@compiled
def _encode_chunks(vectors, centre, codes, scales, radii, middles, extents, first, last):
    """Encode whole chunks, of rows [first, last), as balls; middles (chunks, d) and extents (chunks,) are filled."""
    base = widen_centre(centre)
    for start in range(first, last, CHUNK):
        chunk, end = start // CHUNK, min(start + CHUNK, last)
        extents[chunk] = put_ball(vectors, None, 0, base, 0.0, codes, scales, radii, chunk, start, end, middles[chunk])


@compiled
def _encode_groups(
    vectors, middles, extents, group_codes, group_scales, group_radii, codes, scales, radii, first, last
):
    """Encode rows [first, last), whole groups but for the last, into balls around balls in those of their chunks."""
    of_group = np.empty(middles.shape[1])
    row = np.empty(of_group.size)
    for start in range(first, last, BLOCK):
        chunk, group, end = start // CHUNK, start // BLOCK, min(start + BLOCK, last)
        extent = put_ball(
            vectors, None, 0, middles[chunk], extents[chunk], group_codes, group_scales, group_radii, group, start, end,
            of_group,
        )  # fmt: skip
        put_rows(vectors, of_group, extent, codes, scales, radii, start, end, row)


CODE = FilterCode("groups", describe=groups_record, search=search_groups, prepare=prepare_groups, needs_digits=True)
