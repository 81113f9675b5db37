"""What once broke it."""

import importlib

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, build, identical

from halfspace import HalfspaceIndex, cpu
from halfspace.files import container
from halfspace.model.counters import STAGES, Want
from halfspace.model.formats import as_bits
from halfspace.model.segment import Segment, join
from halfspace.runtime.lock import Lock

LINE = np.arange(1, 7, dtype=np.float32)[:, None]


@pytest.mark.parametrize("limit", [6, 7, 2**31, 2**63 - 1, 2**63, 2**70])
def test_a_limit_beyond_all_hits(limit):
    hits = build(LINE).query([1.0], 2.0, limit=limit)
    assert hits.ids.tolist() == [1, 2, 3, 4, 5]
    assert hits.scores.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_sparse_matrix_is_a_copy():
    hits = build(LINE).query([[1.0], [2.0]], 2.0, sort=True)
    ids, scores = hits.ids.copy(), hits.scores.copy()
    matrix = hits.to_scipy()
    matrix.sort_indices()
    matrix.data[:] = 0
    np.testing.assert_array_equal(hits.ids, ids)
    np.testing.assert_array_equal(hits.scores, scores)


def test_the_largest_id_is_no_column():
    index = HalfspaceIndex(1)
    index.insert([[1.0]], ids=[2**63 - 1])
    with pytest.raises(ValueError, match=str(2**63 - 1)):
        index.query([1.0], 0.0).to_scipy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_joined_spaces_lie_one_after_the_other(dtype, rng):
    vectors = rng.standard_normal((3, 90, 5)).astype(reference.DTYPES[dtype])
    norms, grain = cpu.measure(as_bits(vectors), 1)
    ids = rng.permutation(90)
    halves = [
        Segment(as_bits(vectors)[:, part], ids[part], norms[:, part], grain) for part in (slice(0, 40), slice(40, 90))
    ]
    halves[0] = halves[0].excluding(np.arange(0, 40, 3))
    joined = join(halves)
    assert joined.vectors.flags.c_contiguous
    assert joined.norms.flags.c_contiguous
    alive = np.setdiff1d(ids, ids[:40:3])
    assert joined.ids.tolist() == alive.tolist()
    rows = np.argsort(ids)[alive]
    np.testing.assert_array_equal(joined.vectors, as_bits(vectors)[:, rows])
    np.testing.assert_array_equal(joined.norms, norms[:, rows])


def test_kernels_refuse_rows_that_lie_apart(rng):
    vectors = rng.standard_normal((1, 8, 6)).astype(np.float32)[:, ::2]
    norms, grain = cpu.measure(vectors, 1)
    with pytest.raises(ValueError, match="contiguous"):
        cpu.tabulate(Segment(vectors, np.arange(4), norms, grain))


def test_counting_a_halfspace_that_holds_everything_reads_codes_alone(rng):
    index = build(rng.standard_normal((5000, 64)).astype(np.float32))
    question, _ = index._asked(index._snapshot, rng.standard_normal(64), -1e3, None, None, Want.COUNT, 1)
    found = cpu.search(question)
    work = dict(zip(STAGES, found.work[:, 0].tolist(), strict=True))
    assert found.counts.tolist() == [5000]
    assert {name: tested for name, tested in work.items() if tested} == {"norms": 5000, "high": 5000}


def test_a_batch_cut_into_blocks(rng, monkeypatch):
    vectors, directions = rng.standard_normal((300, 16)), rng.standard_normal((50, 16)).astype(np.float32)
    index, tau = build(vectors), rng.normal(2, 1, 50)
    options = [{}, {"sort": True}, {"limit": 3}, {"within": np.arange(0, 300, 2)}]
    whole = [index.query(directions, tau, **option) for option in options]
    counts = index.count(directions, tau)
    monkeypatch.setattr(importlib.import_module("halfspace.cpu.search"), "WORKSPACE", 7 * (16 * 16 + 128))
    for option, expected in zip(options, whole, strict=True):
        identical(index.query(directions, tau, **option), expected)
    np.testing.assert_array_equal(index.count(directions, tau), counts)


