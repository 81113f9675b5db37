"""Which filter reads least: each is tried on a sample of the rows, and the bytes it touches are counted."""

from collections.abc import Callable
from types import ModuleType

import numpy as np

from halfspace.dtypes import as_numbers
from halfspace.segment import Segment
from halfspace.table import Table

__all__ = ["TRIAL_ROWS", "cheapest", "trial"]

TRIAL_ROWS = 1 << 14
"""Rows from which on it is worth a trial."""
SAMPLE = 1 << 11
"""Rows in the sample, if they are short."""
COMPONENTS = 1 << 22
"""Components in the sample at most."""
DIRECTIONS = 8
SHARE = 0.01
"""Share of the sample that reaches the threshold."""
GAIN = 0.75
"""A filter that takes more to build must read at most this share of what the ones before it read."""
TRIED = ("scan", "cells", "groups", "balls", "sweep")
"""Filters, cheapest to build first."""


def trial(segment: Segment, derive: Callable[[Segment, str], Segment], backend: ModuleType) -> dict[str, int]:
    """Count the bytes that each filter reads for a few queries on a sample of a segment.

    Directions are stored vectors, and a hundredth of the sample are hits. The same rows give the same counts.
    """
    dim = segment.vectors.shape[2]
    size = min(segment.rows, SAMPLE, max(DIRECTIONS, COMPONENTS // dim))
    rows = np.linspace(0, segment.rows - 1, size).astype(np.int64)
    vectors, norms = (np.ascontiguousarray(part[:1, rows]) for part in (segment.vectors, segment.norms))
    sample = Segment(vectors, segment.ids[rows], norms, segment.grain)
    numbers = as_numbers(sample.vectors[0]).astype(np.float32)
    directions = np.ascontiguousarray(numbers[:: size // DIRECTIONS][:DIRECTIONS])
    with np.errstate(all="ignore"):
        scores = np.nan_to_num(numbers @ directions.T).astype(np.float64)
    tau = np.partition(scores, -max(1, round(SHARE * size)), axis=0)[-max(1, round(SHARE * size))]
    counted = {}
    for filter in TRIED:
        table = Table.of([derive(sample, filter)], backend)
        found = backend.search(
            table, sample.vectors[0, :0, 0], backend.prepare(directions), tau, True, backend.SCORES, 1
        )
        counted[filter] = int(found.work[:, -1].sum())
    return counted


def cheapest(counted: dict[str, int]) -> str:
    """Choose the filter to build."""
    best = TRIED[0]
    for filter in TRIED[1:]:
        if counted[filter] < GAIN * counted[best]:
            best = filter
    return best
