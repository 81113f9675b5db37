"""A question: made once, and handed on whole."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.model.counters import Want
from halfspace.model.metrics import Metric
from halfspace.model.table import Table

__all__ = ["ALL", "Question"]

ALL = 1 << 62
"""More hits than any index has."""


class Question(NamedTuple):
    """Directions and thresholds, where to look, and what is wanted."""

    table: Table
    like: np.ndarray  # an empty array in the stored format
    directions: npt.NDArray[np.float32]  # (m, d), space after space
    tau: Any  # float64 (m,), or a float that is the threshold of all, where the backend takes one
    may_scan: bool = False  # whether to read vectors instead where a filter does not pay
    threads: int = 1
    wanted: Want = Want.SCORES
    most: int = ALL  # hits that may be held at once, if there are several directions
    unless: Any = None  # like `tau`, or None: what reaches it is left out
    metric: Metric = Metric.IP  # thresholds are those of `halfspace.model.metrics.as_threshold`
    as_users: bool = False  # whether scores of distances leave the search without their sign, as users have them
    loose: bool = False  # whether hits may come as pairs in any order, see `halfspace.backend.Backend.edges`

    def part(self, first: int, last: int) -> "Question":
        """Return the same question of directions [first, last) alone."""
        tau, unless = (
            limits if limits is None or isinstance(limits, float) else limits[first:last]
            for limits in (self.tau, self.unless)
        )
        return self._replace(directions=self.directions[first:last], tau=tau, unless=unless)
