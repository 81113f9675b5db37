"""Pairs as tables: items, libraries, files."""

import copy
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest

from halfspace import HalfspaceIndex


@pytest.fixture(scope="module")
def index():
    made = HalfspaceIndex(2, metric="l2")
    made.insert([[0, 0], [1, 0], [5, 5], [5, 6], [0, 1]], ids=[3, 4, 5, 6, 9])
    return made


EXPECTED = [(3, 4, 1.0), (3, 9, 1.0), (5, 6, 1.0)]


def test_items_slices_and_copies(index):
    pairs = index.pairs(1.0)
    assert [tuple(pair) for pair in pairs] == EXPECTED
    assert tuple(pairs[-1]) == EXPECTED[-1]
    assert pairs[0].id_a == 3
    assert [tuple(pair) for pair in pairs[1:]] == EXPECTED[1:]
    with pytest.raises(IndexError):
        pairs[3]
    assert [pair.score for pair in index.pairs(1.0, scores=False)] == [None] * 3
    for other in (copy.copy(pairs), pickle.loads(pickle.dumps(pairs))):
        assert list(other) == list(pairs)
    assert repr(pairs) == "<Pairs: 3>"
    assert repr(index.pairs(1.0, blocks=True)).startswith("<PairBlocks")


def test_tables_of_other_libraries(index):
    pairs = index.pairs(1.0)
    rows = [dict(zip(("id_a", "id_b", "score"), row, strict=True)) for row in EXPECTED]
    assert pairs.to_arrow().to_pylist() == rows
    assert pairs.to_pandas().to_dict("records") == rows
    assert pairs.to_polars().to_dicts() == rows
    matrix = pairs.to_scipy()
    assert matrix.shape == (10, 10)
    assert matrix.toarray()[3, 9] == 1.0
    assert matrix.nnz == 3


def test_parquet_of_blocks_and_of_the_whole(index, tmp_path):
    for number, pairs in enumerate([index.pairs(1.0), index.pairs(1.0, blocks=True)]):
        path = tmp_path / f"{number}.parquet"
        assert pairs.to_parquet(path) == 3
        table = pq.read_table(path)
        assert sorted(zip(*table.to_pydict().values(), strict=True)) == EXPECTED
        assert [str(field.type) for field in table.schema] == ["int64", "int64", "float"]
    path = tmp_path / "none.parquet"
    assert index.pairs(-1.0, blocks=True, scores=False).to_parquet(path) == 0
    assert pq.read_table(path).schema.names == ["id_a", "id_b"]
    assert HalfspaceIndex(2).pairs(0, blocks=True).to_parquet(path) == 0


def test_a_file_is_whole_or_as_it_was(index, tmp_path):
    path = tmp_path / "pairs.parquet"
    index.pairs(1.0).to_parquet(path)
    before = path.read_bytes()

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.pairs(1.0, blocks=True, progress=stop).to_parquet(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="no such folder"):
        index.pairs(1.0).to_parquet(tmp_path / "missing" / "pairs.parquet")


def test_matrices_need_ids_that_are_rows():
    index = HalfspaceIndex(1)
    index.insert([[1], [1]], ids=[-5, 3])
    with pytest.raises(ValueError, match="-5"):
        index.pairs(0.0).to_scipy()
    assert np.array_equal(index.pairs(0.0).ids_a, [-5])
