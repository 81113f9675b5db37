"""What comes in: arrays, tensors, columns and tables of other libraries; what would lose something is refused."""

import array
import ast
import subprocess
import sys
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from halfspace import HalfspaceIndex
from halfspace.attention import KVIndex

ROWS = np.array([[1, -2, 3], [0.5, 4, -1], [2, 2, 2], [-3, 0, 8]], np.float32)
TAU = 4.5
DIRECTION = np.array([1, 2, 0.5], np.float32)
INSIDE = [1, 2]  # the dot products are -1.5, 8, 7 and 1

LISTS = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 3)
PADDED = pa.FixedSizeListArray.from_arrays(pa.array(np.vstack([ROWS[:1], ROWS, ROWS]).ravel()), 3)
VIEWS = pa.ListViewArray.from_arrays([9, 6, 3, 0], [3] * 4, pa.array(ROWS[::-1].ravel()))
TAKEN = {
    "read-only": np.frombuffer(ROWS.tobytes(), np.float32).reshape(4, 3),
    "strided": np.repeat(np.repeat(ROWS, 2, axis=0), 2, axis=1)[::2, ::2],
    "big-endian": ROWS.astype(">f8"),
    "matrix": ROWS.view(np.matrix),
    "memoryview": memoryview(ROWS),
    "lists": ROWS.tolist(),
    "arrays in a list": list(ROWS),
    "arrays of the standard library": [array.array("f", row) for row in ROWS],
    "rows in objects": pd.Series(list(ROWS)).to_numpy(),
    "bfloat16": ROWS.astype(ml_dtypes.bfloat16),
    "Arrow's rows": LISTS,
    "a slice of them": PADDED[1:5],
    "Arrow's rows in one chunk": pa.chunked_array([LISTS]),
    "Arrow's rows in chunks": pa.chunked_array([LISTS[:1], LISTS[1:]]),
    "Arrow's lists": pa.array(ROWS.tolist()),
    "Arrow's large lists": pa.array(ROWS.tolist(), pa.large_list(pa.float16())),
    "Arrow's list views": VIEWS,
    "a slice of views": pa.concat_arrays([VIEWS[:1], VIEWS])[1:],
    "Arrow's large list views": pa.array(ROWS.tolist(), pa.large_list_view(pa.float32())),
    "Arrow's list views in chunks": pa.chunked_array([VIEWS[:1], VIEWS[1:]]),
    "Arrow's tensors": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [3]), LISTS),
    "an Arrow table": pa.table({"a": ROWS[:, 0], "b": ROWS[:, 1].astype(np.float64), "c": ROWS[:, 2]}),
    "an Arrow batch": pa.record_batch({"a": ROWS[:, 0], "b": ROWS[:, 1], "c": ROWS[:, 2].astype(np.int8)}),
    "a pandas table": pd.DataFrame(ROWS),
    "a pandas table of many dtypes": pd.DataFrame(
        {
            "a": ROWS[:, 0],
            "b": pd.array(ROWS[:, 1].astype(int), "Int16"),
            "c": pd.Series(ROWS[:, 2], dtype="float[pyarrow]"),
        }
    ),
    "a pandas column of arrays": pd.Series(list(ROWS), index=[9, 9, 7, 3]),
    "a pandas column of lists": pd.Series(ROWS.tolist()),
    "a pandas column of Arrow's rows": pd.Series(LISTS, dtype=pd.ArrowDtype(LISTS.type)),
    "a polars table": pl.DataFrame(ROWS),
    "a polars column of rows": pl.Series(ROWS, dtype=pl.Array(pl.Float32, 3)),
    "a polars column of lists": pl.Series(ROWS.tolist()),
    "a tensor": torch.tensor(ROWS),
    "a tensor of bfloat16": torch.tensor(ROWS).bfloat16(),
    "a tensor of float16, strided": torch.tensor(ROWS.T.copy()).half().T,
    "a tensor with a gradient": torch.tensor(ROWS, requires_grad=True),
    "a parameter of bfloat16": torch.nn.Parameter(torch.tensor(ROWS).bfloat16()),
    "a tensor whose signs are to be turned": torch.complex(torch.tensor(ROWS), torch.tensor(-ROWS)).conj().imag,
    "tensors in a list": [row.bfloat16() for row in torch.tensor(ROWS, requires_grad=True)],
}


