"""What a query hands back, and what it takes."""

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, build, equal, identical

from halfspace import HalfspaceIndex, Hits

VECTORS = np.array([[2, 0], [1, 1], [0, 2], [-1, -1], [1, 1], [3, -1]], np.float32)
IDS = [40, 30, 20, 10, 5, 60]  # the answer is ordered by id, not by row
DIRECTIONS = np.array([[1, 1], [1, 0], [-1, 0]], np.float32)


@pytest.fixture
def index():
    return build(VECTORS, ids=IDS)


def test_one_direction(index):
    hits = index.query(DIRECTIONS[0], 2)
    assert isinstance(hits, Hits)
    assert len(hits) == 5
    assert hits.ids.tolist() == [5, 20, 30, 40, 60]
    assert hits.scores.tolist() == [2] * 5
    assert hits.offsets.tolist() == [0, 5]
    assert hits.totals.tolist() == [5]
    assert hits[1] == (20, 2.0)
    assert (hits[-1].id, hits[-1].score) == (60, 2.0)
    assert [hit.id for hit in hits] == hits.ids.tolist()
    assert [tuple(hit) for hit in hits] == list(zip(hits.ids.tolist(), hits.scores.tolist(), strict=True))
    assert isinstance(hits[1:3], Hits)
    assert hits[1:3].ids.tolist() == [20, 30]
    assert hits[1:3].scores.tolist() == [2, 2]
    assert len(hits[1:3]) == 2
    assert len(hits[5:]) == 0
    for beyond in (5, -6):
        with pytest.raises(IndexError):
            hits[beyond]


def test_a_batch(index):
    hits = index.query(DIRECTIONS, [2, 1, 0.5])
    assert isinstance(hits, Hits)
    assert len(hits) == 3
    assert hits.offsets.tolist() == [0, 5, 9, 10]
    assert hits.ids.tolist() == [5, 20, 30, 40, 60, 5, 30, 40, 60, 10]
    assert hits.totals.tolist() == [5, 4, 1]
    assert [one.ids.tolist() for one in hits] == [[5, 20, 30, 40, 60], [5, 30, 40, 60], [10]]
    assert all(isinstance(one, Hits) for one in hits)
    identical(hits[-1], hits[2])
    identical(hits[1], index.query(DIRECTIONS[1], 1))
    assert hits[2][0] == (10, 1.0)
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            hits[beyond]


def test_a_slice_of_a_batch_is_a_batch(index):
    hits = index.query(DIRECTIONS, [2, 1, 0.5])
    assert isinstance(hits[1:], Hits)
    assert len(hits[1:]) == 2
    assert [one.ids.tolist() for one in hits[1:]] == [[5, 30, 40, 60], [10]]


@pytest.mark.parametrize("directions", [DIRECTIONS, DIRECTIONS[:1], DIRECTIONS[0], DIRECTIONS[:0]])
@pytest.mark.parametrize("tau", [-np.inf, 1.5, np.inf])
def test_dtypes_and_shapes(index, directions, tau):
    m = 1 if directions.ndim == 1 else len(directions)
    hits = index.query(directions, tau)
    assert hits.ids.dtype == hits.offsets.dtype == hits.totals.dtype == np.int64
    assert hits.scores.dtype == np.float32
    assert hits.offsets.shape == (m + 1,)
    assert hits.totals.shape == (m,)
    assert hits.ids.shape == hits.scores.shape == (hits.offsets[-1],)
    assert hits.totals.tolist() == np.diff(hits.offsets).tolist()
    assert len(hits) == (hits.totals[0] if directions.ndim == 1 else m)
    assert index.query(directions, tau, scores=False).scores is None


def test_without_scores(index):
    hits = index.query(DIRECTIONS[0], 2, scores=False)
    assert hits.scores is None
    assert hits.ids.tolist() == [5, 20, 30, 40, 60]
    assert hits[0].id == 5
    assert hits[0].score is None
    assert [one.ids.tolist() for one in index.query(DIRECTIONS, 2, scores=False)] == [[5, 20, 30, 40, 60], [40, 60], []]


def test_count(index):
    one = index.count(DIRECTIONS[0], 2)
    assert type(one) is int
    assert one == 5
    many = index.count(DIRECTIONS, 2)
    assert many.dtype == np.int64
    assert many.tolist() == [5, 2, 0]
    assert index.count(DIRECTIONS[:0], 2).shape == (0,)


