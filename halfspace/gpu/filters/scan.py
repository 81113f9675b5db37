"""The scan: every vector is decided by itself; see `halfspace.cpu.filters.scan`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from halfspace.gpu.run import Run
from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import CALL, THREADS, Kind
from halfspace.gpu.runtime.tables import Part, Uploaded
from halfspace.model.segment import Segment

__all__ = ["KIND", "LISTS", "bytes_for_each_direction", "launches", "tabulate"]

KIND = Kind.SCAN
LISTS = False

_scan_rows = Kernel("verify.cu", "scan_rows", ("call", CALL), ("listed", np.int32))


def tabulate(segment: Segment, space: int, record: Any) -> list[object]:
    """Leave the record as it is: vectors and norms are there already."""
    return []


def launches(run: Run, uploaded: Uploaded, part: Part) -> Iterator[Callable[[], Any]]:
    """Yield what launches the kernel."""
    grid = part.chunks.size, min(run.count, 65535)
    yield _scan_rows.bind(grid, THREADS, run.call, part.chunks, format=run.format)


def bytes_for_each_direction(segment: Segment) -> int:
    """Count nothing: nothing is kept between kernels."""
    return 0
