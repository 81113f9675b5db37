"""Indexes in file objects of any kind and in bytes: the bytes of a file, and checked like one."""

import gzip
import io
import os
import threading
import zipfile

import numpy as np
import pytest
from helpers.checking import build, identical
from helpers.container import ARRAYS, METADATA, encode, same

from halfspace import HalfspaceIndex
from halfspace.files import container as storage

DIRECTIONS = np.eye(4, dtype=np.float32)[:2]


@pytest.fixture(scope="module")
def index():
    vectors = np.random.default_rng(3).integers(-9, 10, (700, 4)).astype(np.float32)
    made = build(vectors[:600], filter="cells")
    made.insert(vectors[600:])
    made.delete([5, 650])
    return made


@pytest.fixture(scope="module")
def content(index, tmp_path_factory):
    path = tmp_path_factory.mktemp("streams") / "index"
    index.save(path)
    return path.read_bytes()


def check(index, loaded):
    loaded.verify()
    identical(index.query(DIRECTIONS, 3.0), loaded.query(DIRECTIONS, 3.0))


class Grudging(io.RawIOBase):
    """A raw file that takes and gives a few bytes at a time, and cannot be sought in."""

    def __init__(self, content=b""):
        self.content, self.at = bytearray(content), 0

    def readable(self):
        return True

    def writable(self):
        return True

    def write(self, data):
        part = bytes(data[:4097])
        self.content += part
        return len(part)

    def readinto(self, room):
        part = self.content[self.at : self.at + min(4097, len(room))]
        room[: len(part)] = part
        self.at += len(part)
        return len(part)


class Plain:
    """A file object that has one method to write and one to read."""

    def __init__(self, content=b""):
        self.content, self.source = bytearray(), io.BytesIO(content)

    def write(self, data):
        self.content += data

    def read(self, count):
        return self.source.read(min(count, 5001))


class Busy(io.RawIOBase):
    """A raw file that does not wait, and is never ready."""

    def write(self, data):
        return None

    def readinto(self, room):
        return None


def test_a_file_object_holds_the_bytes_of_a_file(index, content, tmp_path):
    file, grudging, plain = io.BytesIO(), Grudging(), Plain()
    for target in (file, grudging, plain):
        index.save(target)
    assert file.getvalue() == grudging.content == plain.content == content
    with open(tmp_path / "appended", "wb") as first:
        first.write(b"before")
    with open(tmp_path / "appended", "ab") as target:
        index.save(target)
    assert (tmp_path / "appended").read_bytes() == b"before" + content


def test_the_container_does_without_sections():
    for arrays in ({}, ARRAYS):
        file = io.BytesIO()
        storage.write(file, METADATA, arrays)
        assert file.getvalue() == encode(METADATA, arrays)
        same(storage.read(file.getvalue()), METADATA, arrays)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO, Grudging, Plain])
def test_it_is_read_from_bytes_and_file_objects(kind, index, content):
    check(index, HalfspaceIndex.load(kind(content), threads=1))


def test_several_lie_one_after_the_other(index, content):
    file = io.BytesIO(b"before")
    file.seek(0, io.SEEK_END)
    other = build(np.ones((3, 2), np.float32))
    for one in (index, other):
        one.save(file)
    file.write(b"after")
    file.seek(6)
    check(index, HalfspaceIndex.load(file))
    assert file.tell() == 6 + len(content)
    assert HalfspaceIndex.load(file).ids.tolist() == other.ids.tolist()
    assert file.read() == b"after"
    with pytest.raises(ValueError, match="not a halfspace file"):
        HalfspaceIndex.load(file)


