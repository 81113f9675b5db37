"""Cells: every vector is a ball of its own, whose centre lies on a lattice; see `halfspace.cpu.filters.cells`.

Cells made here have no principal axes: a GPU reads both planes of codes faster than it could decide by axes.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import cupy as cp
import numpy as np

from halfspace.gpu.codes import COLUMNS, mean, warps
from halfspace.gpu.filters import FilterCode
from halfspace.gpu.filters.lengths import row_lengths
from halfspace.gpu.formats import BLOCK_ROWS
from halfspace.gpu.run import SLAB, TILED, Run
from halfspace.gpu.runtime.launch import STORED, WARP_GROUPS, Kernel, format_of
from halfspace.gpu.runtime.records import CALL, THREADS, Kind
from halfspace.gpu.runtime.tables import Part, Uploaded
from halfspace.model.filters.cells import Cells
from halfspace.model.layout import CHUNK, MODERATE, chunks_of
from halfspace.model.metrics import Metric
from halfspace.model.segment import Segment, address
from halfspace.runtime.progress import Advance, ignore

__all__ = ["CODE", "ENCODED", "encode"]

SPREAD_ROWS = 1 << 14
"""Rows from which spreads are estimated."""
PER_PART = 256
"""Rows of the sample that are summed as one part."""
WARP_ROWS = 64
"""Vectors that a warp of the cascade tests at once."""
ALONE = 64
"""Threads of a block of the cascade for one direction."""
MATRIX = 12
"""Directions from which on a matrix product is faster than four after four."""
STRIPS = 128
"""Directions up to which what counts is the codes that are read, not the products."""
UNIT = 256
"""Vectors that a block of them takes at once."""
SET = 64
"""Directions of a set that goes through them at once."""

TEAM = 384
"""Threads of a block of warp groups."""
STAGES = 3, 8
"""Slabs of directions that such a block has on their way, at least and at most."""

_PLACES = ("high", "low", "scales", "radii")
ENCODED = np.dtype([(name, np.int64) for name in (*_PLACES, "longest", "spaces", "rows", "dim", "blocks")])
"""The twin of the struct Encoded in ``kernels/filters/cells.cu``."""

_peaks = Kernel(
    "filters/cells.cu", "peaks_of_chunks", ("norms", np.float32), ("peaks", np.float32), ("spaces", int), ("rows", int)
)
_sum_spreads = Kernel(
    "mean.cu",
    "sum_spreads",
    ("vectors", STORED),
    ("centre", np.float32),
    ("sums", np.float64),
    *((name, int) for name in ("rows", "dim", "count", "per_part", "parts")),
)
_weigh = Kernel(
    "filters/cells.cu",
    "weigh",
    ("sums", np.float64),
    ("peaks", np.float32),
    ("spreads", np.float64),
    ("weights", np.float32),
    *((name, int) for name in ("dim", "count", "parts", "all_peaks")),
)
_encode = Kernel(
    "filters/cells.cu",
    "encode_cells",
    ("vectors", STORED),
    ("centre", np.float32),
    ("weights", np.float32),
    ("encoded", ENCODED),
)
_spans = Kernel(
    "filters/cells.cu", "spans_of_codes", ("longest", np.uint32), ("spans", np.float64), ("count", int), ("dim", int)
)

_QUESTION = ("call", CALL), ("listed", np.int32)
_classify_cells = Kernel("filters/cascade.cu", "classify_cells", *_QUESTION)
_classify_cells_of_four = Kernel("filters/cascade.cu", "classify_cells_of_four", *_QUESTION)
_multiply_cells = Kernel("filters/matrix.cu", "multiply_cells", *_QUESTION)
_multiply_tiles, _multiply_long_tiles = (
    Kernel("filters/warpgroups.cu", name, *_QUESTION, ("stages", int), options=(WARP_GROUPS,))
    for name in ("multiply_tiles", "multiply_long_tiles")
)
_multiply_strips = Kernel("filters/strips.cu", "multiply_strips", *_QUESTION, ("chunks", int))
_multiply_long_strips = Kernel("filters/strips.cu", "multiply_long_strips", *_QUESTION, ("chunks", int))


def _choose(vectors: Any, peaks: Any, threads: int) -> tuple[Any, Any]:
    """Choose centre and weights, each (spaces, d), for stored vectors (spaces, n, d)."""
    spaces, rows, dim = vectors.shape
    centre = mean(vectors, threads)
    count = min(rows, SPREAD_ROWS)
    parts = -(-count // PER_PART)
    sums = cp.empty((spaces, parts, 2, dim), np.float64)
    spreads = cp.empty((spaces, dim), np.float64)
    weights = cp.empty((spaces, dim), np.float32)
    grid, shape = (spaces * parts * -(-dim // COLUMNS),), (rows, dim, count, PER_PART, parts)
    _sum_spreads(grid, 8 * COLUMNS, vectors, centre, sums, *shape, format=format_of(vectors.dtype))
    _weigh((spaces,), 256, sums, peaks, spreads, weights, dim, count, parts, peaks.size)
    return centre, weights


def encode(
    vectors: Any,
    norms: Any,
    threads: int,
    like: Cells | None = None,
    advance: Advance = ignore,
    metric: Metric = Metric.IP,
) -> Cells:
    """Give every stored vector (spaces, n, d) its cell.

    norms : (spaces, n), upper bounds of the vectors' norms
    like : cells whose centre and weights are taken over, and axes, if they have any, with all that belongs to them
    advance : called with components done, each twice, as soon as all is launched

    Time O(n d); nothing waits for the GPU.
    """
    spaces, rows, dim = vectors.shape
    peaks = cp.empty((spaces, chunks_of(rows)), np.float32)
    _peaks((-(-peaks.size // (BLOCK_ROWS // 32)),), BLOCK_ROWS, norms, peaks, spaces, rows)
    centre, weights = _choose(vectors, peaks, threads) if like is None else (like.centre, like.weights)
    made = {"centre": centre, "weights": weights, "spans": cp.empty((spaces, 2), np.float64), "peaks": peaks}
    axes = None if like is None else like.axes
    cells = Cells.blank(cp.zeros, Cells.shapes(spaces, rows, dim, metric), **made, axes=axes)
    longest = cp.zeros((spaces, 2), np.uint32)
    encoded = np.zeros(1, ENCODED)
    for name, array in (*((name, getattr(cells, name)) for name in _PLACES), ("longest", longest)):
        encoded[name] = address(array)
    encoded["spaces"], encoded["rows"], encoded["dim"], encoded["blocks"] = spaces, rows, dim, cells.high.shape[1]
    grid = warps(spaces, rows)
    _encode(grid, BLOCK_ROWS, vectors, centre, weights, encoded, format=format_of(vectors.dtype))
    _spans((-(-longest.size // 256),), 256, longest, cells.spans, longest.size, dim)
    if cells.lengths is not None:
        row_lengths(vectors, norms, centre, cells.lengths, metric)
    advance(2 * vectors.size)
    return cells


def _tabulate(segment: Segment, space: int, record: Any) -> list[object]:
    """Fill in addresses of the cells of one space."""
    cells = cast(Cells, segment.data)
    for name in ("centre", "weights", "high", "low", "scales", "peaks"):
        record[name] = address(getattr(cells, name)[space])
    record["high_radii"], record["low_radii"] = (address(radii) for radii in cells.radii[space])
    record["high_span"], record["low_span"] = cells.spans[space].get()
    moderate = _is_moderate(segment)  # asked now, since queries may not wait
    if cells.lengths is not None:
        record["lengths"], record["slack"] = address(cells.lengths[space]), 0.0 if moderate else np.inf
    return []


def _is_moderate(segment: Segment) -> bool:
    """Whether float32 will do in products of a segment's codes; asked of the device once."""
    if "moderate" not in segment.kept:
        segment.kept["moderate"] = float(cast(Cells, segment.data).peaks.max()) <= MODERATE
    return bool(segment.kept["moderate"])


