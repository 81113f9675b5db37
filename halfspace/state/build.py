"""Sealing: join rows into one segment and derive what its filter needs; "auto" takes the one that reads least."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.model.arrays import namespace
from halfspace.model.rounding import MAX_CELL_DIM
from halfspace.model.segment import Segment, join
from halfspace.runtime.progress import SILENT, Meter
from halfspace.state.choose import QUESTIONS, TRIAL_ROWS, Lately, cheapest, trial

__all__ = ["FILTERS", "Sealer"]

FILTERS = ("auto", "scan", "cells", "groups", "balls", "sweep")
"""Filters that an index may have; a segment has one of them that is not "auto"."""

WIDTH = 8
"""Dimensions in a subspace, if nothing else is asked for."""
GROUP_SIZE = 4
"""Rows in a group of a subspace, if nothing else is asked for."""
ROW_GROUP = 16
"""Rows in a group above cells: a block of codes."""
CHUNK = 1024
"""Rows whose longest vector is remembered."""
SORTED_GAIN = 0.8
"""Rows are put in order of norms if that lowers the mean over chunks of their longest to this share."""
MAX_ROWS = 2**31 - 1
"""Rows that groups can number."""

JOIN, ENCODE, ENCLOSE, HALVE, ALL_TRIED = 1.0, 6.0, 10.0, 3.0, 4.0
"""What stages cost for each component, about: halving each time that a set is halved, a trial for 2^20 components."""


@dataclass(frozen=True)
class Sealer:
    """How segments are sealed."""

    backend: ModuleType
    filter: str
    subspaces: int | None
    group_size: int | None
    threads: int
    lately: Lately = field(default_factory=lambda: deque(maxlen=QUESTIONS))
    answered: Iterator[int] = field(default_factory=count)

    def remember(self, directions: npt.NDArray[np.float32], tau: Any) -> None:
        """Note a question that was answered, for trials to come; `tau` is one threshold, or one for each direction."""
        if self.filter != "auto" or not len(directions):
            return
        if next(self.answered) % self.backend.REMEMBERED == 0 or len(self.lately) < QUESTIONS:
            question = directions[0].copy(), tau if isinstance(tau, float) else tau[0] + 0.0  # both copies
            self.backend.wait()  # a writer on another stream may read it next
            self.lately.append(question)

    def seal(self, segments: Iterable[Segment], meter: Meter = SILENT) -> Segment:
        """Join segments into one and derive what its filter needs."""
        joining, deriving = meter.split(JOIN, 5 * ENCODE)
        joined = join(list(segments), joining)
        dim = joined.vectors.shape[2]
        if joined.rows == 0 or dim > MAX_CELL_DIM:
            return joined
        if self.filter != "auto":
            return self.derive(joined, self.filter, deriving)
        if joined.rows < TRIAL_ROWS:
            return self.derive(joined, "cells", deriving)
        trying, deriving = deriving.split(ALL_TRIED * ENCODE, joined.vectors.size / 2**20 * ENCODE)
        counted = trial(joined, self.derive, self.backend, self.lately, trying)
        return replace(self.derive(joined, cheapest(counted), deriving), trial=counted)

    def suits(self, segment: Segment, meter: Meter = SILENT) -> bool:
        """Whether a segment has the filter that a trial would choose now, by what was asked lately."""
        if self.filter != "auto" or segment.trial is None:
            return True
        return cheapest(trial(segment, self.derive, self.backend, self.lately, meter)) == segment.filter

    def derive(self, segment: Segment, filter: str, meter: Meter = SILENT) -> Segment:
        """Derive what a filter needs from a segment in order of ids."""
        vectors = segment.vectors
        if filter in ("groups", "balls", "sweep") and segment.rows > MAX_ROWS:
            filter = "cells"
        if filter == "cells":
            ordering, encoding = meter.split(JOIN, ENCODE)
            segment = _by_norm(segment, ordering)
            advance = encoding.over(2 * vectors.size)
            cells = self.backend.encode(segment.vectors, segment.norms, self.threads, advance=advance)
            segment = replace(segment, filter=filter, cells=cells)
        elif filter == "groups":
            whole = np.array([0, vectors.shape[2]])
            grouping, ordering, enclosing = meter.split(HALVE * segment.rows.bit_length(), JOIN, ENCLOSE)
            advance = grouping.over(vectors.size)
            order = self.backend.partition(vectors[0], whole, ROW_GROUP, self.threads, advance)[0]
            segment = segment.reordered(order.astype(np.int64), ordering.over(vectors.size))
            advance = enclosing.over(3 * vectors.size)
            groups = self.backend.enclose_groups(segment.vectors, self.threads, advance=advance)
            segment = replace(segment, filter=filter, groups=groups)
        elif filter in ("balls", "sweep"):
            size = min(self.group_size or GROUP_SIZE, segment.rows)
            columns, advance = self.columns(vectors.shape[2]), meter.over(2 * vectors.size)
            balls = self.backend.enclose(vectors, columns, size, self.threads, advance=advance)
            segment = replace(segment, filter=filter, balls=balls)
        meter.finish()
        return segment

    def columns(self, dim: int) -> npt.NDArray[np.int64]:
        """Where subspaces begin and end: runs of dimensions whose lengths differ by one at most."""
        count = max(1, round(dim / WIDTH)) if self.subspaces is None else self.subspaces
        return dim * np.arange(count + 1) // count


def _by_norm(segment: Segment, meter: Meter) -> Segment:
    """Return the longest vectors first, if chunks of them then differ in the norm of their longest."""
    norms = segment.norms
    if len(norms) > 1 or segment.rows <= CHUNK:
        return segment
    xp = namespace(norms)
    order = xp.argsort(-norms[0], kind="stable")
    padded = xp.zeros((2, -(-segment.rows // CHUNK) * CHUNK), np.float32)
    padded[0, : segment.rows], padded[1, : segment.rows] = norms[0], norms[0, order]
    with np.errstate(over="ignore"):
        before, after = padded.reshape(2, -1, CHUNK).max(axis=2).mean(axis=1, dtype=np.float64)
    if not after < SORTED_GAIN * before:
        return segment
    return segment.reordered(order, meter.over(segment.vectors.size))
