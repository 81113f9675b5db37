"""Columns of lists are read whole, in pieces of any size, and rows that are wrong are named."""

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from helpers.command import fail, succeed
from pyarrow import parquet

from halfspace import HalfspaceIndex
from halfspace.files import parquet as reader
from halfspace.files.vectors import read_vectors

ROWS = np.arange(60).reshape(20, 3) - 25
KINDS = {
    "fixed": lambda value: pa.list_(value, 3),
    "list": pa.list_,
    "large": pa.large_list,
    "tensor": lambda value: pa.fixed_shape_tensor(value, [3]),
}


def column(rows, kind, value):
    """Make a column of this kind of lists."""
    lists = pa.array([list(row) for row in rows], pa.list_(value, 3) if kind == "tensor" else KINDS[kind](value))
    return pa.ExtensionArray.from_storage(KINDS[kind](value), lists) if kind == "tensor" else lists


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u1", "i8"])
@pytest.mark.parametrize(("group", "piece"), [(20, 4096), (7, 4), (6, 6)])
def test_columns(tmp_path, kind, dtype, group, piece, monkeypatch):
    monkeypatch.setattr(reader, "_ROWS", piece)
    expected = np.abs(ROWS).astype(dtype)
    table = pa.table({"id": range(20), "v": column(expected, kind, pa.from_numpy_dtype(dtype)), "text": ["a"] * 20})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=group)
    seen = []
    for path in ("x.parquet", "x.parquet:v"):
        found = read_vectors(f"{tmp_path}/{path}", lambda done, total: seen.append((done, total)))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert seen[-1] == (20, 20)
    assert len(seen) >= 2 * 20 // piece


def test_which_column(tmp_path):
    file = tmp_path / "x.parquet"
    lists = pa.array(ROWS.tolist(), pa.list_(pa.float32()))
    table = pa.table({"a": lists, "a.b": lists, "n": range(20), "s": [["x"]] * 20, "c": [{"b": 1}] * 20})
    parquet.write_table(table, file)
    with pytest.raises(ValueError, match=r"x\.parquet: more than one column of lists of real numbers; .*:NAME"):
        read_vectors(file)
    with pytest.raises(ValueError, match="no column named 'z'; it holds a list"):
        read_vectors(f"{file}:z")
    for name, found in (("n", "int64"), ("s", "list<element: string>"), ("c", "struct<b: int64>")):
        with pytest.raises(ValueError, match=f"column '{name}' holds {found}, not lists of real numbers"):
            read_vectors(f"{file}:{name}")
    for name in ("a", "a.b"):
        np.testing.assert_array_equal(read_vectors(f"{file}:{name}"), ROWS)
    parquet.write_table(pa.table({"n": [1]}), file)
    with pytest.raises(ValueError, match="no column of lists of real numbers"):
        read_vectors(file)


def test_names_that_cannot_be_told_apart(tmp_path):
    lists = pa.array([[1.0]], pa.list_(pa.float32()))
    twice = pa.Table.from_arrays([lists, lists], ["v", "v"])
    parquet.write_table(twice, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="2 columns are named 'v'"):
        read_vectors(f"{tmp_path}/x.parquet:v")
    parquet.write_table(pa.table({"a": pa.array([{"b": [1.0]}]), "a.b": lists}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"columns 'a', 'a\.b' cannot be told apart"):
        read_vectors(f"{tmp_path}/x.parquet:a.b")


@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
def test_rows_that_are_wrong(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(reader, "_ROWS", 4)
    file = tmp_path / "x.parquet"

    def refused(at, row, message):
        rows = ROWS.tolist()
        rows[at] = row
        parquet.write_table(pa.table({"v": pa.array(rows, KINDS[kind](pa.float32()))}), file)
        with pytest.raises(ValueError, match=rf"x\.parquet: {message}"):
            read_vectors(file)

    refused(13, None, r"v\[13\] is null")
    refused(0, None, r"v\[0\] is null")
    refused(18, [1, None, 3], r"v\[18, 1\] is null")
    if kind != "fixed":
        refused(13, [1, 2], r"v\[13\] has length 2, v\[12\] has length 3: rows must have one length")
        refused(5, [], r"v\[5\] has length 0, v\[4\] has length 3")


def test_pieces_of_another_length(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_ROWS", 2)
    parquet.write_table(pa.table({"v": [[1.0], [2.0], [3.0, 4.0], [5.0, 6.0]]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"v\[2\] has length 2, v\[0\] has length 1: rows must have one length"):
        read_vectors(tmp_path / "x.parquet")


@pytest.mark.parametrize("kind", ["fixed", "list"])
def test_no_rows(tmp_path, kind):
    parquet.write_table(pa.table({"v": pa.array([], KINDS[kind](pa.float32()))}), tmp_path / "x.parquet")
    if kind == "fixed":
        assert read_vectors(tmp_path / "x.parquet").shape == (0, 3)
    else:
        with pytest.raises(ValueError, match="column 'v' has no rows, which would say how long they are"):
            read_vectors(tmp_path / "x.parquet")


def test_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"x\.parquet: reading Parquet needs pyarrow: pip install pyarrow"):
        read_vectors(tmp_path / "x.parquet")


def test_on_the_command_line(tmp_path):
    rows = ROWS.astype(np.float32)
    table = pa.table({"v": column(rows, "fixed", pa.float32()), "w": column(-rows, "list", pa.float32())})
    parquet.write_table(table, tmp_path / "x.parquet")
    succeed("build", f"{tmp_path}/x.parquet:v", "-o", tmp_path / "x.hs")
    index = HalfspaceIndex.load(tmp_path / "x.hs")
    np.testing.assert_array_equal(index.vectors(index.ids), rows)
    document = json.loads(succeed("query", tmp_path / "x.hs", f"{tmp_path}/x.parquet:w", "--tau", 0, "--json"))
    assert [len(answer["ids"]) for answer in document["answers"]] == ((rows @ -rows.T) >= 0).sum(axis=0).tolist()
    arguments = ["query", tmp_path / "x.hs", f"{tmp_path}/x.parquet:w", "--tau", 0, "-o", tmp_path / "x.parquet"]
    assert "is the input" in fail(2, *arguments)
    wrong = rows.copy()
    wrong[11, 2] = np.nan
    parquet.write_table(pa.table({"v": column(wrong, "fixed", pa.float32())}), tmp_path / "y.parquet")
    assert "y.parquet: row 11, column 2: nan" in fail(2, "build", tmp_path / "y.parquet", "-o", tmp_path / "y.hs")
