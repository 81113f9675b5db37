"""A filter that one file adds is one like the others: exact, kept in files, explained, named wherever filters are.

That it is exact, ``test_exactness.py`` shows.
"""

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, build, equal
from helpers.lengths import LENGTHS, Lengths

from halfspace import HalfspaceIndex
from halfspace.model import filters
from halfspace.model.counters import Stage


@pytest.fixture
def vectors(rng):
    return (rng.standard_normal((5000, 9)) * rng.pareto(1.5, (5000, 1))).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mmap", [False, True])
def test_it_is_saved_and_loaded(mmap, dtype, vectors, rng, tmp_path):
    index = build(vectors.clip(-6e4, 6e4), filter="lengths", dtype=dtype)
    index.delete([3, 777])
    index.insert(vectors[:5].clip(-6e4, 6e4))
    index.save(tmp_path / "index")
    loaded = HalfspaceIndex.load(tmp_path / "index", mmap=mmap)
    loaded.verify()
    assert loaded.filter == "lengths"
    assert isinstance(loaded._snapshot.sealed[0].data, Lengths)
    stored, q = loaded.vectors(loaded.ids), rng.standard_normal(9).astype(np.float32)
    for tau in (2.0, 10.0):
        equal(loaded.query(q, tau), reference.query(stored, q[None], tau, ids=loaded.ids, faster=True)[0])
        assert loaded.count(q, tau) == index.count(q, tau)


def test_damage_is_found(vectors, tmp_path):
    index = build(vectors, filter="lengths")
    index._snapshot.sealed[0].data.longest[0, 7] += 1
    with pytest.raises(ValueError, match=r"segment 0: lengths/longest do not fit the vectors"):
        index.verify()


def test_it_is_explained(vectors, rng):
    index = build(vectors, filter="lengths")
    q = rng.standard_normal(9).astype(np.float32)
    explanation = index.explain(q, 60.0)
    norms, verify = explanation.stage("norms"), explanation.stage("verify")
    assert norms.tested == 5000
    assert norms.dropped > 1000
    assert norms.left == verify.tested == 5000 - norms.dropped
    assert norms.bytes_read == 4 * 313 == index.stats()["bytes_codes"]
    assert "norms" in str(explanation)


def test_it_stands_where_filters_stand():
    assert "lengths" in filters.names()
    assert "lengths" not in filters.tried(8, "cpu", "ip")  # unless it says so
    with pytest.raises(ValueError, match="'lengths' already"):
        filters.register(LENGTHS)
    with pytest.raises(ValueError, match="subspaces belongs to the filters 'balls' and 'sweep', not to 'lengths'"):
        HalfspaceIndex(3, filter="lengths", subspaces=2)
    with pytest.raises(ValueError, match=r"must be one of 'auto', .*'sweep', 'lengths', got 'length'"):
        HalfspaceIndex(3, filter="length")


def test_segments_of_several_filters_answer_as_one(vectors, rng):
    """A table whose segments have different filters is searched by one kernel after another."""
    index = build(vectors[:2000], filter="lengths")
    for k, name in enumerate(("cells", "groups", "sweep", "scan")):
        part = build(vectors[2000 + 700 * k : 2700 + 700 * k], filter=name, ids=np.arange(700) + 2000 + 700 * k)
        snapshot = index._snapshot
        index._publish(snapshot.holding([*snapshot.sealed, *part._snapshot.sealed], snapshot.tail))
    index._snapshot = index._snapshot.__class__(
        index._snapshot.sealed, index._snapshot.tail, 4800, index._snapshot.builder
    )
    index.insert(vectors[4800:])
    assert len(index.stats()["filters"]) == 5
    for m in (1, 3, 40):
        directions = rng.standard_normal((m, 9)).astype(np.float32)
        expected = reference.query(vectors, directions, 9.0, faster=True)
        for threads in (1, 2):
            hits = index.query(directions, 9.0, threads=threads)
            for ours, theirs in zip(hits, expected, strict=True):
                equal(ours, theirs)
            assert index.count(directions, 9.0, threads=threads).tolist() == [len(ids) for ids, _ in expected]
    explanation = index.explain(directions[0], 9.0)
    assert {"norms", "high", "chunks", "sweep", "scan"} <= {stage.name for stage in explanation.stages}


def test_the_table_has_all_stages():
    """Every stage is of some filter, or of verification, which comes after all of them."""
    counted = {stage for spec in filters.FILTERS.values() for stage in spec.stages}
    assert counted | {Stage.VERIFY, Stage.EXACT} == set(Stage)
    assert all(spec.summary and spec.stages == tuple(sorted(spec.stages)) for spec in filters.FILTERS.values())
