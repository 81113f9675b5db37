"""Which filter reads least: each is tried on a sample of the rows, and the bytes it touches are counted.

Half of the trial's questions are those that were asked lately, if any were; the other half have stored vectors as
directions, and a hundredth of the sample as hits.
"""

from collections import deque
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from halfspace.backend import Backend
from halfspace.model.arrays import host, namespace
from halfspace.model.counters import Column, Want
from halfspace.model.filters import FILTERS, tried
from halfspace.model.formats import as_float32
from halfspace.model.metrics import Metric
from halfspace.model.question import Question
from halfspace.model.segment import Segment
from halfspace.model.table import Table
from halfspace.runtime.progress import SILENT, Meter

__all__ = ["QUESTIONS", "TRIAL_ROWS", "RecentQueries", "cheapest", "trial"]

TRIAL_ROWS = 1 << 15
"""Rows from which on it is worth a trial."""
SAMPLE = 1 << 14
"""Rows in the sample, if they are short."""
COMPONENTS = 1 << 20
"""Components in the sample at most."""
QUESTIONS = 4
"""Stored vectors that are asked for, and questions of users that are remembered."""
SHARE = 0.01
"""Share of the sample that reaches the threshold where a stored vector is the direction."""
GAIN = 0.9
"""A filter that takes more to build than cells must read less than this share of what the best before it reads."""
RecentQueries = deque[tuple[npt.NDArray[np.float32], Any]]
"""Directions (d,) and thresholds, floats or 0-d arrays of the same device, of the last questions."""


class Builder(Protocol):
    """What a trial needs of `halfspace.state.build.Builder`."""

    @property
    def backend(self) -> Backend: ...
    @property
    def metric(self) -> Metric: ...
    @property
    def recent(self) -> RecentQueries: ...
    def derive(self, segment: Segment, filter: str) -> Segment: ...


def trial(segment: Segment, builder: Builder, meter: Meter = SILENT) -> dict[str, int]:
    """Count the bytes that each filter reads for a few questions on a sample of a segment.

    The same rows and questions give the same counts.
    """
    xp = namespace(segment.ids)
    dim = segment.vectors.shape[2]
    size = min(segment.rows, SAMPLE, max(QUESTIONS, COMPONENTS // dim))
    rows = xp.asarray(np.linspace(0, segment.rows - 1, size).astype(np.int64))
    if segment.by_id is not None:
        rows = segment.by_id[rows]  # the same sample in whatever order rows are
    vectors, norms = (xp.ascontiguousarray(part[:1, rows]) for part in (segment.vectors, segment.norms))
    sample = Segment(vectors, segment.ids[rows], norms, segment.grain)
    numbers = as_float32(vectors[0])
    own = numbers[:: size // QUESTIONS][:QUESTIONS]
    with np.errstate(all="ignore"):  # no BLAS, which would have threads of its own
        scores = xp.stack([_rough_scores(numbers, one, builder.metric) for one in own], axis=1)
        scores = xp.nan_to_num(scores).astype(np.float64)
    hits = max(1, round(SHARE * size))
    asked = list(builder.recent)
    directions = xp.stack([*own, *(direction for direction, _ in asked)])
    thresholds = xp.asarray([float(threshold) for _, threshold in asked], np.float64)
    tau = xp.concatenate([xp.partition(scores, -hits, axis=0)[-hits], thresholds])
    counted = {}
    derived = sample
    names = tried(dim, builder.backend.DEVICE, builder.metric.label)
    for filter, part in zip(names, meter.split(*(1.0 for _ in names)), strict=True):
        same = derived.data is not None and FILTERS[filter].build is FILTERS[derived.filter].build
        derived = replace(derived, filter=filter) if same else builder.derive(sample, filter)
        table = Table.of([derived], builder.backend)
        question = Question(table, vectors[0, :0, 0], directions, tau, may_scan=True, wanted=Want.EXPLAINED)
        found = builder.backend.search(question._replace(metric=builder.metric))
        counted[filter] = int(host(found.work)[:, Column.BYTES].sum())
        part.finish()
    return counted


def _rough_scores(vectors: Any, direction: Any, metric: Metric) -> Any:
    """Score vectors (n, d) for one of them, about; as kernels do, so that the nearest score most."""
    if metric == Metric.L2:
        return -(((vectors - direction) ** 2).sum(axis=1) ** 0.5)
    products = (vectors * direction).sum(axis=1)
    if metric == Metric.IP:
        return products
    return products / ((vectors**2).sum(axis=1) * (direction**2).sum()) ** 0.5


def cheapest(counted: dict[str, int]) -> str:
    """Choose the filter to build."""
    scan, cells, *others = counted  # in order of their cost
    best = cells if counted[cells] < counted[scan] else scan
    for filter in others:
        if counted[filter] < GAIN * counted[best]:
            best = filter
    return best
