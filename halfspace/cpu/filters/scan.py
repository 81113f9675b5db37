"""The scan: every vector's float32 dot product, with a bound on its error; the honest baseline.

The ball is the rounding error: |computed - <q, x>| <= slope32 |x| + intercept32, see
`halfspace.model.rounding.dot32_slope`. So the verdicts are those of any ball: drop, take, look.
"""

import numpy as np

from halfspace.cpu.by_chunk import chunkwise, scan_blocks
from halfspace.cpu.filters import FilterCode
from halfspace.cpu.formats import widen
from halfspace.cpu.job import BYTES, DOTS, DROP, DROPPED, LEFT, LOOK, SCAN, TAKE, TAKEN, TESTED, keep, list_blocks
from halfspace.cpu.runtime.jit import array_at, inlined, multiply_add, pointer
from halfspace.model.layout import BLOCK

__all__ = ["CODE", "classify_blocks", "classify_rows"]


@inlined
def classify_rows(vectors, norms, direction, span, verdicts):
    """Test rows [*span) of vectors (n, d) against a direction.

    norms : their address; verdicts : int32, from that of the first row on
    """
    low, high = span
    dim, sizes = vectors.shape[1], pointer(norms, np.float32)
    narrow = array_at(direction.narrow, np.float32, dim)
    tau = direction.tau
    for i in range(low, high):
        total = np.float32(0.0)
        for j in range(dim):
            total = multiply_add(total, narrow[j], widen(vectors[i, j]))
        norm = np.float64(sizes[i])
        value = np.float64(total)
        width = direction.slope32 * norm + direction.intercept32
        if not direction.norm * norm < 2.0**126:  # the float32 sum might have overflowed
            width = np.inf
            value = 0.0
        verdicts[i - low] = np.int32(DROP if value + width < tau else LOOK) + np.int32(value - width >= tau)


@inlined
def classify_blocks(job, segment, vectors, direction, listed, left):
    """Scan the first `listed` blocks of the job; vectors : stored (n, d), of the segment.

    Returns how many rows are left.
    """
    tested, taken, looks = 0, 0, 0
    for b in range(listed):
        low = BLOCK * job.blocks[b]
        high = min(low + BLOCK, segment.rows)
        classify_rows(vectors, segment.norms, direction, (low, high), job.verdicts)
        tested += high - low
        for i in range(high - low):
            verdict = job.verdicts[i]
            if verdict != DROP:
                taken += verdict == TAKE
                looks += verdict == LOOK
                left = keep(job, segment, low + i, verdict, left)
    work = job.work
    work[SCAN, TESTED] += tested
    work[SCAN, DROPPED] += tested - taken - looks
    work[SCAN, TAKEN] += taken
    work[SCAN, LEFT] += looks
    work[SCAN, DOTS] += tested
    work[SCAN, BYTES] += tested * (job.row_bytes + 4)
    return left


@inlined
def _classify(job, segment, state, direction, low, high):
    """Scan a chunk."""
    return scan_blocks(job, segment, direction, list_blocks(job, low, high), 0), 0


CODE = FilterCode("scan", describe=None, search=chunkwise(_classify), sources=(__file__,))
