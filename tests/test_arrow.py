"""Record batches in, record batches out: what `query` and `search` find, row for row."""

import json
import multiprocessing

import numpy as np
import pyarrow
import pytest
from helpers.checking import build
from helpers.command import fail, succeed
from pyarrow import parquet

from halfspace import Shards
from halfspace.arrow import matches, opened

D = 4


@pytest.fixture
def vectors(rng):
    return rng.integers(-3, 4, (600, D)).astype(np.float32)


@pytest.fixture
def table(rng):
    numbers = rng.integers(-2, 3, (50, D)).astype(np.float32)
    numbers[7] = 0
    return pyarrow.table(
        {
            "id": [f"row {number}" for number in range(50)],
            "embedding": pyarrow.FixedSizeListArray.from_arrays(numbers.ravel(), D),
        }
    )


def numbers_of(table):
    return np.array(table["embedding"].to_pylist(), np.float32)


def expected(vectors, table, tau):
    """Rows, ids and products, of small integers exactly."""
    products = numbers_of(table).astype(np.int64) @ vectors.astype(np.int64).T
    rows, ids = np.nonzero(products >= tau)
    return rows.tolist(), ids.tolist(), products[rows, ids].tolist()


def whole(found):
    return pyarrow.Table.from_batches(list(found))


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("scores", [True, False])
def test_what_reaches_tau(vectors, table, size, scores):
    index = build(vectors)
    found = whole(matches(table.to_batches(max_chunksize=size), index, 8, scores=scores, keep={"id": "name"}))
    rows, ids, products = expected(vectors, table, 8)
    assert found.schema.names == ["query", "name", "id", *(["score"] if scores else [])]
    assert (found["query"].to_pylist(), found["id"].to_pylist()) == (rows, ids)
    assert found["name"].to_pylist() == [f"row {row}" for row in rows]
    if scores:
        assert found["score"].to_pylist() == products
        assert found.schema.field("score").type == pyarrow.float32()


@pytest.mark.parametrize("tau", [None, 6.0])
def test_the_k_best(vectors, table, tau):
    index = build(vectors)
    found = whole(matches(table.to_reader(max_chunksize=9), index, tau, k=5, column="embedding"))
    hits = index.search(numbers_of(table), 5, tau=tau)
    assert found["query"].to_pylist() == hits.queries.tolist()
    assert found["id"].to_pylist() == hits.ids.tolist()
    assert found["score"].to_pylist() == hits.scores.tolist()


def test_paths_and_shards(tmp_path, vectors, table):
    index = build(vectors)
    index.save(tmp_path / "x.index")
    Shards.build(tmp_path / "shards", vectors, shard_rows=100)
    wanted = whole(matches([table], index, 8))
    for asked in (tmp_path / "x.index", str(tmp_path / "shards"), Shards(tmp_path / "shards")):
        assert whole(matches([table], asked, 8)).equals(wanted)
    assert opened(tmp_path / "x.index") is opened(str(tmp_path / "x.index"))
    Shards(tmp_path / "shards").delete([0])
    assert 0 not in whole(matches([table], tmp_path / "shards", -100))["id"].to_pylist()


def in_a_worker(path, table):
    return whole(matches([table], path, 8, threads=1))


def test_it_may_be_sent_to_other_processes(tmp_path, vectors, table):
    build(vectors).save(tmp_path / "x.index")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(in_a_worker, (tmp_path / "x.index", table)).equals(whole(matches([table], build(vectors), 8)))


def test_nothing_found_and_nothing_given(vectors, table):
    index = build(vectors)
    assert list(matches([], index, 8)) == []
    for given in ([table], [table[:0]], [table.to_batches()[0][:0]]):
        for how in ({"tau": 1e9}, {"k": 0}):
            found = whole(matches(given, index, **how, keep={"id": "name"}))
            assert found.num_rows == 0
            assert found.schema.names == ["query", "name", "id", "score"]


