"""Readers return what was written, and name the file and the place of what is wrong."""

import re
import struct
import sys

import numpy as np
import pytest

from halfspace.files.vectors import read_vectors

OTHERS = ["x.parquet:a", "x.safetensors", "x.jsonl"]


@pytest.fixture
def vectors(rng_rows):
    return rng_rows(7, 5)


@pytest.fixture
def rng_rows():
    rng = np.random.default_rng(3)
    return lambda n, d: rng.standard_normal((n, d)).astype(np.float32)


def vecs(rows, code):
    """Encode rows in the .fvecs ("f") or .bvecs ("B") layout."""
    return b"".join(struct.pack(f"<i{len(row)}{code}", len(row), *row) for row in rows)


def check(array, expected):
    np.testing.assert_array_equal(np.asarray(array), expected)
    assert array.dtype == expected.dtype


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u1", "i4", "i8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, vectors, dtype, order):
    expected = np.asarray(vectors * 10, dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", expected)
    found = read_vectors(tmp_path / "x.npy")
    check(found, expected)
    assert isinstance(found, np.memmap)
    check(read_vectors(str(tmp_path / "x.npy")), expected)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_npy_without_elements(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.empty(shape, np.float32))
    assert read_vectors(tmp_path / "x.npy").shape == shape


def test_npz_only_matrix(tmp_path, vectors):
    np.savez(tmp_path / "x.npz", vectors=vectors, names=np.array(["a", "b"]), text=np.array([["a"]]), flat=vectors[0])
    check(read_vectors(tmp_path / "x.npz"), vectors)
    check(read_vectors(f"{tmp_path}/x.npz:vectors"), vectors)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_name(tmp_path, vectors, save):
    save(tmp_path / "x.npz", a=vectors, b=vectors[:2], c=np.float32(1))
    check(read_vectors(f"{tmp_path}/x.npz:b"), vectors[:2])
    with pytest.raises(ValueError, match=r"x\.npz.*more than one.*a float32 \(7, 5\), b float32 \(2, 5\)"):
        read_vectors(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"x\.npz: no array named 'z'; it holds a float32"):
        read_vectors(f"{tmp_path}/x.npz:z")
    with pytest.raises(ValueError, match=r"x\.npz:c: expected an array of shape \(n, d\), .* found shape \(\)"):
        read_vectors(f"{tmp_path}/x.npz:c")


def test_fvecs(tmp_path, vectors):
    (tmp_path / "x.fvecs").write_bytes(vecs(vectors, "f"))
    found = read_vectors(tmp_path / "x.fvecs")
    check(found, vectors)
    assert not found.flags.writeable


def test_bvecs(tmp_path):
    expected = np.random.default_rng(0).integers(0, 256, (9, 3), dtype=np.uint8)
    (tmp_path / "x.bvecs").write_bytes(vecs(expected, "B"))
    check(read_vectors(tmp_path / "x.bvecs"), expected)


@pytest.mark.parametrize(("suffix", "code", "row"), [("fvecs", "f", 24), ("bvecs", "B", 9)])
def test_vecs_damage(tmp_path, suffix, code, row):
    file = tmp_path / f"x.{suffix}"
    whole = vecs(np.ones((4, 5), np.uint8), code)

    def fails(content, message):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: {message}"):
            read_vectors(file)

    fails(b"", "0 bytes")
    fails(b"\x05\0\0", "3 bytes")
    fails(struct.pack("<i", 0), "row 0 states dimension 0")
    fails(struct.pack("<i", -5) + whole[4:], "row 0 states dimension -5")
    fails(whole[:-1], f"cut short: row 3 has {row - 1} of its {row} bytes")
    fails(whole[: 2 * row + 4], f"cut short: row 2 has 4 of its {row} bytes")
    fails(whole[: row - 1], f"cut short: row 0 has {row - 1} of its {row} bytes")
    fails(whole[: 2 * row] + struct.pack("<i", 6) + whole[2 * row + 4 :], "row 2 states dimension 6, row 0 states 5")


@pytest.mark.parametrize(
    "array",
    [np.zeros(()), np.zeros(0), np.zeros((2, 2, 2)), np.zeros((2, 2), complex), np.zeros((2, 2), np.longdouble)],
)
def test_npy_of_the_wrong_kind(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=r"x\.npy: expected"):
        read_vectors(tmp_path / "x.npy")


def test_nothing_is_unpickled(tmp_path):
    evil = np.array([[{"a": 1}]], dtype=object)
    np.save(tmp_path / "x.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "x.npz", allow_pickle=True, evil=evil)
    for name in ("x.npy", "x.npz:evil"):
        with pytest.raises(ValueError, match=r"x\.np[yz]: "):
            read_vectors(f"{tmp_path}/{name}")


def test_damaged_files(tmp_path, vectors):
    np.save(tmp_path / "x.npy", vectors)
    whole = (tmp_path / "x.npy").read_bytes()
    for content in (b"", whole[:5], whole[:60], whole[:-1], b"PK" + whole):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npy: not a readable \.npy file"):
            read_vectors(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", vectors=vectors)
    whole = (tmp_path / "x.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(vectors.tobytes())] ^= 1
    for content in (b"", whole[:100], bytes(flipped)):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz: "):
            read_vectors(tmp_path / "x.npz")


def test_unknown_suffix_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"x\.csv: unknown suffix '\.csv'; known are \.npy, \.npz, \.fvecs, \.bvecs"):
        read_vectors(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.npz:a", "x.fvecs", "x.bvecs", "x.hdf5", "x.h5:a", *OTHERS])
def test_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        read_vectors(tmp_path / name)


@pytest.mark.parametrize("suffix", ["hdf5", "h5"])
def test_hdf5(tmp_path, vectors, suffix):
    h5py = pytest.importorskip("h5py")
    file = tmp_path / f"x.{suffix}"
    with h5py.File(file, "w") as archive:
        archive["train"], archive["test"] = vectors, vectors[:2].astype(np.float64)
        archive["inner/part"], archive["flat"] = vectors[:3], vectors[0]
    check(read_vectors(file), vectors)
    check(read_vectors(f"{file}:test"), vectors[:2].astype(np.float64))
    check(read_vectors(f"{file}:inner/part"), vectors[:3])
    with pytest.raises(ValueError, match=r"no dataset named 'z'; choose with .*:NAME from .*train float32 \(7, 5\)"):
        read_vectors(f"{file}:z")
    check(read_vectors(f"{file}:flat"), vectors[:1])
    file.write_bytes(b"no")
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        read_vectors(file)


def test_hdf5_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "x.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"x\.h5: reading HDF5 needs h5py: pip install h5py"):
        read_vectors(tmp_path / "x.h5")
