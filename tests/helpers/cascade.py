"""The cascade of cells, called as the pipeline does."""

import numpy as np
from numba import njit

from halfspace import cpu
from halfspace.cpu.directions import prepare
from halfspace.cpu.filters.cascade import cascade
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.filters.views import look
from halfspace.cpu.job import DROP
from halfspace.cpu.runtime.jit import borrowed, record_at
from halfspace.cpu.runtime.records import JOB, tabulate
from halfspace.model.counters import STAGES
from halfspace.model.formats import as_bits
from halfspace.model.metrics import Metric
from halfspace.model.segment import Segment


@njit
def _cascade(table, views, direction, job):
    segment = table[0, 0]
    cells = record_at(segment.data, CELLS)
    return cascade(job, segment, cells, views[0], direction, 0, segment.rows)


@njit
def _look(table, records, dim):
    return look(table, 0, borrowed(records), dim, 0)


def segment_of(vectors, threads=1, like=None, metric="ip"):
    """Vectors (n, d) with cells, in their own order."""
    stored = as_bits(np.ascontiguousarray(vectors))[None]
    norms, grain = cpu.measure(stored, 1)
    data = cpu.encode(stored, norms, threads, like, metric=Metric.named(metric))
    return Segment(stored, np.arange(len(vectors)), norms, grain, "cells", data=data)


def table_of(segment):
    """Records (1, 1) of a segment with one space, which must outlive them."""
    return tabulate(segment)[0].reshape(1, 1)


def prepared(directions, tau=0.0, metric="ip"):
    """Directions (m, d), prepared, with one threshold for all or one for each."""
    tau = np.broadcast_to(np.asarray(-tau if metric == "l2" else tau, np.float64), len(directions)).copy()
    return prepare(np.ascontiguousarray(directions), tau, Metric.named(metric))


def look_at(segment, ready):
    """Prepared directions, seen from the cells of a segment."""
    return _look(table_of(segment), ready.records, ready.narrow.shape[1])


def job_of(dim, row_bytes, **fields):
    """A JOB (1,) to work in, which may only be read while nothing else is done with it."""
    job = np.zeros(1, JOB)
    job["dim"], job["words"], job["row_bytes"] = dim, -(-dim // 8), row_bytes
    for name, value in fields.items():
        job[name] = value
    return job


def adversaries(cells, vectors, directions, metric="ip"):
    """Directions that meet where codes err most: towards a rest, by its signs, along a single dimension and tiny.

    Those that a distance is measured from are next to a vector, or to the centre, too.
    """
    with np.errstate(all="ignore"):
        rest = vectors[0].astype(np.float64) - cells.centre[0].astype(np.float64)
        sizes = np.abs(rest).max() or 1.0
    made = [np.nan_to_num(rest / sizes), np.sign(rest), np.eye(len(rest))[-1] * 2.0**-60]
    if metric == "cosine":
        made = [one if np.any(one) else np.ones(len(rest)) for one in made]
    if metric == "l2":
        made += [np.nextafter(vectors[0].astype(np.float32), 0), np.nextafter(cells.centre[0], 1)]
    return np.concatenate([directions, np.array(made, np.float32)])


def verdicts_of(segment, ready, counting=False, row_bytes=None):
    """Verdicts (n,) of the cascade, how many hits it counted, and its counters; short rows do without low codes."""
    n, d = segment.vectors.shape[1:]
    job = job_of(d, row_bytes or d * segment.vectors.itemsize, counting=counting)
    seen = look_at(segment, ready)
    left, counted, after = _cascade(table_of(segment), seen.views, ready.records[0], job[0])
    assert after == n
    verdicts = np.full(n, DROP)
    rows, kinds = job["rows"][0, :left], job["kinds"][0, :left]
    assert np.unique(rows).size == left
    verdicts[rows] = kinds
    return verdicts, counted, dict(zip(STAGES, job["work"][0], strict=True))