def test_compressed_files_archives_and_pipes(index, tmp_path):
    with gzip.open(tmp_path / "index.gz", "wb") as file:
        index.save(file)
    with gzip.open(tmp_path / "index.gz") as file:
        check(index, HalfspaceIndex.load(file))
    with zipfile.ZipFile(tmp_path / "index.zip", "w") as archive, archive.open("index", "w") as file:
        index.save(file)
    with zipfile.ZipFile(tmp_path / "index.zip") as archive, archive.open("index") as file:
        check(index, HalfspaceIndex.load(file))
    end, begin = os.pipe()

    def fill():
        with open(begin, "wb", buffering=0) as file:
            index.save(file)

    writer = threading.Thread(target=fill)
    writer.start()
    with open(end, "rb", buffering=0) as file:
        check(index, HalfspaceIndex.load(file))
    writer.join()


# What is refused


def refusal(source, **options):
    with pytest.raises(ValueError, match=r".") as error:
        HalfspaceIndex.load(source, **options)
    return str(error.value)


def test_damage_is_found_as_in_a_file(content, tmp_path):
    rng = np.random.default_rng(4)
    places = [*range(64), *rng.integers(64, len(content), 200).tolist()]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "index").write_bytes(damaged)
        expected = refusal(tmp_path / "index").removeprefix(f"{tmp_path / 'index'}: ")
        assert refusal(bytes(damaged)) == f"<bytes>: {expected}"
        with open(tmp_path / "index", "rb") as file:
            assert refusal(file) == f"{tmp_path / 'index'}: {expected}"
        if "truncated" not in expected and "longer" not in expected:
            assert refusal(Plain(damaged)) == f"<Plain>: {expected}"


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 300, 5000, -1])
def test_what_is_cut_short_is_found(length, content):
    cut = content[:length]
    told = {0: "not a halfspace file"}.get(length, f"expected .*{'64' if 0 < length < 64 else len(content)} bytes")
    for source in (cut, io.BytesIO(cut), Grudging(cut), Plain(cut)):
        with pytest.raises(ValueError, match=told) as error:
            HalfspaceIndex.load(source)
        assert not length or f"found {len(cut)}" in str(error.value)


def test_bytes_end_where_the_index_ends(content):
    assert "longer than expected" in refusal(content + b"\0")


def test_foreign_contents_are_named(index):
    file = io.BytesIO()
    storage.write(file, {"kind": "another"}, {})
    assert refusal(file.getvalue()).startswith("<bytes>: holds 'another'")
    assert refusal(io.BytesIO(file.getvalue())).startswith("<BytesIO>: holds 'another'")


def test_only_paths_are_mapped(content):
    for source in (content, io.BytesIO(content)):
        assert "path" in refusal(source, mmap=True)


@pytest.mark.parametrize("wrong", [None, 3, [b""], io.StringIO()])
def test_what_is_no_file(wrong, index):
    with pytest.raises(TypeError, match=r"binary file object|text"):
        index.save(wrong)
    with pytest.raises(TypeError, match=r"binary file object|text"):
        HalfspaceIndex.load(wrong)


def test_files_of_text_are_refused_before_anything_is_written(index, tmp_path):
    with open(tmp_path / "text", "w", encoding="ascii") as file, pytest.raises(TypeError, match="mode 'wb'"):
        index.save(file)
    with open(tmp_path / "text", encoding="ascii") as file, pytest.raises(TypeError, match="mode 'rb'"):
        HalfspaceIndex.load(file)
    assert (tmp_path / "text").read_bytes() == b""


def test_files_that_do_not_wait(index):
    for ask in (lambda: index.save(Busy()), lambda: HalfspaceIndex.load(Busy())):
        with pytest.raises(BlockingIOError):
            ask()


def test_a_write_that_fails_is_an_error(index):
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() > 5000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space"):
        index.save(Full())


def test_arrays_that_change_meanwhile_are_an_error(monkeypatch):
    changing = np.arange(5)

    def host(array):
        array += 1
        return array

    monkeypatch.setattr(storage, "host", host)
    with pytest.raises(ValueError, match="changed while"):
        storage.write(io.BytesIO(), {}, {"a": changing})