def test_an_empty_index():
    index = HalfspaceIndex(2)
    assert len(index) == 0
    assert index.query(DIRECTIONS[0], -np.inf).ids.tolist() == []
    assert index.query(DIRECTIONS, -np.inf).offsets.tolist() == [0, 0, 0, 0]
    assert index.count(DIRECTIONS, -np.inf).tolist() == [0, 0, 0]
    for nothing in ([], np.empty((0, 2))):
        assert index.insert(nothing).shape == (0,)
        assert index.query(nothing, 0.0).offsets.tolist() == [0]
        assert index.count(nothing, 0.0).shape == (0,)
    index.compact()
    assert index.ids.tolist() == []
    assert index.vectors([]).shape == (0, 2)


def test_sort_is_by_descending_score_then_id(index):
    hits = index.query(DIRECTIONS[1], -np.inf, sort=True)
    assert hits.ids.tolist() == [60, 40, 5, 30, 20, 10]
    assert hits.scores.tolist() == [3, 2, 1, 1, 0, -1]


def test_limit_keeps_the_best_and_says_so(index):
    hits = index.query(DIRECTIONS[1], 0, limit=3)
    assert hits.ids.tolist() == [5, 40, 60]
    assert hits.scores.tolist() == [1, 2, 3]
    assert hits.totals.tolist() == [5]
    assert hits.offsets.tolist() == [0, 3]
    assert len(hits) == 3
    assert index.query(DIRECTIONS[1], 0, limit=3, sort=True).ids.tolist() == [60, 40, 5]
    batch = index.query(DIRECTIONS, [2, 1, 0.5], limit=2)
    assert batch.ids.tolist() == [5, 20, 40, 60, 10]
    assert batch.totals.tolist() == [5, 4, 1]
    assert index.query(DIRECTIONS, 2, limit=0).ids.tolist() == []
    assert index.query(DIRECTIONS, 2, limit=0).totals.tolist() == [5, 2, 0]
    without = index.query(DIRECTIONS[1], 0, limit=3, scores=False)
    assert without.ids.tolist() == [5, 40, 60]
    assert without.scores is None
    assert without.totals.tolist() == [5]
    identical(index.query(DIRECTIONS, 0, limit=100), index.query(DIRECTIONS, 0))


@pytest.mark.parametrize("limit", [1, 2, 7, 100, 1000])
def test_limit_among_ties(limit, rng):
    vectors = rng.integers(-1, 2, (700, 6)).astype(np.float32)
    ids = rng.permutation(5000)[:700]
    index = build(vectors, ids=ids)
    directions = rng.integers(-2, 3, (9, 6)).astype(np.float32)
    for sort in (True, False):
        hits = index.query(directions, 1, limit=limit, sort=sort)
        for ours, (found, scores) in zip(hits, reference.query(vectors, directions, 1, ids=ids), strict=True):
            best = reference.best(found, scores, limit)
            equal(ours, best if sort else tuple(part[np.argsort(best[0])] for part in best))
            assert ours.totals.tolist() == [len(found)]


def test_the_sign_of_a_zero_score_does_not_order(rng):
    vectors = np.array([[-1e-30], [1e-30], [0], [-1e-30]], np.float32)
    index = build(vectors, ids=[3, 2, 1, 0])
    hits = index.query(np.array([1e-30], np.float32), -1, sort=True)
    equal(hits, (np.array([0, 1, 2, 3]), np.array([-0.0, 0, 0, -0.0], np.float32)))
    assert index.query(np.array([1e-30], np.float32), -1, limit=2).ids.tolist() == [0, 1]


def test_to_scipy(index):
    hits = index.query(np.concatenate([DIRECTIONS, [[0, 0]]]), [2, 0, 0.5, 0])
    matrix = hits.to_scipy()
    assert matrix.format == "csr"
    assert matrix.shape[0] == 4
    assert matrix.shape[1] > 60
    assert matrix.indptr.tolist() == hits.offsets.tolist()
    assert matrix.indices.tolist() == hits.ids.tolist()
    assert matrix.data.tolist() == hits.scores.tolist()
    assert matrix.dtype == np.float32
    assert matrix.nnz == 5 + 5 + 1 + 6  # the zeros of the second and of the last row among them
    assert matrix.toarray()[1, 60] == 3
    single = index.query(DIRECTIONS[0], 2).to_scipy()
    assert single.shape[0] == 1
    assert single.indices.tolist() == [5, 20, 30, 40, 60]


def test_to_scipy_refuses_negative_ids():
    index = build(VECTORS, ids=[4, -7, 2, 3, 9, 8])
    hits = index.query(DIRECTIONS, 0)
    assert -7 in hits.ids
    with pytest.raises(ValueError, match="-7"):
        hits.to_scipy()


