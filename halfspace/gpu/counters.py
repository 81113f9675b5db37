"""What a search did: counters by `halfspace.model.counters.Stage` and `halfspace.model.counters.Column`.

Principal axes and float32 scans are for the CPU alone: here their rows stay empty.
"""

import numpy as np
import numpy.typing as npt

from halfspace.model.counters import Column, Stage

__all__ = ["complete"]


def complete(work: np.ndarray, dim: int, itemsize: int) -> npt.NDArray[np.int64]:
    """Fill in the counters of verification that follow from what was counted: tested, and hits."""
    done: npt.NDArray[np.int64] = work.astype(np.int64)
    verify, exact = done[Stage.VERIFY], done[Stage.EXACT]
    verify[Column.TAKEN] -= exact[Column.TAKEN]
    verify[Column.LEFT] = exact[Column.TESTED]
    verify[Column.DROPPED] = verify[Column.TESTED] - verify[Column.TAKEN] - verify[Column.LEFT]
    verify[Column.DOTS] = verify[Column.TESTED]
    verify[Column.BYTES] = verify[Column.TESTED] * (dim * itemsize + 4)
    exact[Column.DOTS] = exact[Column.TESTED]
    exact[Column.BYTES] = exact[Column.TESTED] * dim * itemsize
    return done
