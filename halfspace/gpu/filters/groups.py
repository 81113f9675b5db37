"""Groups: rows that lie close together follow one another, with a ball around each 1,024 of them, each 16 and each one.

See `halfspace.cpu.filters.groups`.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import cupy as cp
import numpy as np

from halfspace.gpu.codes import Bases, Members, blank, mean, put_balls, put_rows, widen_centre
from halfspace.gpu.filters import FilterCode
from halfspace.gpu.filters.lengths import fill_cosine, fill_distances
from halfspace.gpu.run import Run
from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import CALL, THREADS, Kind, codes_at
from halfspace.gpu.runtime.tables import Part, Uploaded
from halfspace.model.filters.groups import LEVELS, Groups
from halfspace.model.layout import BLOCK, CHUNK, TILE, chunks_of
from halfspace.model.metrics import Metric
from halfspace.model.segment import Segment, address
from halfspace.runtime.progress import Advance, ignore

__all__ = ["CODE", "enclose_groups"]

_classify_groups = Kernel("filters/groups.cu", "classify_groups", ("call", CALL), ("listed", np.int32))


def enclose_groups(
    vectors: Any,
    norms: Any,
    threads: int,
    centre: Any = None,
    advance: Advance = ignore,
    metric: Metric = Metric.IP,
) -> Groups:
    """Put balls around rows of stored vectors (spaces, n, d) that follow one another: each 1,024, each 16 and each one.

    They are coded around `centre` (spaces, d) or the mean of their space. Time O(n d); nothing waits for the GPU.
    `advance` counts each component three times, once a level, as they are launched.
    """
    spaces, rows, dim = vectors.shape
    middle = mean(vectors, threads) if centre is None else centre
    levels = {name: blank(spaces, -(-rows // size), dim, metric) for name, size in LEVELS.items()}
    cells, groups, chunks = levels.values()
    wide = widen_centre(middle)
    above = Bases(wide[:, None], cp.zeros((spaces, 1), np.float64), max(1, chunks_of(rows)))
    around_groups = Bases(*put_balls(vectors, Members(CHUNK), above, chunks), TILE)
    advance(vectors.size)
    around_rows = Bases(*put_balls(vectors, Members(BLOCK), around_groups, groups), BLOCK)
    put_rows(vectors, around_rows, cells)
    advance(2 * vectors.size)
    slack = None
    if metric == Metric.L2:
        slack = cp.zeros(spaces, np.float64)
        for (name, size), around in zip(LEVELS.items(), (around_rows, around_groups, above), strict=True):
            fill_distances(wide, around, levels[name], -(-rows // size), slack)
    elif metric == Metric.COSINE:
        for name, size in LEVELS.items():
            fill_cosine(norms, levels[name], size)
        slack = cp.where((norms == np.inf).any(axis=1), np.inf, 0.0)
    return Groups(middle, cells, groups, chunks, slack)


def _tabulate(segment: Segment, space: int, record: Any) -> list[object]:
    """Fill in addresses of the groups of one space."""
    groups = cast(Groups, segment.data)
    record["centre"] = address(groups.centre[space])
    for field, codes in (("of_rows", groups.cells), ("of_groups", groups.groups), ("of_chunks", groups.chunks)):
        record[field] = codes_at(codes, space)
    record["slack"] = 0.0 if groups.slack is None else float(groups.slack[space])
    return []


def _launches(run: Run, uploaded: Uploaded, part: Part) -> Iterator[Callable[[], Any]]:
    """Yield what launches the test."""
    grid = part.chunks.size, min(run.count, 65535)
    yield _classify_groups.bind(grid, THREADS, run.call, part.chunks, **run.variant)


CODE = FilterCode(Kind.GROUPS, _launches, _tabulate, passes=True)
