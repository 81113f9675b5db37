"""Groups: a ball tree of two levels, over rows that lie close together: balls around each 1,024, each 16 and each one.

Each ball is coded around the centre of the ball above it, so that codes get finer as balls get smaller. On the way down
a direction's threshold is moved from centre to centre, by s a (A c) and, for safety, by s k.
"""

from operator import itemgetter

import numpy as np
import numpy.typing as npt

from halfspace.cpu.codes import mean, put_ball, put_rows, widen_centre
from halfspace.cpu.filters import FilterCode
from halfspace.cpu.filters.lengths import fill_cosine, fill_distances
from halfspace.cpu.filters.records import groups_record
from halfspace.cpu.filters.tree import prepare_groups, search_groups
from halfspace.cpu.formats import SLICE
from halfspace.cpu.runtime import jit as _jit
from halfspace.cpu.runtime import threads as _threads
from halfspace.cpu.runtime.jit import compiled
from halfspace.model.filters.groups import LEVELS, Groups
from halfspace.model.layout import BLOCK, CHUNK, Codes, chunks_of
from halfspace.model.metrics import Metric
from halfspace.runtime.progress import Advance, ignore

__all__ = ["CODE", "enclose_groups"]


def enclose_groups(
    vectors: np.ndarray,
    norms: npt.NDArray[np.float32],
    threads: int,
    centre: npt.NDArray[np.float32] | None = None,
    advance: Advance = ignore,
    metric: Metric = Metric.IP,
) -> Groups:
    """Put balls around rows of stored vectors (spaces, n, d) that follow one another: each 1,024, each 16 and each one.

    They are coded around `centre` (spaces, d) or the mean of their space. Time O(n d); the result does not depend on
    the number of threads. `advance` counts each component three times, once a level.
    """
    spaces, rows, dim = vectors.shape
    middle = mean(vectors, threads) if centre is None else centre
    zeros = _jit.zeros
    levels = {
        name: Codes.blank(zeros, Codes.shapes(spaces, -(-rows // size), dim, metric)) for name, size in LEVELS.items()
    }
    cells, groups, chunks = (
        [(level.codes[space], level.scales[space], level.radii[space]) for space in range(spaces)]
        for level in levels.values()
    )
    middles, extents = np.empty((spaces, chunks_of(rows), dim)), np.empty((spaces, chunks_of(rows)))

    def encode_chunks(space: int, first: int, last: int) -> None:
        _encode_chunks(vectors[space], middle[space], chunks[space], (middles[space], extents[space]), (first, last))
        advance((last - first) * dim)

    def encode_groups(space: int, first: int, last: int) -> None:
        above = middles[space], extents[space]
        _encode_groups(vectors[space], above, groups[space], cells[space], (first, last))
        advance(2 * (last - first) * dim)

    for encode, step in ((encode_chunks, CHUNK), (encode_groups, BLOCK)):
        spans = _threads.spans(rows, -(-rows * dim // SLICE), step)
        tasks = [(space, *span) for space in range(spaces) for span in spans]
        _threads.run(lambda task: encode(*task), tasks, threads)  # noqa: B023
    slack = None if metric == Metric.IP else _fill_lengths(levels, norms, middle, threads, metric)
    return Groups(middle, **levels, slack=slack)


def _fill_lengths(
    levels: dict[str, Codes],
    norms: npt.NDArray[np.float32],
    centre: npt.NDArray[np.float32],
    threads: int,
    metric: Metric,
) -> npt.NDArray[np.float64]:
    """Fill in the lengths of all balls; returns how much they may lack, (spaces,)."""
    spaces, rows = norms.shape
    slack = np.zeros(spaces)
    for space in range(spaces):
        own = {name: level.moved(itemgetter(slice(space, space + 1))) for name, level in levels.items()}
        if metric == Metric.COSINE:
            slack[space] = fill_cosine(norms[space], own, LEVELS)
            continue
        cells, groups, chunks = (
            (level.codes[0], level.scales[0], level.radii[0], np.asarray(level.lengths)[0]) for level in own.values()
        )

        def fill(span: tuple[int, int]) -> float:
            lack: float = fill_distances(centre[space], chunks, groups, cells, rows, span)  # noqa: B023
            return lack

        spans = _threads.spans(rows, -(-rows * centre.shape[1] // SLICE), CHUNK)
        slack[space] = max(_threads.run(fill, spans, threads))
    return slack


@compiled
def _encode_chunks(vectors, centre, places, made, span):
    """Encode whole chunks, of rows [first, last), as balls.

    places : codes, scales, radii of chunks; made : get their centres (chunks, d) and extents (chunks,)
    """
    middles, extents = made
    around = widen_centre(centre), 0.0
    first, last = span
    for start in range(first, last, CHUNK):
        chunk, own = start // CHUNK, (start, min(start + CHUNK, last))
        extents[chunk] = put_ball(vectors, None, 0, around, places, chunk, own, middles[chunk])


@compiled
def _encode_groups(vectors, above, groups, cells, span):
    """Encode rows [first, last), whole groups but for the last, into balls around balls in those of their chunks.

    above : centres (chunks, d) and extents (chunks,); groups, cells : codes, scales, radii
    """
    middles, extents = above
    first, last = span
    of_group = np.empty(middles.shape[1])
    row = np.empty(of_group.size)
    for start in range(first, last, BLOCK):
        chunk, own = start // CHUNK, (start, min(start + BLOCK, last))
        around = middles[chunk], extents[chunk]
        extent = put_ball(vectors, None, 0, around, groups, start // BLOCK, own, of_group)
        put_rows(vectors, (of_group, extent), cells, own, row)


CODE = FilterCode(
    "groups",
    describe=groups_record,
    search=search_groups,
    prepare=prepare_groups,
    needs_digits=True,
    sources=(__file__,),
)