@pytest.mark.parametrize("values", TAKEN.values(), ids=TAKEN)
def test_rows_are_taken_from_any_library(values):
    """As vectors and as directions: the same numbers, the same answer."""
    index = HalfspaceIndex(3)
    ids = index.insert(values)
    np.testing.assert_array_equal(index.vectors(ids), ROWS)
    assert index.query(DIRECTION, TAU).ids.tolist() == INSIDE
    exact = ROWS.astype(np.float64) @ ROWS.astype(np.float64).T  # of small numbers, each is exact
    hits = index.query(values, TAU)
    assert [row.ids.tolist() for row in hits] == [np.flatnonzero(row >= TAU).tolist() for row in exact]
    assert index.count(values, TAU).tolist() == (exact >= TAU).sum(axis=1).tolist()


SINGLE = {
    "a tensor of bfloat16": torch.tensor(DIRECTION).bfloat16(),
    "a tensor with a gradient": torch.tensor(DIRECTION, requires_grad=True),
    "a pandas column": pd.Series(DIRECTION, index=[5, 6, 7]),
    "a pandas column of Arrow's": pd.Series(DIRECTION, dtype="double[pyarrow]"),
    "a polars column": pl.Series(DIRECTION),
    "an Arrow column": pa.array(DIRECTION),
    "a row of Arrow's": pa.FixedSizeListArray.from_arrays(pa.array(DIRECTION), 3)[0],
    "a list": DIRECTION.tolist(),
}


@pytest.mark.parametrize("direction", SINGLE.values(), ids=SINGLE)
def test_one_direction_is_taken_from_any_library(direction):
    index = HalfspaceIndex(3)
    index.insert(ROWS)
    assert index.query(direction, TAU).ids.tolist() == INSIDE
    assert index.count(direction, TAU) == len(INSIDE)
    assert index.explain(direction, TAU).hits == len(INSIDE)