def test_what_is_wrong_is_named(vectors, table):
    index = build(vectors)
    with pytest.raises(TypeError, match="needs tau, a threshold, or k"):
        matches([table], index)
    with pytest.raises(ValueError, match=r"keep: matches have a column 'id' of their own: rename it, as \{'id'"):
        matches([table], index, 1, keep=["id"])
    with pytest.raises(ValueError, match="keep: no column named 'other'"):
        list(matches([table], index, 1, keep=["other"]))
    with pytest.raises(ValueError, match="no column named 'other'"):
        list(matches([table], index, 1, column="other"))
    with pytest.raises(ValueError, match="0 columns hold lists: name one by column=; there are id"):
        list(matches([table.select(["id"])], index, 1))
    bad = numbers_of(table)
    bad[33, 1] = np.nan
    wrong = pyarrow.table({"embedding": list(bad)})
    with pytest.raises(ValueError, match=r"rows from 30 on: .*\[3, 1\] is nan"):
        list(matches(wrong.to_batches(max_chunksize=10), index, 1))


# the command line


@pytest.fixture
def files(tmp_path, vectors, table):
    folder = tmp_path / "asked"
    folder.mkdir()
    parquet.write_table(table[:20], folder / "a.parquet")
    parquet.write_table(table[20:], folder / "b.parquet")
    np.save(tmp_path / "x.npy", vectors)
    succeed("build", tmp_path / "x.npy", "-o", tmp_path / "x.index")
    return folder


def test_parquet_in_and_parquet_out(tmp_path, files, vectors, table):
    output = tmp_path / "found.parquet"
    summary = json.loads(
        succeed("match", tmp_path / "x.index", files, "--tau", 8, "--keep", "id:name", "-o", output, "--json")
    )
    wanted = whole(matches([table], build(vectors), 8, keep={"id": "name"}))
    assert parquet.read_table(output).equals(wanted)
    assert (summary["rows"], summary["matches"]) == (50, wanted.num_rows)
    succeed("match", tmp_path / "x.index", f"{files}/*.parquet:embedding", "-k", 3, "-o", output)
    assert parquet.read_table(output)["id"].to_pylist() == build(vectors).search(numbers_of(table), 3).ids.tolist()


def test_shards_on_the_command_line(tmp_path, files, vectors, table):
    summary = json.loads(succeed("build", tmp_path / "x.npy", "-o", tmp_path / "shards", "--shard-rows", 250, "--json"))
    assert (summary["vectors"], len(Shards(tmp_path / "shards").files)) == (600, 3)
    document = json.loads(succeed("query", tmp_path / "shards", tmp_path / "x.npy", "--tau", 30, "--json"))
    assert [answer["ids"] for answer in document["answers"]] == [
        hits.ids.tolist() for hits in build(vectors).query(vectors, 30)
    ]
    assert json.loads(succeed("info", tmp_path / "shards", "--verify", "--json"))["verified"]
    succeed("match", tmp_path / "shards", files, "--tau", 8, "-o", tmp_path / "found.parquet")
    assert parquet.read_table(tmp_path / "found.parquet").equals(whole(matches([table], build(vectors), 8)))


def test_bad_usage(tmp_path, files):
    output = tmp_path / "found.parquet"
    assert "needs --tau, a threshold, or -k" in fail(2, "match", tmp_path / "x.index", files, "-o", output)
    assert "holds no Parquet" in fail(2, "match", tmp_path / "x.index", tmp_path / "x.npy", "--tau", 1, "-o", output)
    line = fail(2, "match", tmp_path / "x.index", files, "--tau", 1, "-o", tmp_path / "found.csv")
    assert "known are .parquet" in line
    line = fail(2, "match", tmp_path / "x.index", files, "--tau", 1, "-o", files / "a.parquet")
    assert "is the input" in line
    assert not output.exists()
