"""Joins on a GPU: the same pairs as on the CPU, which the oracle has judged."""

import numpy as np
import pytest
from helpers import reference
from on_gpu import make

from halfspace import HalfspaceIndex

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("filter", ["cells", "groups", "scan"])
def test_joins_are_those_of_the_cpu(filter, metric, rng, gpu):
    vectors = rng.integers(1, 5, (1100, 4)).astype(np.float32)
    ids = np.sort(rng.permutation(3000)[:1100])
    ours, theirs = make(gpu, vectors, filter=filter, ids=ids, metric=metric), HalfspaceIndex(4, metric=metric)
    theirs.insert(vectors, ids)
    for index in (ours, theirs):
        index.delete(gpu.xp.asarray(ids[:50]) if index is ours else ids[:50])
    tau = {"ip": 55.0, "cosine": 0.995, "l2": 0.0}[metric]
    found, expected = ours.pairs(tau), theirs.pairs(tau)
    assert len(expected) > 50
    for name in ("ids_a", "ids_b"):
        assert gpu.xp.asnumpy(getattr(found, name)).tolist() == getattr(expected, name).tolist()
    assert reference.bits(gpu.xp.asnumpy(found.scores)).tolist() == reference.bits(expected.scores).tolist()
    assert found.to_arrow().equals(expected.to_arrow())
    assert [tuple(pair) for pair in found[:3]] == [tuple(pair) for pair in expected[:3]]
    assert ours.groups(tau).tolist() == theirs.groups(tau).tolist()
    assert ours.representatives(tau).tolist() == theirs.representatives(tau).tolist()
    assert ours.histogram([tau]).tolist() == [len(expected)]
    assert ours.histogram([tau], gpu.xp.asarray(vectors[:2])).tolist() == theirs.histogram([tau], vectors[:2]).tolist()
    other = gpu.xp.asarray(vectors[:20])
    assert [tuple(pair) for pair in ours.join(other, tau)] == [tuple(pair) for pair in theirs.join(vectors[:20], tau)]