COLUMNS = {
    "array": np.asarray,
    "tensor": torch.tensor,
    "pandas": pd.Series,
    "pandas, nullable": lambda values: pd.Series(values).convert_dtypes(),
    "pandas, by Arrow": lambda values: pd.Series(values).convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.Series,
    "Arrow": pa.array,
    "chunks of Arrow": lambda values: pa.chunked_array([values[:1], values[1:]]),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_ids_thresholds_and_masks_are_taken_from_any_library(column):
    index = HalfspaceIndex(3)
    assert index.insert(ROWS, ids=column([5, 6, 7, 8])).tolist() == [5, 6, 7, 8]
    assert index.vectors(column([8, 5])).tolist() == ROWS[[3, 0]].tolist()
    assert index.query(DIRECTION, TAU, within=column([5, 7])).ids.tolist() == [7]
    mask = [False] * 6 + [True, False, True]
    assert index.query(DIRECTION, -np.inf, within=column(mask)).ids.tolist() == [6, 8]
    hits = index.query([DIRECTION, DIRECTION], column([7.0, 7.5]))
    assert [row.ids.tolist() for row in hits] == [[6, 7], [6]]
    index.delete(column([6, 7]))
    assert index.ids.tolist() == [5, 8]


def test_what_lies_there_is_read_in_place():
    """No copy is made of Arrow's rows, of tensors, or of a table that pandas keeps as one block."""
    from halfspace.arguments.checks import asarray

    buffer = np.frombuffer(LISTS.values.buffers()[1], np.float32)
    for rows in (LISTS, LISTS[1:3], pa.chunked_array([LISTS])):
        assert np.shares_memory(asarray(rows, "it"), buffer)
    for tensor in (torch.ones(2, 3), torch.ones(2, 3).bfloat16(), torch.ones(2, 3, requires_grad=True)):
        assert asarray(tensor, "it").ctypes.data == tensor.data_ptr()
    assert np.shares_memory(asarray(pd.DataFrame(ROWS, copy=False), "it"), ROWS)


MASKED = np.ma.array(ROWS, mask=ROWS > 3)
IDS = np.ma.array([1, 2], mask=[True, False])
NULLS = pa.array([[1.0, 2, 3], None, [4, 5, 6]], pa.list_(pa.float64(), 3))
INNER = pa.array([[1.0, 2, 3], [4, None, 6]], pa.list_(pa.float64(), 3))


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    device = torch.device("cuda:1")


REFUSED = {
    "masked": (MASKED, TypeError, r"^vectors is a masked array.*vectors\.filled\(value\)"),
    "masked, with nothing masked": (np.ma.array(ROWS), TypeError, r"vectors\.filled\(value\)"),
    "masked rows": (list(MASKED), TypeError, r"vectors\[0\] is a masked array.*vectors\[0\]\.filled"),
    "a masked number": ([[1, 2, 3], [1, np.ma.masked, 3]], TypeError, r"vectors\[1\]\[1\] is a masked"),
    "masked rows in objects": (pd.Series(list(MASKED)), TypeError, r"vectors\[0\] is a masked array"),
    "sparse": (scipy.sparse.csr_array(ROWS), TypeError, r"sparse, a csr_array: pass vectors\.toarray\(\)"),
    "a sparse matrix": (scipy.sparse.coo_matrix(ROWS), TypeError, r"a coo_matrix: pass vectors\.toarray\(\)"),
    "a sparse row": ([scipy.sparse.csr_matrix(ROWS[:1])], TypeError, r"pass vectors\[0\]\.toarray\(\)"),
    "ragged": ([[1, 2, 3], [1, 2, 3], [1, 2]], ValueError, r"vectors\[2\] has length 2, vectors\[0\] has length 3"),
    "ragged arrays": ([ROWS[0], ROWS[0, :2]], ValueError, r"vectors\[1\] has length 2, vectors\[0\] has length 3"),
    "ragged in pandas": (pd.Series([[1, 2, 3], [1]]), ValueError, r"vectors\[1\] has length 1"),
    "ragged in Arrow": (pa.array([[1, 2, 3], [1]]), ValueError, r"vectors\[1\] has length 1, .* rows must have one"),
    "ragged in list views": (
        pa.array([[1, 2], [1]], pa.list_view(pa.int8())),
        ValueError,
        r"vectors\[1\] has length 1",
    ),
    "null in list views": (pa.array([[1], None], pa.list_view(pa.int8())), ValueError, r"vectors\[1\] is null"),
    "ragged in polars": (pl.Series([[1, 2], [1], []]), ValueError, r"vectors\[1\] has length 1"),
    "a number among rows": ([[1, 2, 3], 4], ValueError, r"vectors\[1\] is one value"),
    "null in Arrow": (NULLS, ValueError, r"vectors\[1\] is null: use fill_null or drop_null"),
    "null in a later chunk": (pa.chunked_array([LISTS.cast(NULLS.type), NULLS]), ValueError, r"vectors\[5\] is null"),
    "null in a row of Arrow": (INNER, ValueError, r"vectors\[1, 1\] is null"),
    "null in polars": (pl.from_arrow(NULLS), ValueError, r"vectors\[1\] is null: use fill_null or drop_nulls"),
    "null in a row of polars": (pl.from_arrow(INNER), ValueError, r"vectors\[1, 1\] is null"),
    "null in a table of polars": (pl.DataFrame({"a": [1, None]}), ValueError, r"vectors\['a'\]\[1\] is null"),
    "null in a table of Arrow": (pa.table({"a": [1.5, None]}), ValueError, r"vectors\['a'\]\[1\] is null"),
    "missing in pandas": (
        pd.DataFrame({"a": pd.array([1, 2, None], "Int8")}),
        ValueError,
        r"vectors\['a'\]\[2\] is missing \(<NA>\): use .*\.fillna\(value\) or .*\.dropna\(\)",
    ),
    "a missing row": (pd.Series([ROWS[0], None]), TypeError, r"dtype object: vectors\[1\] is None"),
    "NaN in a table": (pd.DataFrame({"a": [0.0, 1], "b": [0, np.nan], "c": 0}), ValueError, r"vectors\[1, 1\] is nan"),
    "NaN in Arrow's rows": (pa.array([[0, 0, 0], [0, 0, np.nan]]), ValueError, r"vectors\[1, 2\] is nan"),
    "infinity in a tensor": (torch.tensor([[0, 0, torch.inf]]).bfloat16(), ValueError, r"vectors\[0, 2\] is inf"),
    "text in a table": (pd.DataFrame({"a": [1, 2], "b": [0.5, "x"]}), TypeError, r"vectors\['b'\]\[1\] is 'x'"),
    "rows in a table": (pa.table({"a": LISTS}), TypeError, r"vectors\['a'\] is a column of rows.*alone"),
    "text in polars": (pl.Series(["a"]), TypeError, r"column of String"),
    "decimals of Arrow": (pa.array([1]).cast(pa.decimal128(20)), TypeError, r"column of decimal128"),
    "what float64 does not hold": (
        pd.DataFrame({"a": [0.5, 1], "b": [0, 2**53 + 1], "c": [0, 0]}),
        ValueError,
        rf"vectors\['b'\]\[1\] is {2**53 + 1}, which float64",
    ),
    "a table without rows yet": (pl.LazyFrame({"a": [1.0]}), TypeError, r"vectors\.collect\(\)"),
    "objects": (ROWS.astype(object), TypeError, r"dtype object: vectors\[0, 0\] is float 1\.0; pass numpy\.asarray"),
    "text": ([[1.0, 2.0, "3"]], TypeError, r"vectors\[0, 2\] is str '3'"),
    "a long integer": ([[1, 2, 2**64]], TypeError, rf"vectors\[0, 2\] is int {2**64}; convert it"),
    "a str": ("abc", TypeError, r"^vectors must be .*, got str 'abc'"),
    "bytes": (b"abc", TypeError, r"^vectors must be .*, got bytes b'abc': pass numpy\.frombuffer\(vectors, dtype\)"),
    "a bytearray": (bytearray(3), TypeError, r"vectors must be .*numpy\.frombuffer"),
    "None": (None, TypeError, r"^vectors must be .*, got None"),
    "a dict": ({0: [1, 2, 3]}, TypeError, r"^vectors must be .*, got dict \{0: \[1, 2, 3\]\}"),
    "a set": ({1, 2, 3}, TypeError, r"^vectors must be .*, got set \{1, 2, 3\}"),
    "a generator": ((row for row in ROWS), TypeError, r"^vectors must be .*, got generator"),
    "a tensor elsewhere": (torch.ones(3).as_subclass(Elsewhere), TypeError, r"is on cuda:1.*vectors\.cpu\(\)"),
    "tensors elsewhere": ([torch.ones(3).as_subclass(Elsewhere)], TypeError, r"vectors\[0\] is on cuda:1"),
    "a tensor without numbers": (torch.ones(3, device="meta"), TypeError, "meta, which has no numbers"),
    "a tensor of complex numbers": (torch.ones(3, dtype=torch.cfloat).conj(), TypeError, "got dtype torch.complex64"),
    "a tensor of float8": (torch.ones(3).to(torch.float8_e5m2), TypeError, r"float8_e5m2: pass vectors\.float\(\)"),
    "a sparse tensor": (torch.eye(3).to_sparse(), TypeError, r"sparse_coo: pass vectors\.to_dense\(\)"),
}


@pytest.mark.parametrize(("values", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_lost_is_refused(values, error, said):
    """Vectors, directions, keys and queries: the same error under the name of the argument; nothing changes."""
    index, cache = HalfspaceIndex(3), KVIndex(1, 3)
    index.insert(ROWS)
    zeros = np.zeros((1, 1, 1, 3), np.float16)
    for name, call in (
        ("vectors", lambda: index.insert(values)),
        ("directions", lambda: index.query(values, 0.0)),
        ("directions", lambda: index.count(values, 0.0)),
        ("directions", lambda: index.explain(values, 0.0)),
    ):
        with pytest.raises(error, match=said.replace("vectors", name)) as caught:
            call()
        assert type(caught.value) is error
    for name, call in (
        ("k", lambda: cache.append(values, zeros)),
        ("v", lambda: cache.append(zeros, values)),
        ("q", lambda: cache.attend(values, tau=0.0)),
        ("q", lambda: cache.query(values, 0.0)),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
            call()
    assert index.ids.tolist() == [0, 1, 2, 3]
    assert cache.lengths.tolist() == [0]


def test_quantized_and_nested_tensors_are_refused():
    index = HalfspaceIndex(3)
    with pytest.warns(UserWarning, match="nested"):
        nested = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
    with pytest.raises(TypeError, match=r"vectors is a nested tensor: .*to_padded_tensor"):
        index.insert(nested)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch's own, in some releases
        coarse = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"directions is a quantized tensor: pass directions\.dequantize\(\)"):
        index.query(coarse, 0.0)
    index.insert(coarse.dequantize())
    assert len(index) == 1


@pytest.mark.parametrize("wrong", [IDS, scipy.sparse.csr_array([[1, 2]]), "12", b"12", {1, 2}, {1: 2}, [1, None]])
def test_masks_are_kept_in_every_argument(wrong):
    """Ids, thresholds, restrictions, lengths and sequences: a masked id would name another vector."""
    index, cache = HalfspaceIndex(3), KVIndex(1, 3, batch_size=2)
    index.insert(ROWS)
    keys = np.ones((2, 1, 4, 3), np.float16)
    cache.append(keys, keys)
    for name, call in (
        ("ids", lambda: index.insert(ROWS[:2], ids=wrong)),
        ("ids", lambda: index.delete(wrong)),
        ("ids", lambda: index.vectors(wrong)),
        ("tau", lambda: index.query(ROWS[:2], wrong)),
        ("tau", lambda: index.count(ROWS[:2], wrong)),
        ("within", lambda: index.query(DIRECTION, 0.0, within=wrong)),
        ("lengths", lambda: cache.append(keys, keys, lengths=wrong)),
        ("length", lambda: cache.crop(wrong)),
        ("sequences", lambda: cache.reorder(wrong)),
        ("tau", lambda: cache.attend(np.ones((2, 1, 3)), tau=wrong)),
    ):
        with pytest.raises(TypeError, match=rf"^{name}\b"):
            call()
    with pytest.raises(TypeError, match=r"tau is a masked array"):
        index.query(DIRECTION, np.ma.masked)
    mask = np.ma.array([True, True, True, True], mask=[0, 1, 0, 0])
    with pytest.raises(TypeError, match=r"within is a masked array.*within\.filled\(value\)"):
        index.query(DIRECTION, 0.0, within=mask)
    assert (len(index), cache.lengths.tolist()) == (4, [4, 4])


def test_counts_that_do_not_fit_are_refused():
    """A length of 2**63 is no length below zero."""
    cache = KVIndex(1, 3)
    keys = np.ones((1, 1, 4, 3), np.float16)
    for lengths in (np.array([2**63], np.uint64), [2**63]):
        with pytest.raises(ValueError, match=f"lengths must fit in int64, got {2**63}"):
            cache.append(keys, keys, lengths=lengths)
    assert cache.lengths.tolist() == [0]


def test_a_threshold_may_be_a_tensor():
    index = HalfspaceIndex(3)
    index.insert(ROWS)
    for tau in (torch.tensor(TAU), torch.tensor(TAU, requires_grad=True), torch.tensor(TAU).bfloat16(), pa.scalar(TAU)):
        assert index.query(DIRECTION, tau).ids.tolist() == INSIDE
    both = torch.tensor([7.0, 7.5], dtype=torch.bfloat16)
    assert index.count([DIRECTION, DIRECTION], both).tolist() == [2, 1]


def test_one_id_gives_one_vector():
    """A number in, (d,) out; an array in, (n, d) out, as NumPy indexes."""
    index = HalfspaceIndex(3, dtype="bfloat16")
    index.insert(ROWS, ids=[5, 6, 7, 8])
    for one in (7, np.int8(7), np.array(7), torch.tensor(7)):
        assert index.vectors(one).shape == (3,)
        assert index.vectors(one).tolist() == ROWS[2].tolist()
    assert index.vectors([7]).shape == (1, 3)
    assert index.vectors([]).shape == (0, 3)
    with pytest.raises(KeyError, match="9"):
        index.vectors(9)


def test_an_empty_index_is_not_false():
    assert bool(HalfspaceIndex(3))
    assert bool(KVIndex(1, 3))
    assert not HalfspaceIndex(3).query([1, 2, 3], 0.0)  # hits are a sequence


def test_tables_without_rows_are_empty():
    index = HalfspaceIndex(3)
    index.insert(ROWS)
    for nothing in (
        pd.DataFrame(np.empty((0, 3))),
        pd.Series([], dtype=object),
        pl.Series([], dtype=pl.List(pl.Float32)),
        pl.Series([], dtype=pl.Array(pl.Float32, 3)),
        LISTS[:0],
        pa.chunked_array([], LISTS.type),
    ):
        assert index.insert(nothing).size == 0
        assert len(index.query(nothing, 0.0)) == 0


def test_no_library_of_tables_is_imported():
    """They are recognised by their values, so nobody pays for those that they do not use."""
    code = """
import sys, numpy as np, halfspace
index = halfspace.HalfspaceIndex(3)
index.insert([[1, 2, 3], np.ones(3)])
print(sorted({"pandas", "polars", "pyarrow", "torch"} & set(sys.modules)))
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
    core = Path(sys.modules["halfspace"].__file__).parent
    for file in core.joinpath("arguments").glob("*.py"):
        imported = [
            node.module or "" for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        assert not any(module.startswith("halfspace.attention") for module in imported)
