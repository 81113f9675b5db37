"""Files that no one should have made: one ValueError that names the file, from every reader."""

import contextlib
import json
import os
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.command import fail

from halfspace.files.vectors import file_of, read_column, read_tau, read_vectors

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX semantics")
VECTORS = np.arange(35, dtype=np.float32).reshape(7, 5)
OTHERS = ["x.parquet", "x.parquet:a", "x.safetensors", "x.safetensors:a", "x.jsonl"]


def refuse(path, message="."):
    """Reading must fail with a ValueError that begins with the name of the file, or an OSError that has it."""
    file = str(path).split(":")[0]
    with pytest.raises((ValueError, OSError), match=message) as refusal:
        read_vectors(path)
    assert file in str(refusal.value)
    assert len(str(refusal.value)) < 1500


def npy(header, data=b"", version=1):
    """Encode a .npy file with any header."""
    text = header.encode("latin-1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def head(shape="(7, 5)", descr="'<f4'", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"


HEADERS = [
    head("(-7, 5)"),
    head("(7, -5)"),
    head("(-7, -5)"),
    head("(70368744177664, 1)"),
    head("(1099511627776, 0, 5)"),
    head("(2147483648, 2147483648)"),
    head("(4294967296, 4294967296)"),
    head(f"({10**30}, 5)"),
    head("(7.0, 5)"),
    head("7"),
    head("None"),
    head("(7, 5"),
    head("('7', 5)"),
    head("(1,) * 99"),
    head(str((1,) * 99)),
    head(descr="'O'"),
    head(descr="'|V0'"),
    head(descr="'<U0'"),
    head(descr="'<f9'"),
    head(descr="'<M8[s]'"),
    head(descr="'<c8'"),
    head(descr="'|b1'"),
    head(descr="[('a', '<f4')]"),
    head(descr="[('a', 'O')]"),
    head(descr="None"),
    head(descr="['<f4']"),
    head(descr="('<f4', (5,))"),
    head(fortran="'no'"),
    "",
    "{}",
    "[]",
    "__import__('os').getpid()",
    "(" * 500,
    "{'descr': 1}",
    "\0" * 40,
    head()[:-1],
    head() + "1",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
@pytest.mark.parametrize("version", [1, 2, 3, 9])
def test_headers_of_npy(tmp_path, header, version):
    content = npy(header, VECTORS.tobytes(), version)
    (tmp_path / "x.npy").write_bytes(content)
    refuse(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    refuse(tmp_path / "x.npz")
    refuse(f"{tmp_path}/x.npz:a")
    for read in (lambda: read_column(tmp_path / "x.npy", 7, "id", "iu"), lambda: read_tau(f"{tmp_path}/x.npy", 7)):
        with pytest.raises(ValueError, match=r"x\.npy"):
            read()


def test_a_length_that_no_machine_has_is_not_allocated(tmp_path):
    """The size of the file says that the header is wrong."""
    for header in (head(f"({2**46}, 1)"), head(f"({2**31}, {2**31})")):
        (tmp_path / "x.npy").write_bytes(npy(header))
        refuse(tmp_path / "x.npy", "which takes .* bytes; 0 follow")


def zipped(path, **of_entry):
    """Write a whole archive of one array, whose only entry gets other fields in both of its headers."""
    np.savez(path, vectors=VECTORS)
    content = bytearray(path.read_bytes())
    places = {"flags": (6, 8, "<H"), "method": (8, 10, "<H"), "size": (22, 24, "<I")}
    for field, value in of_entry.items():
        local, central, form = places[field]
        struct.pack_into(form, content, content.index(b"PK\x03\x04") + local, value)
        struct.pack_into(form, content, content.index(b"PK\x01\x02") + central, value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "entry", [{"flags": 1}, {"flags": 0x21}, {"method": 99}, {"method": 6}, {"method": 12}, {"method": 14}, {"size": 5}]
)
def test_odd_zip_members(tmp_path, entry):
    """Encrypted, compressed in another way, or shorter than they state."""
    zipped(tmp_path / "x.npz", **entry)
    refuse(tmp_path / "x.npz")
    refuse(f"{tmp_path}/x.npz:vectors")
    line = fail(2, "build", tmp_path / "x.npz", "-o", tmp_path / "x.hs")
    assert "x.npz" in line
    assert not (tmp_path / "x.hs").exists()


def test_pickles(tmp_path):
    objects = np.array([[{"a": 1}]], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    refuse(tmp_path / "x.npy", "never unpickled")
    (tmp_path / "x.npy").write_bytes(b"\x80\x04\x95\x0a\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06")
    refuse(tmp_path / "x.npy")
    (tmp_path / "x.npz").write_bytes(b"\x80\x04N.")
    refuse(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.npz:a", "x.fvecs", "x.bvecs", "x.h5", "x.hdf5:a", *OTHERS])
@pytest.mark.parametrize("kind", ["empty", "folder", "pipe"])
def test_no_files_of_vectors(tmp_path, name, kind):
    path = tmp_path / name.split(":")[0]
    if kind == "pipe" and os.name == "nt":
        return
    {"empty": Path.touch, "folder": Path.mkdir, "pipe": os.mkfifo}[kind](path)
    refuse(tmp_path / name)
    assert path.name in fail(2, "build", f"{tmp_path}/{name}", "-o", tmp_path / "x.hs")
    if name == "x.npy":
        np.save(tmp_path / "y.npy", VECTORS)
        assert "x.npy" in fail(2, "build", tmp_path / "y.npy", "-o", tmp_path / "x.hs", "--ids", path)


@POSIX
def test_an_index_is_no_pipe_or_folder(tmp_path):
    np.save(tmp_path / "q.npy", VECTORS)
    os.mkfifo(tmp_path / "pipe.hs")
    for path in (tmp_path / "pipe.hs", tmp_path):
        assert str(path) in fail(2, "info", path)
        assert str(path) in fail(2, "query", path, tmp_path / "q.npy", "--tau", 1)


def valid_files(folder):
    """One file of each kind, small."""
    np.save(folder / "x.npy", VECTORS)
    np.savez(folder / "x.npz", vectors=VECTORS, flat=VECTORS[0])
    np.savez_compressed(folder / "y.npz", vectors=VECTORS)
    (folder / "x.fvecs").write_bytes(b"".join(struct.pack("<i5f", 5, *row) for row in VECTORS))
    (folder / "x.bvecs").write_bytes(b"".join(struct.pack("<i5B", 5, *map(int, row)) for row in VECTORS))
    (folder / "x.jsonl").write_text("".join(f"{row}\n" for row in VECTORS.tolist()))
    head = json.dumps({"vectors": {"dtype": "F32", "shape": VECTORS.shape, "data_offsets": (0, VECTORS.nbytes)}})
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(head)) + head.encode() + VECTORS.tobytes())
    with contextlib.suppress(ImportError):
        from pyarrow import parquet, table

        parquet.write_table(table({"vectors": VECTORS.tolist()}), folder / "x.parquet", write_page_checksum=True)
    with contextlib.suppress(ImportError):
        import h5py

        with h5py.File(folder / "x.h5", "w") as archive:
            archive["train"] = VECTORS
            archive.create_dataset("packed", data=VECTORS, chunks=(4, 5), compression="gzip")
    return sorted(folder.iterdir())


def mutated(rng, content):
    """Return a damaged copy: bytes set at random, cut, or a piece moved."""
    damaged = bytearray(content)
    how = rng.integers(4)
    if how == 0:
        return bytes(damaged[: rng.integers(len(damaged))])
    if how == 1:
        low, high = sorted(rng.integers(0, len(damaged), 2))
        del damaged[low : min(high, low + 64)]
        return bytes(damaged)
    values = [0, 1, 127, 128, 255, *map(int, rng.integers(0, 256, 4))]
    for place in rng.integers(0, len(damaged), 1 + rng.integers(1, 8)):
        damaged[place] = values[rng.integers(len(values))]
    if how == 3:
        place = int(rng.integers(max(1, len(damaged) - 8)))
        damaged[place : place + 8] = b"\xff" * 8
    return bytes(damaged)


@pytest.mark.parametrize("place", range(9))
def test_mutated_files_are_read_or_refused(tmp_path, place):
    """Whatever is in a file, a reader returns real numbers in two dimensions, or a ValueError that names the file."""
    files = valid_files(tmp_path)
    if place >= len(files):
        return
    file = files[place]
    rng = np.random.default_rng(place)
    content = file.read_bytes()
    named = [f"{file}:vectors", file]
    paths = {".npz": named, ".parquet": named, ".h5": [file, f"{file}:packed"]}.get(file.suffix, [file])
    refused = 0
    for _ in range(400):
        file.unlink()  # a new one: the old one may be mapped
        file.write_bytes(mutated(rng, content))
        for path in paths:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of the parser of Python literals
                    found = read_vectors(path)
            except ValueError as error:
                assert str(file) in str(error)  # noqa: PT017 (there may be none)
                refused += 1
            else:
                assert found.ndim == 2
                assert found.dtype.kind in "fiu"
                found.tobytes()  # every page of it is there
    assert refused > 40


# HDF5 that points elsewhere


@pytest.fixture
def archives(tmp_path):
    """An archive whose datasets are here, elsewhere, or named here and elsewhere by links."""
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret.bin"
    secret.write_bytes(VECTORS.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["train"] = VECTORS
    with h5py.File(tmp_path / "x.h5", "w") as archive:
        archive["here"] = VECTORS
        archive.create_dataset("external", (7, 5), "<f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        for name, source in (("virtual", str(tmp_path / "other.h5")), ("own", ".")):
            layout = h5py.VirtualLayout((7, 5), "<f4")
            layout[:] = h5py.VirtualSource(source, "train" if name == "virtual" else "here", shape=(7, 5))
            archive.create_virtual_dataset(name, layout)
        archive["soft"] = h5py.SoftLink("/external")
        archive["link"] = h5py.ExternalLink("other.h5", "/train")
        archive["group/train"] = h5py.ExternalLink("other.h5", "/train")
        archive["files"] = h5py.ExternalLink("other.h5", "/")
        archive["softer"] = h5py.SoftLink("/link")
        archive.create_dataset("never written", (2**20, 2**20), "<f4")
        archive["text"] = [["a", "b"]]
    return tmp_path / "x.h5"


@pytest.mark.parametrize(
    "name",
    [
        *("external", "virtual", "own", "soft", "link", "group/train", "files/train", "softer", "/link", "./link"),
        *("never written", "text", "group", "", "/", "\0"),
    ],
)
def test_numbers_of_other_files_are_refused(archives, name):
    refuse(f"{archives}:{name}", repr(name).replace("\\", r"\\"))


def test_numbers_of_the_file_itself_are_read(archives):
    np.testing.assert_array_equal(read_vectors(f"{archives}:here"), VECTORS)


# What is one direction, and which file a path means


@pytest.mark.parametrize("suffix", ["npy", "npz:only", "h5:only"])
def test_one_vector(tmp_path, suffix):
    file = tmp_path / f"x.{suffix.split(':')[0]}"
    if suffix == "npy":
        np.save(file, VECTORS[2])
    elif suffix.startswith("npz"):
        np.savez(file, only=VECTORS[2], other=VECTORS)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(file, "w") as archive:
            archive["only"] = VECTORS[2]
    np.testing.assert_array_equal(read_vectors(f"{tmp_path}/x.{suffix}"), VECTORS[2:3])


def test_file_of(tmp_path):
    (tmp_path / "a.npz:b.npz").touch()
    assert file_of(f"{tmp_path}/a.npz:b.npz") == tmp_path / "a.npz:b.npz"
    assert file_of(f"{tmp_path}/a.npz:b") == tmp_path / "a.npz"
    assert file_of("C.hdf5:x/y") == Path("C.hdf5")
    assert file_of("a.parquet:b.parquet:c") == Path("a.parquet:b.parquet")
    assert file_of("a.safetensors:model.embed.weight") == Path("a.safetensors")
    assert file_of("plain.npy:x") == Path("plain.npy:x")


def test_memory_that_is_not_there(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", VECTORS)

    def none(*_, **__):
        raise MemoryError

    monkeypatch.setattr(sys.modules["halfspace.files.vectors"].np, "load", none)
    refuse(tmp_path / "x.npy", "MemoryError")
