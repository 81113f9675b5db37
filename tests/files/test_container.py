"""The file: what it holds, what it refuses, and that no failure leaves half of one."""

import errno
import json
import os
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfspace.files import container as storage

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX semantics")
SIGNATURE = b"\x89halfspace\r\n\x1a\n\0\0"
METADATA = {"rows": 3, "note": "é\n", "nested": {"x": [1.5, None, True]}}
ARRAYS = {"ids": np.arange(3, dtype=np.int16), "none": np.zeros((0, 2)), "rows": np.eye(5, 4, dtype=np.float32)}


# The format a second time, from its description alone.


def entry(name, array, offset, crc32):
    fields = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
    return fields | {"nbytes": array.nbytes, "crc32": crc32}


def padded(data, fill=b"\0"):
    return data + fill * (-len(data) % 64)


def sealed(header, data=b"", *, version=1, header_nbytes=None, file_nbytes=None):
    """A preamble whose checksums are right, whatever the header and the lengths are."""
    header_nbytes = len(header) if header_nbytes is None else header_nbytes
    file_nbytes = 64 + len(header) + len(data) if file_nbytes is None else file_nbytes
    preamble = SIGNATURE + struct.pack("<IIQQ20x", version, zlib.crc32(header), header_nbytes, file_nbytes)
    return preamble + struct.pack("<I", zlib.crc32(preamble)) + header + data


def encode(metadata, arrays):
    table, data = [], b""
    for name, array in arrays.items():
        section = padded(array.astype(array.dtype.newbyteorder("<")).tobytes())
        table.append(entry(name, array, len(data), f"{zlib.crc32(section):08x}"))
        data += section
    return sealed(header_of({"metadata": metadata, "sections": table}), data)


def header_of(content):
    return padded(json.dumps(content, separators=(",", ":")).encode(), b" ")


def same(stored, metadata, arrays):
    assert stored.metadata == metadata
    assert list(stored.arrays) == list(arrays)
    for name, array in arrays.items():
        ours = stored.arrays[name]
        assert (type(ours), ours.shape, ours.dtype) == (np.ndarray, array.shape, array.dtype.newbyteorder("="))
        assert ours.dtype.isnative
        assert ours.flags.c_contiguous
        assert not ours.flags.writeable
        assert ours.ctypes.data % 64 == 0 or ours.size == 0
        assert ours.tobytes() == array.astype(ours.dtype).tobytes()


def check(path, kind, *, mmap):
    """Reading, or mapping and verifying, is refused with the path and ``kind`` in the text."""
    with pytest.raises(ValueError, match=kind) as refusal:
        storage.read(path, mmap=mmap).verify()
    assert str(path) in str(refusal.value)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "saved"
    storage.write(path, METADATA, ARRAYS)
    return path


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
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
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


@POSIX
def test_a_mapping_outlives_its_file(saved):
    mapped = storage.read(saved, mmap=True)
    assert isinstance(mapped.arrays["rows"].base, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        mapped.arrays["rows"][0] = 1
    storage.write(saved, {}, {"rows": 2 * mapped.arrays["rows"]})
    mapped.verify()
    same(mapped, METADATA, ARRAYS)
    same(storage.read(saved, mmap=True), {}, {"rows": 2 * ARRAYS["rows"]})


# What it refuses to read


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


# The file it replaces


@POSIX
def test_permissions(tmp_path):
    path = tmp_path / "file"
    umask = os.umask(0o027)
    try:
        storage.write(path, {}, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o666, 0o600, 0o444, 0o777):
            path.chmod(mode)
            storage.write(path, {}, {})
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(umask)


@POSIX
def test_links_are_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/file")
    for metadata in ({"created": True}, {"replaced": True}):
        storage.write(link, metadata, {})
        assert os.readlink(link) == os.path.join("folder", "file")
        assert storage.read(tmp_path / "folder" / "file").metadata == storage.read(link).metadata == metadata
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        storage.write(tmp_path / "loop", {}, {})


@POSIX
def test_only_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"Not a regular file.*pipe"):
        storage.write(tmp_path / "pipe", {}, {})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@POSIX
def test_it_is_synchronised_before_and_after_renaming(saved, monkeypatch):
    steps = []
    fsync, rename = os.fsync, os.replace

    def noted_fsync(descriptor):
        fsync(descriptor)
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def noted_replace(source, target):
        steps.append("rename")
        same(storage.read(source), {"new": True}, {})
        same(storage.read(target), METADATA, ARRAYS)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    storage.write(saved, {"new": True}, {})
    assert steps == ["file", "rename", "folder"]


