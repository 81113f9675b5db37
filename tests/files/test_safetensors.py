"""Tensors are what their library wrote, and a header is believed only where all of it fits the file."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from helpers.command import succeed

from halfspace import HalfspaceIndex
from halfspace.files.vectors import read_vectors

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) - 5


def encoded(header, data=b""):
    """Write a file of any header, as JSON or as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(4, 3), offsets=(0, 48)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("dtype", [*("f2", "f4", "f8", "i1", "u1", "i4", "i8"), ml_dtypes.bfloat16])
def test_what_the_library_wrote(tmp_path, dtype):
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch").save_file
    expected = np.abs(ROWS).astype(dtype)
    bfloat16 = dtype is ml_dtypes.bfloat16
    tensor = torch.from_numpy(np.abs(ROWS)).to(torch.bfloat16) if bfloat16 else torch.from_numpy(expected)
    save({"weight": tensor, "bias": tensor[0].clone()}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    for path in ("x.safetensors", "x.safetensors:weight"):
        found = read_vectors(f"{tmp_path}/{path}")
        assert found.dtype == expected.dtype
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(read_vectors(f"{tmp_path}/x.safetensors:bias"), expected[:1])


def test_an_index_of_bfloat16_tensors(tmp_path):
    """Tensors need not be aligned, either."""
    data = b"\1" + ROWS.astype(ml_dtypes.bfloat16).tobytes()
    header = {"odd": entry("U8", (1,), (0, 1)), "x": entry("BF16", (4, 3), (1, 25))}
    (tmp_path / "x.safetensors").write_bytes(encoded(header, data))
    succeed("build", f"{tmp_path}/x.safetensors:x", "-o", tmp_path / "x.hs")
    index = HalfspaceIndex.load(tmp_path / "x.hs")
    np.testing.assert_array_equal(index.vectors(index.ids), ROWS)
    document = json.loads(succeed("query", tmp_path / "x.hs", tmp_path / "x.safetensors", "--tau", 0, "--json"))
    dots = ROWS @ ROWS.T
    assert [answer["ids"] for answer in document["answers"]] == [np.flatnonzero(row >= 0).tolist() for row in dots]


def test_which_tensor(tmp_path):
    file = tmp_path / "x.safetensors"
    two = {"a": entry(), "b": entry("F8_E4M3", (4, 3), (48, 60)), "c": entry("F16", (2, 3), (60, 72))}
    file.write_bytes(encoded(two, bytes(72)))
    with pytest.raises(ValueError, match=r"x\.safetensors: more than one two-dimensional tensor.*a F32 \(4, 3\), b F8"):
        read_vectors(file)
    with pytest.raises(ValueError, match="no tensor named 'z'; it holds a F32"):
        read_vectors(f"{file}:z")
    with pytest.raises(ValueError, match="tensor 'b' is of dtype F8_E4M3, none of BF16, F16"):
        read_vectors(f"{file}:b")
    assert read_vectors(f"{file}:c").shape == (2, 3)
    file.write_bytes(encoded({"a": entry("F32", (0, 3), (0, 0)), "b": entry("F32", (), (0, 4))}, bytes(4)))
    assert read_vectors(file).shape == (0, 3)
    with pytest.raises(ValueError, match="expected an array of shape"):
        read_vectors(f"{file}:b")
    file.write_bytes(encoded({"__metadata__": {}}))
    with pytest.raises(ValueError, match=r"no two-dimensional tensor of numbers; .* from no tensor"):
        read_vectors(file)


DATA = ROWS.tobytes()
DAMAGED = [
    (b"", "0 bytes, too short"),
    (b"\1\0\0", "3 bytes, too short"),
    (struct.pack("<Q", 9) + b"{}", "too short for its header"),
    (struct.pack("<Q", 2**63) + b"{}", "its header is too long"),
    (encoded(b"\xff{}"), "codec can't decode"),
    (encoded(b"{"), "Expecting"),
    (encoded(b"[" * 100_000), "recursion"),
    (encoded([entry()], DATA), "no JSON object"),
    (encoded({"x": [1]}, DATA), "must have dtype, shape and data_offsets"),
    (encoded({"x": entry() | {"more": 1}}, DATA), "must have dtype, shape and data_offsets"),
    (encoded({"x": {"dtype": "F32", "shape": [4, 3]}}, DATA), "must have dtype, shape and data_offsets"),
    (encoded({"x": entry(shape=(4.0, 3))}, DATA), "states"),
    (encoded({"x": entry(shape=(True, 12))}, DATA), "states"),
    (encoded({"x": entry(shape=(-4, -3))}, DATA), "states"),
    (encoded({"x": entry(shape="43")}, DATA), "states"),
    (encoded({"x": entry(shape=[1] * 65)}, DATA), "states"),
    (encoded({"x": entry(shape=(2**70, 0), offsets=(0, 0))}, b""), "states"),
    (encoded({"x": entry(dtype=4)}, DATA), "states"),
    (encoded({"x": entry(offsets=(0,))}, DATA), "states"),
    (encoded({"x": entry(offsets=(0, 47))}, DATA[:47]), "cannot lie in the bytes 0 to 47"),
    (encoded({"x": entry(offsets=(48, 0))}, DATA), "cannot lie in the bytes"),
    (encoded({"x": entry(dtype="Q", offsets=(48, 0))}, DATA), "cannot lie in the bytes"),
    (encoded({"x": entry(shape=(2**40, 2**40))}, DATA), "cannot lie in the bytes"),
    (encoded({"x": entry(offsets=(4, 52))}, bytes(4) + DATA), "begins at byte 4 of the data, the one before ends at 0"),
    (encoded({"x": entry(), "y": entry(offsets=(44, 92))}, bytes(92)), "'y' begins at byte 44"),
    (encoded({"x": entry(), "y": entry()}, DATA), "begins at byte 0 of the data, the one before ends at 48"),
    (encoded({"x": entry()}, DATA + b"\0"), "take 48 bytes; 49 follow"),
    (encoded({"x": entry()}, DATA[:-1]), "take 48 bytes; 47 follow"),
    (encoded(json.dumps({"x": entry(), "y": 1}).replace("y", "x").encode(), DATA), "'x' comes twice"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED, ids=range(len(DAMAGED)))
def test_headers_that_do_not_fit(tmp_path, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    for path in ("x.safetensors", "x.safetensors:x"):
        with pytest.raises(ValueError, match=message) as refusal:
            read_vectors(f"{tmp_path}/{path}")
        assert str(refusal.value).startswith(f"{tmp_path}/x.safetensors: not a readable .safetensors file: ")
        assert len(str(refusal.value)) < 1000
