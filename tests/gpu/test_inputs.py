"""What comes in on a GPU: the same is taken and refused as on the CPU, arrays in the host's memory aside."""

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from on_gpu import put

from halfspace import HalfspaceIndex, Hits
from halfspace.attention import KVIndex

pytestmark = pytest.mark.gpu

ROWS = np.array([[1, -2, 3], [0.5, 4, -1], [2, 2, 2], [-3, 0, 8]], np.float32)
DIRECTION = np.array([1, 2, 0.5], np.float32)
TAU = 4.5
INSIDE = [1, 2]  # the dot products are -1.5, 8, 7 and 1
LISTS = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 3)


class OnGpu(torch.Tensor):
    """A tensor of the host that says it lies on the GPU, as one of PyTorch's there does."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        return torch.Tensor.__dlpack__(self.as_subclass(torch.Tensor))


@pytest.fixture
def tensors(gpu):
    """What makes a tensor lie on the GPU, or seem to in the emulator."""
    if torch.cuda.is_available() and not hasattr(gpu.xp, "emulator"):
        return lambda tensor: tensor.cuda()
    if not hasattr(gpu.xp, "emulator"):
        pytest.skip("PyTorch has no GPU here")
    return lambda tensor: tensor.as_subclass(OnGpu)


@pytest.fixture
def index(gpu):
    index = HalfspaceIndex(3, device="gpu")
    index.insert(put(gpu, ROWS))
    return index


TENSORS = {
    "float32": torch.tensor(ROWS),
    "bfloat16": torch.tensor(ROWS).bfloat16(),
    "strided bfloat16": torch.tensor(ROWS.T.copy()).bfloat16().T,
    "with a gradient": torch.tensor(ROWS, requires_grad=True),
    "bfloat16 with a gradient": torch.tensor(ROWS).bfloat16().requires_grad_(),
    "whose signs are to be turned": torch.complex(torch.tensor(ROWS), torch.tensor(-ROWS)).conj().imag,
}


@pytest.mark.parametrize("values", TENSORS.values(), ids=TENSORS)
def test_tensors_are_taken(values, tensors, gpu):
    """Their numbers are read in place; nothing is differentiated."""
    index, there = HalfspaceIndex(3, device="gpu"), tensors(values)
    ids = index.insert(there)
    assert index.vectors(ids).get().tolist() == ROWS.tolist()
    exact = ROWS.astype(np.float64) @ ROWS.astype(np.float64).T
    assert index.count(there, TAU).tolist() == (exact >= TAU).sum(axis=1).tolist()
    assert index.query(there[1], TAU).ids.tolist() == np.flatnonzero(exact[1] >= TAU).tolist()
    assert index.explain(there[1], TAU).hits == (exact[1] >= TAU).sum()
    if not values.is_neg():
        assert gpu.asarray(there, "it").data.ptr == there.data_ptr()


def test_tensors_of_a_cache_are_taken(tensors, gpu, rng):
    """`KVIndex` reads what `HalfspaceIndex` does."""
    rows = rng.integers(-3, 4, (1, 1, 5, 8)).astype(np.float32)
    for dtype, narrow in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        index = KVIndex(1, 8, device="gpu", dtype=dtype)
        given = tensors(torch.tensor(rows).to(narrow).requires_grad_())
        index.append(given, given)
        assert index.lengths.tolist() == [5]
        assert index.stored()[0].get().astype(np.float32).tolist() == rows.tolist()
        hits = index.query(given[:, :, 0], 1.0)
        assert hits.ids.tolist() == np.flatnonzero(rows[0, 0] @ rows[0, 0, 0] >= 1).tolist()


COPIED = {
    "lists": ROWS.tolist(),
    "tensors of the host in a list": list(torch.tensor(ROWS).bfloat16()),
    "Arrow's rows": LISTS,
    "chunks of them": pa.chunked_array([LISTS[:1], LISTS[1:]]),
    "an Arrow table": pa.table({"a": ROWS[:, 0], "b": ROWS[:, 1], "c": ROWS[:, 2].astype(np.float64)}),
    "a pandas table": pd.DataFrame(ROWS),
    "a pandas column of lists": pd.Series(ROWS.tolist()),
    "a polars table": pl.DataFrame(ROWS),
    "a polars column": pl.Series(ROWS, dtype=pl.Array(pl.Float32, 3)),
}


@pytest.mark.parametrize("values", COPIED.values(), ids=COPIED)
def test_lists_columns_and_tables_are_copied(values, index, gpu):
    other = HalfspaceIndex(3, device="gpu")
    assert other.vectors(other.insert(values)).get().tolist() == ROWS.tolist()
    assert index.count(values, TAU).tolist() == (ROWS @ ROWS.T >= TAU).sum(axis=1).tolist()
    out = Hits.preallocate(64, 4)
    with pytest.raises(ValueError, match="out takes contiguous float32 directions on the GPU"):
        index.query(values, TAU, out=out)


@pytest.mark.parametrize("column", [list, pd.Series, pl.Series, pa.array])
def test_ids_thresholds_and_masks_are_copied(column, index, gpu):
    q = put(gpu, DIRECTION)
    assert index.query(q, TAU, within=column([0, 2])).ids.tolist() == [2]
    assert index.query(q, -np.inf, within=column([False, True, False, True])).ids.tolist() == [1, 3]
    assert index.count(put(gpu, np.stack([DIRECTION] * 2)), column([7.0, 7.5])).tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"tau\[1\] is n"):
        index.count(put(gpu, np.stack([DIRECTION] * 2)), column([7.0, np.nan]))
    with pytest.raises(ValueError, match="out takes tau as a number or as float64"):
        index.query(put(gpu, np.stack([DIRECTION] * 2)), column([7.0, 7.5]), out=Hits.preallocate(64, 2))
    index.delete(column([0, 2]))
    assert index.ids.tolist() == [1, 3]


REFUSED = {
    "masked": (np.ma.array(ROWS, mask=ROWS > 3), TypeError, r"masked array.*vectors\.filled\(value\)"),
    "masked rows": ([np.ma.array(ROWS[0])], TypeError, r"vectors\[0\] is a masked array"),
    "a masked number": (np.ma.masked, TypeError, "vectors is a masked array"),
    "sparse": (scipy.sparse.csr_array(ROWS), TypeError, r"vectors\.toarray\(\)"),
    "ragged": ([[1, 2, 3], [1, 2]], ValueError, r"vectors\[1\] has length 2, vectors\[0\] has length 3"),
    "null": (pa.array([[0.0, 0, 0], None], LISTS.type), ValueError, r"vectors\[1\] is null: use fill_null"),
    "missing": (pd.DataFrame({"a": pd.array([1, None], "Int8")}), ValueError, r"vectors\['a'\]\[1\] is missing"),
    "NaN": (pa.array([[0, 0, 0], [0, 0, np.nan]]), ValueError, r"vectors\[1, 2\] is nan"),
    "a str": ("abc", TypeError, "got str 'abc'"),
    "bytes": (b"abc", TypeError, "got bytes b'abc'"),
    "None": (None, TypeError, "got None"),
    "a dict": ({1: 2}, TypeError, "got dict {1: 2}"),
    "a set": ({1, 2}, TypeError, "got set {1, 2}"),
    "an array of the host": (ROWS, TypeError, r"cupy\.asarray\(vectors\)"),
    "a tensor of the host": (torch.tensor(ROWS).requires_grad_(), TypeError, r"cupy\.asarray\(vectors\)"),
    "a sparse tensor": (torch.eye(3).to_sparse(), TypeError, r"vectors\.to_dense\(\)"),
    "a tensor of complex numbers": (torch.ones(3, dtype=torch.cfloat), TypeError, "complex64"),
    "a tensor of float8": (torch.ones(3).to(torch.float8_e5m2), TypeError, r"vectors\.float\(\)"),
}


@pytest.mark.parametrize(("values", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_lost_is_refused(values, error, said, index, gpu):
    cache, zeros = KVIndex(1, 8, device="gpu"), gpu.xp.zeros((1, 1, 1, 8), np.float16)
    for name, call in (
        ("vectors", lambda: index.insert(values)),
        ("directions", lambda: index.query(values, 0.0)),
        ("directions", lambda: index.count(values, 0.0)),
        ("directions", lambda: index.explain(values, 0.0)),
    ):
        with pytest.raises(error, match=said.replace("vectors", name)):
            call()
    for name, call in (
        ("k", lambda: cache.append(values, zeros)),
        ("v", lambda: cache.append(zeros, values)),
        ("q", lambda: cache.attend(values, tau=0.0)),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
            call()
    assert index.ids.tolist() == [0, 1, 2, 3]
    assert cache.lengths.tolist() == [0]


@pytest.mark.parametrize("wrong", [np.ma.array([1, 2], mask=[1, 0]), scipy.sparse.csr_array([[1, 2]]), "12", {1, 2}])
def test_masks_are_kept_in_every_argument(wrong, index, gpu):
    q, keys = put(gpu, ROWS[:2]), gpu.xp.ones((2, 1, 4, 8), np.float16)
    cache = KVIndex(1, 8, batch_size=2, device="gpu")
    cache.append(keys, keys)
    for name, call in (
        ("ids", lambda: index.insert(q, ids=wrong)),
        ("ids", lambda: index.delete(wrong)),
        ("ids", lambda: index.vectors(wrong)),
        ("tau", lambda: index.query(q, wrong)),
        ("within", lambda: index.query(q, 0.0, within=wrong)),
        ("lengths", lambda: cache.append(keys, keys, lengths=wrong)),
        ("length", lambda: cache.crop(wrong)),
        ("sequences", lambda: cache.reorder(wrong)),
        ("tau", lambda: cache.attend(keys[:, :, 0], tau=wrong)),
    ):
        with pytest.raises(TypeError, match=rf"^{name}\b"):
            call()
    assert (len(index), cache.lengths.tolist()) == (4, [4, 4])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("tokens", [1, 12])
def test_padding_is_not_looked_at(tokens, dtype, gpu, rng):
    """As on the CPU: in the index's dtype, where kernels read the rows, and in another, which is rounded before."""
    keys = rng.integers(-3, 4, (2, 1, tokens, 8)).astype(dtype)
    counts = [tokens // 2, tokens]
    keys[0, :, counts[0] :] = np.nan
    indexes = KVIndex(1, 8, batch_size=2, device="gpu"), KVIndex(1, 8, batch_size=2)
    indexes[0].append(put(gpu, keys), put(gpu, keys), lengths=gpu.xp.asarray(counts))
    indexes[1].append(keys, keys, lengths=counts)
    indexes[0].check()
    for index, host in zip(indexes, (gpu.xp.asnumpy, np.asarray), strict=True):
        assert index.lengths.tolist() == counts
        for stored in map(host, index.stored()):
            for sequence, count in enumerate(counts):
                expected = keys[sequence, :, :count].astype(np.float16)
                np.testing.assert_array_equal(stored[sequence, :, :count], expected)
    if dtype != np.float16:
        with pytest.raises(ValueError, match=rf"k\[0, 0, {counts[0]}, 0\] is nan"):
            indexes[0].append(put(gpu, keys), put(gpu, keys), lengths=[counts[0] + 1, 0])
    assert indexes[0].lengths.tolist() == counts


def test_one_id_gives_one_vector_and_an_empty_index_is_not_false(index, gpu):
    for one in (2, np.int64(2), gpu.xp.asarray(2)):
        assert index.vectors(one).shape == (3,)
        assert index.vectors(one).get().tolist() == ROWS[2].tolist()
    assert index.vectors([2]).shape == (1, 3)
    assert bool(HalfspaceIndex(3, device="gpu"))
    assert bool(KVIndex(1, 8, device="gpu"))


def test_arrays_of_a_gpu_are_refused_on_the_cpu(gpu):
    index = HalfspaceIndex(3)
    for there in (put(gpu, ROWS), [put(gpu, ROWS[0])]):
        with pytest.raises(TypeError, match=r"vectors(\[0\])? is on a GPU.*cupy\.asnumpy\(vectors(\[0\])?\)"):
            index.insert(there)
