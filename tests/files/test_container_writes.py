"""How a container replaces the file before it, and that no failure leaves half of one."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.container import ARRAYS, METADATA, encode, same

from halfspace.files import container as storage

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX semantics")


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
