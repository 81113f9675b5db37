"""The scan: every vector's score in float32, with a bound on its error; the honest baseline.

`halfspace.cpu.stored` reads the vectors; what it compares is in `halfspace.cpu.metrics`.
"""

from halfspace.cpu.by_chunk import chunkwise, scan_blocks
from halfspace.cpu.filters import FilterCode
from halfspace.cpu.job import list_blocks
from halfspace.cpu.runtime.jit import inlined

__all__ = ["CODE"]


@inlined
def _classify(job, segment, state, direction, low, high):
    """Scan a chunk."""
    return scan_blocks(job, segment, direction, list_blocks(job, low, high), 0), 0


CODE = FilterCode("scan", describe=None, search=chunkwise(_classify), sources=(__file__,))
