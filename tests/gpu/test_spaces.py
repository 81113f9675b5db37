"""Many spaces searched at once on a GPU: each direction meets the vectors of its own space alone."""

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES
from on_gpu import equal_rows, same_bits

from halfspace.hits import Hits
from halfspace.model.counters import Want
from halfspace.model.formats import as_bits
from halfspace.model.question import Question
from halfspace.model.segment import Segment
from halfspace.model.table import Table

pytestmark = pytest.mark.gpu

SPACES, DIM = 3, 24
COLUMNS = np.array([0, 8, 13, DIM])
SEALED = {
    "scan": lambda gpu, x, norms: {},
    "cells": lambda gpu, x, norms: {"data": gpu.encode(x, norms, 1)},
    "groups": lambda gpu, x, norms: {"data": gpu.enclose_groups(x, norms, 1)},
    "balls": lambda gpu, x, norms: {"data": gpu.enclose(x, COLUMNS, 4, 1)},
    "sweep": lambda gpu, x, norms: {"data": gpu.enclose(x, COLUMNS, 4, 1)},
}


def segment_of(gpu, stored, ids, filter, dead=None):
    """Bits (spaces, n, d) of the host with ids (n,), brought to the GPU and given what a filter needs."""
    x = gpu.xp.asarray(np.ascontiguousarray(stored))
    norms, grain = gpu.measure(x, 1)
    segment = Segment(x, gpu.xp.asarray(ids), norms, grain, filter, **SEALED[filter](gpu, x, norms))
    return segment if dead is None else segment.excluding(gpu.xp.asarray(dead))


@pytest.mark.parametrize(
    ("filter", "m", "dtype"),
    [
        *(("cells", m, dtype) for m in (1, 5, 24) for dtype in DTYPES),
        ("cells", 70, "float32"),
        ("cells", 130, "float16"),
        *((filter, 1, dtype) for filter in ("scan", "groups") for dtype in DTYPES),
        ("balls", 9, "float32"),
        ("balls", 9, "float16"),
        ("sweep", 9, "bfloat16"),
        ("scan", 9, "float32"),
        ("groups", 9, "bfloat16"),
    ],
)
def test_spaces_are_searched_apart(filter, m, dtype, rng, gpu):
    """Over two sealed segments, one of them of two chunks and with rows that are dead, and a tail."""
    n = 1500 if m == 1 else 220
    vectors = rng.standard_normal((SPACES, n, DIM)).astype(np.float32).astype(reference.DTYPES[dtype])
    directions = rng.standard_normal((SPACES, m, DIM)).astype(np.float32)
    tau = rng.normal(9, 2, SPACES * m)
    stored, ids, gone = as_bits(vectors), 2 * np.arange(n), np.arange(0, n - 90, 7)
    segments = [
        segment_of(gpu, stored[:, : n - 90], ids[: n - 90], filter, gone),
        segment_of(gpu, stored[:, n - 90 : n - 20], ids[n - 90 : n - 20], filter),
        segment_of(gpu, stored[:, n - 20 :], ids[n - 20 :], "scan"),
    ]
    table, like = Table.of(segments, gpu), gpu.xp.empty(0, stored.dtype)
    question = Question(table, like, gpu.xp.asarray(directions.reshape(-1, DIM)), gpu.xp.asarray(tau))
    found = gpu.search(question)
    offsets, own, scores = gpu.collect(found, 1)
    live = np.setdiff1d(np.arange(n), gone)
    expected = [
        pair
        for space in range(SPACES)
        for pair in reference.query(
            vectors[space, live], directions[space], tau[m * space : m * space + m], ids=ids[live], faster=True
        )
    ]
    assert sum(len(found) for found, _ in expected) > 0
    equal_rows(Hits(own, scores, offsets, found.counts, single=False, columns=0)._on_host(), expected)
    without = gpu.search(question._replace(wanted=Want.IDS))
    same_bits(gpu.xp.asnumpy(without.ids), gpu.xp.asnumpy(own))
    counted = gpu.search(question._replace(wanted=Want.COUNT))
    assert counted.counts.tolist() == found.counts.tolist()


def test_one_threshold_for_all_spaces(rng, gpu):
    vectors = rng.standard_normal((SPACES, 100, DIM)).astype(np.float32)
    directions = rng.standard_normal((SPACES, DIM)).astype(np.float32)
    table = Table.of([segment_of(gpu, vectors, np.arange(100), "cells")], gpu)
    found = gpu.search(Question(table, gpu.xp.empty(0, np.float32), gpu.xp.asarray(directions), 3.0))
    expected = [reference.one(x, q, 3.0) for x, q in zip(vectors, directions, strict=True)]
    offsets, own, scores = gpu.collect(found, 1)
    equal_rows(Hits(own, scores, offsets, found.counts, single=False, columns=0)._on_host(), expected)
