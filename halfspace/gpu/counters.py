"""What a search did: counters by stage, in the columns of `halfspace.explain.Stage`.

Principal axes and float32 scans are for the CPU alone: here their rows stay empty.
"""

import numpy as np
import numpy.typing as npt

from halfspace.model.counters import STAGES

__all__ = ["WORK_SHAPE", "complete"]

TESTED, DROPPED, TAKEN, LEFT, DOTS, BYTES = range(6)
VERIFY, EXACT = STAGES.index("verify"), STAGES.index("exact")
WORK_SHAPE = (len(STAGES), 6)


def complete(work: np.ndarray, dim: int, itemsize: int) -> npt.NDArray[np.int64]:
    """Fill in the counters of verification that follow from what was counted: tested, and hits."""
    done: npt.NDArray[np.int64] = work.astype(np.int64)
    verify, exact = done[VERIFY], done[EXACT]
    verify[TAKEN] -= exact[TAKEN]
    verify[LEFT] = exact[TESTED]
    verify[DROPPED] = verify[TESTED] - verify[TAKEN] - verify[LEFT]
    verify[DOTS] = verify[TESTED]
    verify[BYTES] = verify[TESTED] * (dim * itemsize + 4)
    exact[DOTS] = exact[TESTED]
    exact[BYTES] = exact[TESTED] * dim * itemsize
    return done
