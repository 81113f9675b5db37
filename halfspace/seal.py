"""Sealing: join rows into one segment and derive what its filter needs; "auto" takes the one that reads least."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arrays import namespace
from halfspace.rounding import MAX_CELL_DIM
from halfspace.segment import Segment, join
from halfspace.trial import QUESTIONS, TRIAL_ROWS, Lately, cheapest, trial

__all__ = ["FILTERS", "Progress", "Sealer"]

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

Progress = Callable[[int, int], object]
"""Told how much is done, and of how much, one call at a time but from any thread."""


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

    def seal(self, segments: Iterable[Segment], progress: Progress | None = None) -> Segment:
        """Join segments into one and derive what its filter needs."""
        joined = join(list(segments))
        dim = joined.vectors.shape[2]
        if joined.rows == 0 or dim > MAX_CELL_DIM:
            return joined
        if self.filter != "auto":
            return self.derive(joined, self.filter, progress)
        if joined.rows < TRIAL_ROWS:
            return self.derive(joined, "cells")
        counted = trial(joined, self.derive, self.backend, self.lately)
        return replace(self.derive(joined, cheapest(counted), progress), trial=counted)

    def suits(self, segment: Segment) -> bool:
        """Whether a segment has the filter that a trial would choose now, by what was asked lately."""
        if self.filter != "auto" or segment.trial is None:
            return True
        return cheapest(trial(segment, self.derive, self.backend, self.lately)) == segment.filter

    def derive(self, segment: Segment, filter: str, progress: Progress | None = None) -> Segment:
        """Derive what a filter needs from a segment in order of ids."""
        vectors = segment.vectors
        if filter in ("groups", "balls", "sweep") and segment.rows > MAX_ROWS:
            filter = "cells"
        advance = progress and _Counter(progress, vectors.size)
        if filter == "cells":
            segment = _by_norm(segment)
            cells = self.backend.encode(segment.vectors, segment.norms, self.threads)
            return replace(segment, filter=filter, cells=cells)
        if filter == "groups":
            whole = np.array([0, vectors.shape[2]])
            order = self.backend.partition(vectors[0], whole, ROW_GROUP, self.threads, advance)[0]
            segment = segment.reordered(order.astype(np.int64))
            groups = self.backend.enclose_groups(segment.vectors, self.threads)
            return replace(segment, filter=filter, groups=groups)
        if filter in ("balls", "sweep"):
            size = min(self.group_size or GROUP_SIZE, segment.rows)
            balls = self.backend.enclose(vectors, self.columns(vectors.shape[2]), size, self.threads, advance)
            return replace(segment, filter=filter, balls=balls)
        return segment

    def columns(self, dim: int) -> npt.NDArray[np.int64]:
        """Where subspaces begin and end: runs of dimensions whose lengths differ by one at most."""
        count = max(1, round(dim / WIDTH)) if self.subspaces is None else self.subspaces
        return dim * np.arange(count + 1) // count


def _by_norm(segment: Segment) -> Segment:
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
        return segment.reordered(order) if after < SORTED_GAIN * before else segment


class _Counter:
    """Adds up what is done."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done, self._lock = progress, total, 0, Lock()

    def __call__(self, more: int) -> None:
        with self._lock:
            self._done += more
            self._progress(self._done, self._total)