@pytest.mark.parametrize("filter", ["cells", "groups", "balls", "scan"])
@pytest.mark.parametrize("most", [1, 40, 500])
def test_a_batch_cut_by_its_hits(filter, most, rng, monkeypatch):
    vectors, directions = rng.standard_normal((2500, 8)).astype(np.float32), rng.standard_normal((60, 8))
    index, tau = build(vectors, filter=filter, threads=2), rng.normal(3, 3, 60)
    options = [{}, {"sort": True}, {"limit": 3}, {"scores": False}]
    whole = [index.query(directions, tau, **option) for option in options]
    counts = index.count(directions, tau)
    assert counts.max() > 500
    monkeypatch.setattr(cpu, "MOST_HITS", most)
    for option, expected in zip(options, whole, strict=True):
        ours = index.query(directions, tau, **option)
        if option == {"scores": False}:
            assert ours.scores is None
            assert ours.ids.tolist() == expected.ids.tolist()
        else:
            identical(ours, expected)
    np.testing.assert_array_equal(index.count(directions, tau), counts)


def test_a_refused_direction_is_not_remembered(rng):
    index = HalfspaceIndex(64)
    for ask in (index.query, index.count, index.explain):
        with pytest.raises(ValueError, match=r"directions\[0, 0\] is nan"):
            ask(np.full(64, np.nan, np.float32), 0.0)
    index.insert(rng.standard_normal((40_000, 64)))
    assert index.stats()["filters"] == {"cells": 40_000}


def test_axes_of_long_vectors(rng):
    vectors = rng.standard_normal((4096, 256))
    vectors[:, :8] *= 1.5e17
    index = build(vectors, filter="cells")
    assert np.isfinite(index._snapshot.sealed[0].data.axes.axes).all()
    index.verify()


def test_returned_ids_are_the_callers(rng):
    index = HalfspaceIndex(4, filter="scan")
    ids = index.insert(rng.standard_normal((300, 4)))
    ids += 1000
    assert index.ids.tolist() == list(range(300))


@pytest.mark.parametrize("shape", [(1, 64), (1, 24), (1, 0), (), (4096,)])
def test_more_axes_than_dimensions_are_refused(shape, tmp_path, rng):
    index = build(rng.standard_normal((200, 32)), filter="cells")
    index.save(tmp_path / "index")
    stored = container.read(tmp_path / "index", mmap=False)
    container.write(tmp_path / "index", stored.metadata, stored.arrays | {"0/axes/weights": np.ones(shape, np.float32)})
    with pytest.raises(ValueError, match="axes"):
        HalfspaceIndex.load(tmp_path / "index", mmap=True)


def test_a_writer_inside_a_writer_is_refused():
    lock = Lock()
    with lock.once, pytest.raises(RuntimeError, match="already"), lock.once:
        pass
    with lock.once:
        pass


def test_a_mapped_index_verifies_after_it_has_changed(tmp_path, rng):
    build(rng.standard_normal((600, 8))).save(tmp_path / "index")
    for mmap in (False, True):
        index = HalfspaceIndex.load(tmp_path / "index", mmap=mmap)
        index.delete(np.arange(0, 600, 2))
        index.insert(rng.standard_normal((300, 8)))
        index.verify()
        assert len(index) == 600


def test_integers_beyond_64_bits_as_tau():
    index = build(LINE)
    assert index.count([1.0], 10**30) == 0
    assert index.count([1.0], -(10**30)) == 6


def test_a_limit_beyond_64_bits():
    index = build(LINE)
    identical(index.query([1.0], -np.inf, limit=10**30), index.query([1.0], -np.inf))


def test_a_ball_around_its_centre_is_not_taken_for_less_than_it_is():
    """Its length is negative: a share more of it would lower the threshold of a distance."""
    vectors = np.where(np.arange(1024) % 2, 1.0, -1.0).astype(np.float32)[:, None]
    index = HalfspaceIndex(1, metric="l2", filter="groups")
    index.insert(vectors)
    for k in range(5, 24):
        assert index.count(np.float32([2.0**-k]), 1.0 + 2.0**-23) == 512 + 512 * (k >= 23)


def test_a_batch_of_cosines_next_to_the_centre_is_not_dropped():
    """A length over its scale was infinite in float32, and so was the threshold, however little it lifts."""
    vectors = np.float32([[2.0**20, sign * 2.0**-110] for sign in (1, -1) * 40])
    index = build(vectors, filter="cells", metric="cosine")
    directions = np.repeat(np.float32([[0, 1]]), 16, axis=0)
    assert index.count(directions, 2.0**-140).tolist() == [40] * 16
