"""Indexes of every filter, and the comparison with the oracle."""

import numpy as np

from helpers import metrics, reference
from helpers.lengths import LENGTHS

FILTERS = ["scan", "cells", "groups", "balls", "sweep", "auto"]
EXTENDED = [*FILTERS, LENGTHS.name]
"""With one that a file of the tests adds."""
DTYPES = ["float32", "float16", "bfloat16"]


def build(vectors, *, filter="auto", metric="ip", dtype="float32", ids=None, threads=None, compact=True):
    """An index of ``vectors``; compacted, so that even few rows lie encoded in a segment and not in the tail."""
    from halfspace import HalfspaceIndex

    index = HalfspaceIndex(vectors.shape[-1], metric=metric, filter=filter, dtype=dtype, threads=threads)
    index.insert(vectors, ids=ids)
    if compact:
        index.compact()
    return index


def build_each(vectors, **options):
    """One index for each filter."""
    return [build(vectors, filter=filter, **options) for filter in EXTENDED]


def equal(ours, theirs):
    """Same ids and, to the bit, same scores. ``ours`` is a ``Hits``, ``theirs`` a pair of arrays."""
    ids, scores = theirs
    assert ours.ids.tolist() == ids.tolist()
    assert reference.bits(ours.scores).tolist() == reference.bits(scores).tolist()


def identical(one, other):
    """Two ``Hits`` that agree to the bit in everything they hold."""
    for name in ("ids", "offsets", "totals"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.dtype == theirs.dtype == np.int64
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    np.testing.assert_array_equal(reference.bits(one.scores), reference.bits(other.scores), err_msg="scores")


def check(indexes, stored, directions, tau, *, metric="ip", ids=None, faster=False):
    """Hold a batch and its count against the oracle for each index; how many (vector, direction, tau) it compared."""
    if metric == "ip":
        expected = reference.query(stored, directions, tau, ids=ids, faster=faster)
    else:
        expected = metrics.query(metric, stored, directions, tau, ids=ids)
    sizes = [len(found) for found, _ in expected]
    for index in indexes:
        hits = index.query(directions, tau)
        assert len(hits) == len(expected)
        for ours, theirs in zip(hits, expected, strict=True):
            equal(ours, theirs)
        assert index.count(directions, tau).tolist() == hits.totals.tolist() == sizes
    return len(indexes) * len(stored) * len(expected)
