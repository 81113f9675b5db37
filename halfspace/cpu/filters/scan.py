"""The scan: every vector's float32 dot product, with a bound on its error; the honest baseline.

The ball is the rounding error: |computed - <q, x>| <= slope32 |x| + intercept32 (`halfspace.model.rounding.dot32_slope`), so
the verdicts are those of any ball: drop, take, look.
"""

import numpy as np

from halfspace.cpu.codes import DROP, LOOK
from halfspace.cpu.formats import widen
from halfspace.cpu.runtime.jit import inlined, multiply_add

__all__ = ["test_rows"]


@inlined
def test_rows(vectors, norms, low, high, direction, plan, tau, verdicts):
    """Test rows [low, high) of vectors (n, d) against a float32 direction (d,); verdicts : int32, from row `low` on."""
    for i in range(low, high):
        total = np.float32(0.0)
        for j in range(vectors.shape[1]):
            total = multiply_add(total, direction[j], widen(vectors[i, j]))
        norm = np.float64(norms[i])
        value = np.float64(total)
        width = plan.slope32 * norm + plan.intercept32
        if not plan.norm * norm < 2.0**126:  # the float32 sum might have overflowed
            width = np.inf
            value = 0.0
        verdicts[i - low] = np.int32(DROP if value + width < tau else LOOK) + np.int32(value - width >= tau)
