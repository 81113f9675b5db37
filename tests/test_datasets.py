"""The data in the package: what its files hold, and that they are small and licensed."""

from importlib.resources import files

import numpy as np
import pytest

from halfspace.datasets import load_keys, load_pydocs


def test_pydocs_arrays():
    docs = load_pydocs()
    assert docs.vectors.shape == (6301, 384)
    assert docs.query_vectors.shape == (32, 384)
    assert docs.vectors.dtype == docs.query_vectors.dtype == np.float16
    assert docs.names.shape == docs.texts.shape == (6301,)
    assert docs.query_texts.shape == (32,)
    assert docs.names.dtype.kind == docs.texts.dtype.kind == docs.query_texts.dtype.kind == "U"
    assert all(docs.texts)
    assert docs.texts[docs.names == "os.walk"].tolist() == ["Directory tree generator."]


def test_pydocs_vectors_have_unit_length():
    docs = load_pydocs()
    for vectors in (docs.vectors, docs.query_vectors):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=0, atol=1e-4)


def test_keys_arrays():
    data = load_keys()
    assert data.keys.shape == data.values.shape == (8192, 128)
    assert data.queries.shape == (4, 64, 128)
    for array in (data.keys, data.values, data.queries):
        assert array.dtype == np.float16
        assert np.isfinite(array).all()
    lengths = np.linalg.norm(data.keys.astype(np.float64), axis=1)
    assert lengths.min() > 13
    assert lengths.max() < 26


def test_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        load_pydocs().vectors[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        load_keys().queries[0] = 0


def test_files_are_small_and_licensed():
    folder = files("halfspace").joinpath("data")
    sizes = {entry.name: len(entry.read_bytes()) for entry in folder.iterdir() if entry.is_file()}
    assert set(sizes) == {"LICENSE-Apache-2.0.txt", "LICENSE-PSF-2.0.txt", "README.md", "keys8k.npz", "pydocs.npz"}
    assert sum(sizes.values()) < 10_000_000
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in folder.joinpath("LICENSE-PSF-2.0.txt").read_text("utf-8")
    assert "Version 2.0, January 2004" in folder.joinpath("LICENSE-Apache-2.0.txt").read_text("utf-8")
    readme = folder.joinpath("README.md").read_text("utf-8")
    assert all(name in readme for name in sizes if name != "README.md")
