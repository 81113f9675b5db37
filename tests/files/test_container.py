"""The container: what it holds, and what it refuses to write."""

import os
import time
import tracemalloc

import numpy as np
import pytest
from helpers.container import ARRAYS, METADATA, encode, same, values
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfspace.files import container as storage

# What it holds


def test_the_format_is_as_described(saved):
    assert saved.read_bytes() == encode(METADATA, ARRAYS)


dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
)
views = st.sampled_from(
    [lambda a: a, lambda a: a.T, lambda a: a[..., ::-2], lambda a: np.broadcast_to(a, (2, *a.shape))]
)
arrays = st.builds(
    lambda view, array: view(array) if array.ndim else array,
    views,
    hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)),
)


@given(st.dictionaries(st.text(), values, max_size=3), st.dictionaries(st.text(), arrays, max_size=4))
def test_round_trip(tmp_path_factory, metadata, arrays):
    path = tmp_path_factory.getbasetemp() / "round-trip"
    storage.write(path, metadata, arrays)
    assert path.read_bytes() == encode(metadata, arrays)
    for mmap in (False, True):
        stored = storage.read(path, mmap=mmap)
        stored.verify()
        same(stored, metadata, arrays)


@pytest.mark.parametrize("shape", [(), (1,) * 64, (0,) * 64, (2**40, 0), (3, 0, 5)])
def test_odd_shapes(tmp_path, shape):
    storage.write(tmp_path / "file", {}, {"": np.zeros(shape, np.uint8)})
    for mmap in (False, True):
        same(storage.read(tmp_path / "file", mmap=mmap), {}, {"": np.zeros(shape, np.uint8)})


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_streamed(tmp_path, order):
    array = np.asarray(np.arange(3 * 2**20, dtype=">i8").reshape(2**10, -1), order=order)  # 24 MiB
    tracemalloc.start()
    try:
        storage.write(tmp_path / "file", {}, {"a": array})
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    for mmap in (False, True):
        same(storage.read(tmp_path / "file", mmap=mmap), {}, {"a": array})


@pytest.mark.skipif(os.name == "nt", reason="POSIX semantics")
def test_a_mapping_outlives_its_file(saved):
    mapped = storage.read(saved, mmap=True)
    assert isinstance(mapped.arrays["rows"].base, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        mapped.arrays["rows"][0] = 1
    storage.write(saved, {}, {"rows": 2 * mapped.arrays["rows"]})
    mapped.verify()
    same(mapped, METADATA, ARRAYS)
    same(storage.read(saved, mmap=True), {}, {"rows": 2 * ARRAYS["rows"]})


def test_opening_a_large_mapping_is_quick(tmp_path):
    storage.write(tmp_path / "file", {}, {"a": np.zeros(2**25, np.uint8)})
    start = time.perf_counter()
    for _ in range(10):
        storage.read(tmp_path / "file", mmap=True)
    mapping = time.perf_counter() - start
    storage.read(tmp_path / "file")
    assert mapping / 10 < time.perf_counter() - start - mapping


# What it refuses to write


@pytest.mark.parametrize(
    "dtype", ["O", "S3", "U3", "V2", "M8[s]", "m8[s]", "c8", "c16", [("x", "f4")], np.dtypes.StringDType()]
)
def test_other_dtypes(saved, dtype):
    with pytest.raises(TypeError, match="'odd'"):
        storage.write(saved, {}, {"fine": np.zeros(3), "odd": np.zeros(3, dtype)})
    same(storage.read(saved), METADATA, ARRAYS)


def test_other_floats(saved):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(TypeError, match="bfloat16"):
        storage.write(saved, {}, {"odd": np.zeros(3, ml_dtypes.bfloat16)})


def test_names_are_strings(saved):
    with pytest.raises(TypeError, match="name"):
        storage.write(saved, {}, {1: np.zeros(3)})


@pytest.mark.parametrize("metadata", [{"x": np.nan}, {"x": np.inf}, {1: 2}, {"x": (1, 2)}, {"x": {1}}, [], None, "x"])
def test_metadata_is_json(saved, metadata):
    with pytest.raises((TypeError, ValueError), match="JSON"):
        storage.write(saved, metadata, {})
    same(storage.read(saved), METADATA, ARRAYS)
