"""Building segments: join rows into one and derive what its filter needs; "auto" takes the filter that reads least."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.backend import Backend
from halfspace.model.filters import AUTO, FILTERS, Building
from halfspace.model.metrics import Metric
from halfspace.model.rounding import MAX_CELL_DIM
from halfspace.model.segment import Segment, join
from halfspace.runtime.progress import SILENT, Meter
from halfspace.state.choose import QUESTIONS, TRIAL_ROWS, RecentQueries, cheapest, trial

__all__ = ["Builder"]

JOIN, DERIVE, ALL_TRIED = 1.0, 30.0, 24.0
"""What stages cost for each component, about: to join, to derive what filters need, and to try all for 2^20 of them."""
FEW = "cells"
"""The filter of "auto" for segments that are too short for a trial, and for those too long for another filter."""


@dataclass(frozen=True)
class Builder:
    """How segments are built."""

    backend: Backend
    filter: str
    subspaces: int | None
    group_size: int | None
    threads: int
    metric: Metric
    recent: RecentQueries = field(default_factory=lambda: deque(maxlen=QUESTIONS))
    answered: Iterator[int] = field(default_factory=count)

    def apart(self) -> "Builder":
        """Return a builder that knows the same questions, and takes note of others by itself."""
        return replace(self, recent=self.recent.copy(), answered=count())

    def remember(self, directions: npt.NDArray[np.float32], tau: Any) -> None:
        """Note a question that was answered, for trials to come; `tau` is one threshold, or one for each direction."""
        if self.filter != AUTO or not len(directions):
            return
        if next(self.answered) % self.backend.REMEMBERED == 0 or len(self.recent) < QUESTIONS:
            question = directions[0].copy(), tau if isinstance(tau, float) else tau[0] + 0.0  # both copies
            self.backend.wait()  # a writer on another stream may read it next
            self.recent.append(question)

    def build(self, segments: Iterable[Segment], meter: Meter = SILENT) -> Segment:
        """Join segments into one and derive what its filter needs."""
        joining, deriving = meter.split(JOIN, DERIVE)
        joined = join(list(segments), joining)
        dim = joined.vectors.shape[2]
        if joined.rows == 0 or dim > MAX_CELL_DIM:
            return joined
        if self.filter != AUTO:
            return self.derive(joined, self.filter, deriving)
        if joined.rows < TRIAL_ROWS:
            return self.derive(joined, FEW, deriving)
        trying, deriving = deriving.split(ALL_TRIED, joined.vectors.size / 2**20 * DERIVE / 5)
        counted = trial(joined, self, trying)
        return replace(self.derive(joined, cheapest(counted), deriving), trial=counted)

    def suits(self, segment: Segment, meter: Meter = SILENT) -> bool:
        """Whether a segment has the filter that a trial would choose now, by what was asked lately."""
        if self.filter != AUTO or segment.trial is None:
            return True
        return cheapest(trial(segment, self, meter)) == segment.filter

    def derive(self, segment: Segment, filter: str, meter: Meter = SILENT) -> Segment:
        """Derive what a filter needs from a segment in order of ids."""
        spec = FILTERS[filter if segment.rows <= FILTERS[filter].most_rows else FEW]
        how = Building(self.backend, self.threads, self.subspaces, self.group_size, self.metric)
        built = spec.build(how, replace(segment, filter=spec.name), meter)
        meter.finish()
        return built
