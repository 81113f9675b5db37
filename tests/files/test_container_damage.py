"""What a reader of the container refuses: damaged, truncated, mangled and foreign files, and headers that lie."""

import zlib

import numpy as np
import pytest
from helpers.container import SIGNATURE, entry, header_of, padded, sealed, values
from hypothesis import given
from hypothesis import strategies as st

from halfspace.files import container as storage


def check(path, kind, *, mmap):
    """Reading, or mapping and verifying, is refused with the path and ``kind`` in the text."""
    with pytest.raises(ValueError, match=kind) as refusal:
        storage.read(path, mmap=mmap).verify()
    assert str(path) in str(refusal.value)


def region(file, byte):
    """What a reader can say of a damaged byte."""
    header_end = 64 + int.from_bytes(file[24:32], "little")
    for end, kind in (
        (len(SIGNATURE), "not a halfspace file|mangled"),
        (64, "damaged preamble"),
        (header_end, "damaged header"),
        (header_end + 64, "damaged section 'ids'"),
    ):
        if byte < end:
            return kind
    return "damaged section 'rows'"


@pytest.mark.parametrize("mmap", [False, True])
def test_every_flipped_bit_is_found(saved, mmap):
    file = saved.read_bytes()
    with open(saved, "r+b", buffering=0) as patch:
        for byte, bit in np.ndindex(len(file), 8):
            patch.seek(byte)
            patch.write(bytes([file[byte] ^ 1 << bit]))
            check(saved, region(file, byte), mmap=mmap)
            patch.seek(byte)
            patch.write(file[byte : byte + 1])
    storage.read(saved, mmap=mmap).verify()


@pytest.mark.parametrize("mmap", [False, True])
def test_every_truncation_and_any_excess_is_found(saved, mmap):
    file = saved.read_bytes()
    for length in range(len(file)):
        saved.write_bytes(file[:length])
        least = "at least 64" if length < 64 else len(file)
        check(saved, f"truncated: expected {least} bytes, found {length}" if length else "not a", mmap=mmap)
    for excess in (b"\0", b"\n", bytes(64), file):
        saved.write_bytes(file + excess)
        check(saved, f"longer than expected: expected {len(file)} bytes, found {len(file + excess)}", mmap=mmap)


def test_mapping_leaves_the_arrays_to_verify(saved):
    file = bytearray(saved.read_bytes())
    file[-1] ^= 1
    saved.write_bytes(file)
    stored = storage.read(saved, mmap=True)
    with pytest.raises(ValueError, match="damaged section 'rows'"):
        stored.verify()


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"halfspace index\n", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY\x01\0", b"PK\3\4", bytes(4096)]
)
def test_foreign_files(tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    check(tmp_path / "foreign", "not a halfspace file", mmap=False)


@pytest.mark.parametrize(
    "mangle",
    [
        lambda file: file.replace(b"\r\n", b"\n"),
        lambda file: file.replace(b"\n", b"\r\n"),
        lambda file: file.replace(b"\r", b"\n"),
        lambda file: file.replace(b"\n", b"\r"),
        lambda file: file.replace(b"\0", b""),
        lambda file: file.replace(b"\x1a", b""),
        lambda file: bytes(byte & 127 for byte in file),
        lambda file: file.decode("latin-1").encode(),
        lambda file: file.decode(errors="replace").encode(),
        lambda file: file.decode("ascii", errors="replace").encode("ascii", errors="replace"),
    ],
)
def test_mangled_files(saved, mangle):
    saved.write_bytes(mangle(saved.read_bytes()))
    check(saved, "mangled by text mode", mmap=False)


@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
def test_other_versions(tmp_path, version):
    (tmp_path / "file").write_bytes(sealed(b"a header of another kind", version=version))
    check(tmp_path / "file", f"unsupported format version {version}: this release reads version 1", mmap=False)


@pytest.mark.parametrize(
    ("lengths", "kind"),
    [
        ({"file_nbytes": 2**64 - 1}, "truncated"),
        ({"file_nbytes": 0}, "longer than expected"),
        ({"header_nbytes": 2**64 - 64}, "damaged preamble"),
        ({"header_nbytes": 128}, "damaged preamble"),
        ({"header_nbytes": 1}, "damaged preamble"),
        ({"header_nbytes": 0}, "damaged header"),
    ],
)
def test_absurd_lengths(tmp_path, lengths, kind):
    (tmp_path / "file").write_bytes(sealed(header_of({"metadata": {}, "sections": []}), **lengths))
    check(tmp_path / "file", kind, mmap=False)


SECTION = entry("a", np.zeros(16, np.uint32), 0, f"{zlib.crc32(bytes(64)):08x}")
TABLES = [
    [],
    None,
    {},
    [None],
    [[]],
    [SECTION, SECTION],
    [SECTION, SECTION | {"offset": 64}],
    *([{key: value for key, value in SECTION.items() if key != absent}] for absent in SECTION),
    *([SECTION | {key: value}] for key in SECTION for value in (None, True, -1, 2**70, 1e400, [], {})),
    [SECTION | {"crc32": "0000000g"}],
    [SECTION | {"surplus": 1}],
    *([SECTION | {"dtype": dtype}] for dtype in ("object", "O", "<u4", "complex64", "V4", "bool, int8", "", "int8")),
    *([SECTION | {"shape": shape}] for shape in ([16.0], [-16], [-4, -4], [True, 16], ["4"], [2**62, 4], [[16]])),
    [SECTION | {"shape": [0], "nbytes": 0}],
    [SECTION | {"shape": [2**62, 2**62, 0], "nbytes": 0}, SECTION],
    [SECTION | {"shape": [2**70, 0], "nbytes": 0}, SECTION | {"name": "b"}],
    [SECTION | {"shape": [1] * 65 + [16]}],
    [SECTION | {"shape": [10**4000] * 9}],
]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("table", TABLES)
def test_wrong_section_tables(tmp_path, table, mmap):
    (tmp_path / "file").write_bytes(sealed(header_of({"metadata": {}, "sections": table}), bytes(64)))
    check(tmp_path / "file", "damaged (header|section 'a')", mmap=mmap)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe\0\xd8",
        b'{"metadata": {}}',
        b'{"metadata": [], "sections": []}',
        b'{"metadata": {}, "sections": []} {}',
        b'{"metadata": {}, "sections": [' + b"[" * 100_000,
        b"9" * 10_000,
    ],
)
def test_wrong_headers(tmp_path, header):
    (tmp_path / "file").write_bytes(sealed(padded(header, b" ")))
    check(tmp_path / "file", "damaged header", mmap=False)


@given(values | st.fixed_dictionaries({"metadata": values, "sections": values | st.lists(values)}))
def test_any_other_header_is_a_value_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any-header"
    path.write_bytes(sealed(header_of(content), bytes(64)))
    check(path, "damaged header", mmap=True)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.read(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="absent"):
        storage.write(tmp_path / "absent" / "file", {}, {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        storage.write(tmp_path / "folder", {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