def test_writers_do_not_disturb_each_other(tmp_path):
    path, found = tmp_path / "file", []
    storage.write(path, {"writer": 0}, {"a": np.zeros(10**5)})

    def save(writer):
        for _ in range(5):
            storage.write(path, {"writer": writer}, {"a": np.full(10**5, writer, float)})
            stored = storage.read(path)
            found.append((stored.arrays["a"] == stored.metadata["writer"]).all())

    threads = [threading.Thread(target=save, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20
    assert list(tmp_path.iterdir()) == [path]


# Failures


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("place", ["os.fsync", "os.replace", "os.chmod", "zlib.crc32"])
def test_a_failure_leaves_the_old_file(saved, monkeypatch, place, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(place, fail)
    with pytest.raises(type(error)) as raised:
        storage.write(saved, {}, {"a": np.ones(1000)})
    monkeypatch.undo()
    assert isinstance(error, OSError) <= (str(saved) in str(raised.value))
    same(storage.read(saved), METADATA, ARRAYS)
    assert list(saved.parent.iterdir()) == [saved]


@POSIX
@pytest.mark.parametrize(("code", "raises"), [(errno.EIO, True), (errno.EINVAL, False), (errno.EACCES, False)])
def test_a_folder_that_cannot_be_synchronised(saved, monkeypatch, code, raises):
    fsync = os.fsync

    def fail_on_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    if raises:
        with pytest.raises(OSError, match=os.strerror(code)):
            storage.write(saved, {"new": True}, {})
    else:
        storage.write(saved, {"new": True}, {})
    same(storage.read(saved), {"new": True}, {})
    assert list(saved.parent.iterdir()) == [saved]


def python(script, *arguments):
    """Run a script in a process of its own; what it prints."""
    paths = os.pathsep.join([str(Path(storage.__file__).parents[2]), str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


FULL_DISK = """
import os, resource, signal, sys
import numpy as np
from halfspace.files import container as storage

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, size = sys.argv[1], int(sys.argv[2])
old = open(path, "rb").read()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for room in range(size + 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        storage.write(path, {}, {"a": np.ones(16), "b": np.ones(1)})
    except OSError as error:
        assert path in str(error)
        assert open(path, "rb").read() == old
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
    else:
        print(room)
"""


@POSIX
def test_a_full_disk_at_every_byte(saved):
    """The limit on the size of a file fails a write as a full disk does: with as many bytes as still fit written."""
    new = encode({}, {"a": np.ones(16), "b": np.ones(1)})
    assert python(FULL_DISK, saved, len(new)).split() == [str(len(new))]
    assert saved.read_bytes() == new


KILLS = """
import os, random, signal, sys, time
import numpy as np
from halfspace.files import container as storage

path, rounds = sys.argv[1], int(sys.argv[2])
contents = [np.full(200_000, value, np.float32) for value in (1, 2)]
storage.write(path, {"value": 1}, {"a": contents[0]})
random.seed(0)
for _ in range(rounds):
    child = os.fork()
    while child == 0:
        for value in (2, 1):
            storage.write(path, {"value": value}, {"a": contents[value - 1]})
    before = os.stat(path).st_ino
    time.sleep(random.uniform(0.001, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    stored = storage.read(path)
    assert (stored.arrays["a"] == stored.metadata["value"]).all()
    print(os.stat(path).st_ino != before)
"""


@POSIX
def test_kills_at_random_moments(tmp_path):
    (tmp_path / "folder").mkdir()
    rounds = python(KILLS, tmp_path / "folder" / "file", 20).split()
    assert len(rounds) == 20
    assert "True" in rounds
    assert all(".halfspace-" in path.name for path in (tmp_path / "folder").iterdir() if path.name != "file")


def test_opening_a_large_mapping_is_quick(tmp_path):
    storage.write(tmp_path / "file", {}, {"a": np.zeros(2**25, np.uint8)})
    start = time.perf_counter()
    for _ in range(10):
        storage.read(tmp_path / "file", mmap=True)
    mapping = time.perf_counter() - start
    storage.read(tmp_path / "file")
    assert mapping / 10 < time.perf_counter() - start - mapping
