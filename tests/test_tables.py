"""Answers handed on: as tables of Arrow, pandas and polars, and as pickles."""

import copy
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from helpers.checking import build, identical

from halfspace import Hits
from halfspace.explain import Explanation

VECTORS = np.array([[2, 0], [1, 1], [0, 2], [-1, -1], [1, 1], [3, -1]], np.float32)
IDS = [40, 30, 20, 10, 5, 60]
DIRECTIONS = np.array([[1, 1], [5, 5], [1, 0], [-1, 0], [-9, 0]], np.float32)
TAU = [2.0, np.inf, 1.0, 0.5, np.inf]
HITS = [(0, 5, 2.0), (0, 20, 2.0), (0, 30, 2.0), (0, 40, 2.0), (0, 60, 2.0)]
HITS += [(2, 5, 1.0), (2, 30, 1.0), (2, 40, 2.0), (2, 60, 3.0), (3, 10, 1.0)]


@pytest.fixture(scope="module")
def index():
    return build(VECTORS, ids=IDS)


def columns(table):
    """Columns by their names, as arrays of NumPy, and the dtypes of a table of any library."""
    if isinstance(table, pyarrow.Table):
        return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}
    return {name: table[name].to_numpy() for name in table.columns}


def check(hits, expected, scores=True):
    names = ["query", "id", "score"][: 3 if scores else 2]
    kinds = {"to_arrow": pyarrow.Table, "to_pandas": pandas.DataFrame, "to_polars": polars.DataFrame}
    for method, kind in kinds.items():
        table = getattr(hits, method)()
        assert isinstance(table, kind)
        own = columns(table)
        assert list(own) == names
        assert [column.dtype.name for column in own.values()] == ["int64", "int64", "float32"][: len(names)]
        assert list(zip(*(column.tolist() for column in own.values()), strict=True)) == expected
    assert hits.queries.dtype == np.int64
    assert hits.queries.tolist() == [row[0] for row in expected]


def test_a_batch(index):
    check(index.query(DIRECTIONS, TAU), HITS)
    check(index.query(DIRECTIONS, TAU, scores=False), [row[:2] for row in HITS], scores=False)


def test_rows_are_in_the_order_of_the_answer(index):
    best = [(0, 5, 2.0), (0, 20, 2.0), (2, 60, 3.0), (2, 40, 2.0), (3, 10, 1.0)]
    hits = index.query(DIRECTIONS, TAU, sort=True, limit=2)
    check(hits, best)
    assert hits.totals.tolist() == [5, 0, 4, 1, 0]


def test_one_direction_and_parts_of_answers_are_counted_from_0(index):
    hits = index.query(DIRECTIONS, TAU)
    third = [(0, *row[1:]) for row in HITS if row[0] == 2]
    check(index.query(DIRECTIONS[2], 1.0), third)
    check(hits[2], third)
    check(hits[2][1:3], third[1:3])
    check(hits[2:], [(row[0] - 2, *row[1:]) for row in HITS if row[0] >= 2])
    check(hits[::-1], [(4 - row[0], *row[1:]) for row in HITS[9:] + HITS[5:9] + HITS[:5]])


@pytest.mark.parametrize("directions", [DIRECTIONS, DIRECTIONS[0], DIRECTIONS[:0]])
def test_no_hits(index, directions):
    check(index.query(directions, np.inf), [])
    check(index.query(directions, np.inf, scores=False), [], scores=False)


def test_rows_belong_to_directions_however_many_are_empty(rng):
    index = build(rng.integers(-3, 4, (300, 3)).astype(np.float32))
    hits = index.query(rng.integers(-3, 4, (200, 3)), rng.integers(0, 30, 200))
    assert hits.queries.tolist() == np.repeat(np.arange(200), np.diff(hits.offsets)).tolist()


def test_ids_and_scores_are_read_in_place(index):
    hits = index.query(DIRECTIONS, TAU)
    for method in ("to_arrow", "to_pandas"):
        own = columns(getattr(hits, method)())
        assert np.shares_memory(own["id"], hits.ids)
        assert np.shares_memory(own["score"], hits.scores)
    table = hits.to_arrow()
    del hits
    assert table["id"].to_pylist() == [row[1] for row in HITS]


@pytest.mark.parametrize("library", ["pyarrow", "pandas", "polars"])
def test_a_library_that_is_missing_is_named(library, index, monkeypatch):
    hits = index.query(DIRECTIONS, TAU)
    monkeypatch.setitem(sys.modules, library, None)
    method = {"pyarrow": "to_arrow", "pandas": "to_pandas", "polars": "to_polars"}[library]
    with pytest.raises(ImportError, match=f"{method} needs {library}: pip install {library}") as error:
        getattr(hits, method)()
    assert error.value.name == library
    assert ("tables" in str(error.value)) == (library == "pyarrow")
    others = {"to_arrow", "to_pandas", "to_polars"} - {method}
    for other in others:
        getattr(hits, other)()


def test_none_of_the_libraries_is_imported_before_it_is_asked_for():
    code = (
        "import sys, numpy, halfspace; i = halfspace.HalfspaceIndex(2); i.insert([[1, 2]]); "
        "h = i.query([1, 1], 0); h.queries; print({'pyarrow', 'pandas', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_rows_take_the_room_of_a_few_arrays():
    m, count = 1000, 1000
    ids, offsets = np.zeros(m * count, np.int64), np.arange(m + 1) * count
    hits = Hits(ids, None, offsets, np.full(m, count), single=False, columns=1)
    tracemalloc.start()
    assert hits.queries[-1] == m - 1
    assert tracemalloc.get_traced_memory()[1] < 4 * ids.nbytes
    tracemalloc.stop()


# Pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("scores", [True, False])
def test_answers_are_pickled(index, scores, protocol):
    hits = index.query(DIRECTIONS, TAU, scores=scores)
    for own in (hits, hits[1:], hits[2], hits[3][:0]):
        again = pickle.loads(pickle.dumps(own, protocol))
        assert type(again) is Hits
        assert repr(again) == repr(own)
        assert len(again) == len(own)
        assert (again.to_scipy() != own.to_scipy()).nnz == 0
        if scores:
            identical(again, own)
        else:
            assert again.scores is None
            assert again.ids.tolist() == own.ids.tolist()


def test_answers_are_copied(index):
    hits = index.query(DIRECTIONS, TAU)
    identical(copy.copy(hits), hits)
    deep = copy.deepcopy(hits)
    identical(deep, hits)
    deep.ids[:] = 0
    assert hits.ids[0] == 5


def test_explanations_and_counts_are_pickled(index):
    explanation = index.explain(DIRECTIONS[0], 1.0)
    again = pickle.loads(pickle.dumps(explanation))
    assert type(again) is Explanation
    assert again == explanation
    assert str(again) == str(explanation)
    stats = pickle.loads(pickle.dumps(index.stats()))
    assert stats == index.stats()
    assert stats["bytes_cells"] == stats["bytes_codes"]
