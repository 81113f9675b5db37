"""The scan: every vector is decided by itself; see `halfspace.cpu.filters.scan`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from halfspace.gpu.filters import FilterCode
from halfspace.gpu.run import Run
from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import CALL, THREADS, Kind
from halfspace.gpu.runtime.tables import Part, Uploaded

__all__ = ["CODE"]

_scan_rows = Kernel("verify.cu", "scan_rows", ("call", CALL), ("listed", np.int32))


def _launches(run: Run, uploaded: Uploaded, part: Part) -> Iterator[Callable[[], Any]]:
    """Yield what launches the kernel."""
    grid = part.chunks.size, min(run.count, 65535)
    yield _scan_rows.bind(grid, THREADS, run.call, part.chunks, **run.variant)


CODE = FilterCode(Kind.SCAN, _launches, lists=False, passes=True)