def test_negative_ids_are_ordinary_ids():
    index = build(VECTORS, ids=[4, -7, 2, -(2**63), 2**63 - 1, 0])
    assert index.query(DIRECTIONS[0], -np.inf).ids.tolist() == [-(2**63), -7, 0, 2, 4, 2**63 - 1]
    assert -7 in index
    assert index.vectors([-(2**63)]).tolist() == [[-1, -1]]


def layouts(array):
    """The same values, laid out in every way that an array may come."""
    frozen = array.copy()
    frozen.flags.writeable = False
    wide = np.zeros((2 * array.shape[0], 3 * array.shape[1]), array.dtype)
    wide[::2, ::3] = array
    swapped = array.astype(array.dtype.newbyteorder())
    return {
        "read-only": frozen,
        "Fortran": np.asfortranarray(array),
        "strided": wide[::2, ::3],
        "reversed": array[::-1, ::-1].copy()[::-1, ::-1],
        "other endian": swapped,
        "list": array.tolist(),
        "tuple of tuples": tuple(map(tuple, array.tolist())),
    }


@pytest.mark.parametrize("layout", layouts(VECTORS))
@pytest.mark.parametrize("source", ["float32", "float64", "float16", "int64", "int8"])
def test_every_layout_of_the_input(layout, source, index):
    expected = index.query(DIRECTIONS, [2, 1, 0.5])
    vectors, directions = (layouts(a.astype(source))[layout] for a in (VECTORS, DIRECTIONS))
    other = HalfspaceIndex(2)
    other.insert(vectors, ids=IDS)
    other.compact()
    identical(other.query(directions, [2, 1, 0.5]), expected)
    identical(other.query(directions[1], 1), expected[1])


def test_truth_values_are_zero_and_one():
    index = build(VECTORS > 0, ids=IDS)
    assert index.vectors(IDS).tolist() == (VECTORS > 0).astype(float).tolist()
    assert index.query(DIRECTIONS[0] > 0, 2).ids.tolist() == [5, 30]


@pytest.mark.parametrize("ids", [[7, 3], (7, 3), np.array([7, 3], np.int8), np.array([7, 3], np.uint64)])
def test_ids_of_any_integer_type(ids):
    index = HalfspaceIndex(2)
    ours = index.insert(VECTORS[:2], ids=ids)
    assert ours.dtype == np.int64
    assert ours.tolist() == [7, 3]
    assert sorted(index.ids.tolist()) == [3, 7]
    assert index.vectors(ids).tolist() == VECTORS[:2].tolist()
    index.delete(ids)
    assert len(index) == 0


@pytest.mark.parametrize("tau", [1, 1.0, np.float32(1), np.float64(1), np.int64(1), np.array(1.0), np.array([1.0] * 3)])
def test_tau_of_any_real_type(index, tau):
    assert index.count(DIRECTIONS, tau).tolist() == [5, 4, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_come_in_the_order_asked_for(dtype):
    index = build(VECTORS, ids=IDS, dtype=dtype)
    ours = index.vectors([20, 60, 20])
    assert ours.dtype == reference.DTYPES[dtype]
    assert ours.astype(float).tolist() == [[0, 2], [3, -1], [0, 2]]


def test_what_is_handed_back_is_not_the_index(index):
    before = index.query(DIRECTIONS, 0)
    for array in (index.ids, index.vectors(IDS), index.query(DIRECTIONS, 0).ids, index.query(DIRECTIONS, 0).scores):
        if array.flags.writeable:
            array[...] = 1
    given = VECTORS.copy()
    other = HalfspaceIndex(2)
    other.insert(given, ids=IDS)
    given[...] = 0
    identical(index.query(DIRECTIONS, 0), before)
    identical(other.query(DIRECTIONS, 0), before)


def test_within_by_ids_and_by_mask(index):
    mask = np.zeros(61, bool)
    mask[[5, 60]] = True
    for within in ([5, 60], np.array([60, 5]), np.array([60, 5, 60]), mask, np.append(mask, [False] * 9)):
        hits = index.query(DIRECTIONS, [2, 1, 0.5], within=within)
        assert [one.ids.tolist() for one in hits] == [[5, 60], [5, 60], []]
        assert hits.totals.tolist() == [2, 2, 0]
        assert index.count(DIRECTIONS, [2, 1, 0.5], within=within).tolist() == [2, 2, 0]
        assert index.count(DIRECTIONS[0], 2, within=within) == 2
    assert index.count(DIRECTIONS, -np.inf, within=[]).tolist() == [0, 0, 0]
