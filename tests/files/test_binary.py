"""Files of big-ann-benchmarks: vectors behind a header, and answers of range search."""

import re
import struct

import numpy as np
import pytest

from halfspace.files.binary import read_answers
from halfspace.files.vectors import read_vectors

VECTORS = np.random.default_rng(0).integers(0, 128, (7, 5))


def binned(array):
    return struct.pack("<II", *array.shape) + array.tobytes()


@pytest.mark.parametrize("name", ["x.fbin", "x.bin", "x.u8bin", "x.i8bin", "X.FBIN", "base.1B.u8bin.crop_nb_7"])
def test_vectors_behind_a_header(tmp_path, name):
    dtype = "u1" if "u8" in name else "i1" if "i8" in name else "<f4"
    expected = VECTORS.astype(dtype)
    (tmp_path / name).write_bytes(binned(expected))
    found = read_vectors(tmp_path / name)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable


def test_no_vectors_behind_a_header(tmp_path):
    (tmp_path / "x.fbin").write_bytes(struct.pack("<II", 0, 5))
    assert read_vectors(tmp_path / "x.fbin").shape == (0, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x07\0\0\0\x05\0\0", "7 bytes, too short"),
        (binned(VECTORS.astype("<f4"))[:-1], r"its header states float32 (7, 5), a file of 148 bytes; it has 147"),
        (binned(VECTORS.astype("<f4")) + b"\0", r"its header states float32 (7, 5), a file of 148 bytes; it has 149"),
        (struct.pack("<II", 2**32 - 1, 2**32 - 1), "its header states float32 (4294967295, 4294967295)"),
    ],
)
def test_a_file_is_held_to_its_header(tmp_path, content, message):
    file = tmp_path / "x.fbin"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{file}: {message}')}"):
        read_vectors(file)


def test_a_name_that_was_cropped_needs_a_suffix_before(tmp_path):
    with pytest.raises(ValueError, match=r"unknown suffix ''; known are .*\.fbin, \.bin, \.u8bin, \.i8bin"):
        read_vectors(tmp_path / "x.crop_nb_7")


@pytest.mark.parametrize("distances", [b"", np.ones(4, "<f4").tobytes()])
def test_answers(tmp_path, distances):
    file = tmp_path / "gt.rangeres"
    file.write_bytes(struct.pack("<9i", 3, 4, 1, 0, 3, 6, 5, 2, 4) + distances)
    offsets, ids = read_answers(file)
    assert offsets.tolist() == [0, 1, 1, 4]
    assert ids.tolist() == [6, 2, 4, 5]


@pytest.mark.parametrize(
    "numbers", [(), (3,), (3, 4, 1, 0, 2, 1, 2, 3, 4), (1, 2, 2, 5), (-1, 0), (1, -1, 0), (2, 0, 1, -1), (1, 1, 1, -3)]
)
def test_answers_that_do_not_fit_are_refused(tmp_path, numbers):
    file = tmp_path / "gt.rangeres"
    file.write_bytes(struct.pack(f"<{len(numbers)}i", *numbers))
    with pytest.raises(ValueError, match=re.escape(str(file))):
        read_answers(file)