def _launches(run: Run, uploaded: Uploaded, part: Part) -> Iterator[Callable[[], Any]]:
    """Yield what launches the test: the cascade for few directions, a matrix product for more."""
    chunks, processors, spaces = part.chunks.size, uploaded.processors, uploaded.spaces
    question = run.call, part.chunks
    batch, stride, lifted = run.batch, run.stride, run.metric != Metric.IP
    multiplied = batch >= MATRIX and run.work is None and all(_is_moderate(segment) for _, segment, _ in part.segments)
    sets = -(-batch // SET)
    if multiplied and batch <= STRIPS and stride <= 384 and spaces * sets <= 65535:
        kernel, pitch, share = (_multiply_strips, 160, 2) if stride <= 128 else (_multiply_long_strips, 416, 1)
        grid = max(1, min(CHUNK // UNIT * chunks, share * processors // min(spaces * sets, share))), spaces * sets
        shared = (19456 if lifted else 18432) + 2 * SET * pitch
        yield kernel.bind(grid, THREADS, *question, chunks, shared=shared, overlap=True, **run.variant)
        return
    if multiplied and run.tiled and spaces <= 65535 and (fit := _fit(run.depth, uploaded.shared, lifted)):
        kernel, rows, stages, shared = fit
        blocks = CHUNK // rows * chunks
        parts = max(1, min(-(-batch // TILED), processors // (blocks * spaces)))
        yield kernel.bind((blocks, spaces * parts), TEAM, *question, stages, shared=shared, **run.variant)
        return
    shared = (12816 if lifted else 11280) + 256 * (stride + 16)
    if multiplied and shared <= uploaded.shared and spaces <= 65535:
        parts = max(1, min(sets, 4 * processors // (8 * chunks * spaces)))
        yield _multiply_cells.bind((8 * chunks, spaces * parts), THREADS, *question, shared=shared, **run.variant)
    else:
        kernel, block, each = (_classify_cells, ALONE, 1) if batch == 1 else (_classify_cells_of_four, THREADS, 4)
        rows = WARP_ROWS * block // 32
        grid = CHUNK // rows * chunks, min(spaces * -(-batch // each), 65535)
        yield kernel.bind(grid, block, *question, shared=each * 10 * rows, overlap=True, **run.variant)


def _fit(depth: int, room: int, lifted: bool) -> tuple[Kernel, int, int, int] | None:
    """Choose, for the shared memory that there is, a kernel of warp groups, its rows and stages, and what it takes."""
    fixed = 24960 if lifted else 20864
    for kernel, rows in ((_multiply_tiles, 256), (_multiply_long_tiles, 128)):
        stages = min(STAGES[1], (room - fixed - rows * depth) // (TILED * SLAB))
        if stages >= STAGES[0]:
            return kernel, rows, stages, fixed + rows * depth + stages * TILED * SLAB
    return None


CODE = FilterCode(Kind.CELLS, _launches, _tabulate, passes=True)
