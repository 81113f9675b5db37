"""Files in progress: living writers keep theirs, dead ones leave nothing for long, and nothing else is touched."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from halfspace.files import atomic
from halfspace.files.atomic import regular_mode, replacing

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX semantics")
OTHER = ".halfspace-ffffffff-0123456789abcdef.tmp"  # of another kernel

WRITER = """
import sys, time
from halfspace.files.atomic import replacing

with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""
FORKING_WRITER = """
import os, sys, time
from halfspace.files.atomic import replacing

with replacing(sys.argv[1]) as file:
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    print("writing", flush=True)
    time.sleep(1000)
"""


def start(script, path):
    """Start a writer in a process of its own, and wait until it writes."""
    environment = os.environ | {"PYTHONPATH": str(Path(atomic.__file__).parents[2])}
    command = [sys.executable, "-c", script, str(path)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    return process


def finish(process):
    process.communicate()
    return process.returncode


def write(path, content=b"new"):
    with replacing(path) as file:
        file.write(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def age(path, seconds):
    then = path.lstat().st_mtime - seconds
    os.utime(path, (then, then), follow_symlinks=False)


@POSIX
def test_what_a_killed_writer_left_is_removed(tmp_path):
    for _ in range(3):
        process = start(WRITER, tmp_path / "file")
        process.send_signal(signal.SIGKILL)
        assert finish(process) == -signal.SIGKILL
        (left,) = tmp_path.glob(".halfspace-*.tmp")  # at most that of the last
        assert left.read_bytes() == b"half"
    write(tmp_path / "other")
    assert names(tmp_path) == ["other"]


@POSIX
def test_living_writers_keep_theirs(tmp_path):
    process = start(WRITER, tmp_path / "process")
    going, done = threading.Event(), threading.Event()

    def hold():
        with replacing(tmp_path / "thread") as file:
            file.write(b"thread")
            going.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    going.wait()
    for path in tmp_path.glob(".halfspace-*.tmp"):
        age(path, 10**6)
    for _ in range(3):
        write(tmp_path / "other")
    assert len(names(tmp_path)) == 3
    done.set()
    thread.join()
    assert finish(process) == 0
    assert names(tmp_path) == ["other", "process", "thread"]
    assert (tmp_path / "process").read_bytes() == b"half"


@POSIX
def test_a_forked_child_that_shares_the_file_keeps_it(tmp_path):
    process = start(FORKING_WRITER, tmp_path / "file")
    process.send_signal(signal.SIGKILL)
    process.wait()
    write(tmp_path / "other")
    assert len(names(tmp_path)) == 2
    finish(process)  # and the child, which has the pipes open
    write(tmp_path / "other")
    assert names(tmp_path) == ["other"]


@POSIX
def test_files_of_another_kernel_are_left_for_an_hour(tmp_path):
    """Their writer's lock may be invisible here."""
    left = tmp_path / OTHER
    left.write_bytes(b"half")
    for seconds, stays in ((0, True), (3000, True), (1000, False)):  # each in addition
        age(left, seconds)
        write(tmp_path / "file")
        assert left.exists() == stays


@POSIX
def test_kernels_without_a_name_are_other_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_kernel", lambda: "00000000")
    left = tmp_path / OTHER.replace("ffffffff", "00000000")
    left.write_bytes(b"half")
    write(tmp_path / "file")
    assert left.exists()
    age(left, 4000)
    write(tmp_path / "file")
    assert names(tmp_path) == ["file"]


@POSIX
def test_nothing_else_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_kernel", lambda: "ffffffff")
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    others = [
        ".halfspace-0123456789abcdef.tmp",
        OTHER + "x",
        "x" + OTHER,
        OTHER.upper(),
        OTHER.replace("-0", "-"),
        OTHER.replace(".tmp", ".npz"),
        "halfspace.tmp",
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"other")
    (tmp_path / OTHER.replace("-0", "-1")).symlink_to("precious")
    (tmp_path / OTHER.replace("-0", "-2")).mkdir()
    os.mkfifo(tmp_path / OTHER.replace("-0", "-3"))
    before = names(tmp_path)
    for name in before:
        age(tmp_path / name, 10**6)
    write(tmp_path / "file")
    assert names(tmp_path) == sorted([*before, "file"])
    (tmp_path / OTHER).write_bytes(b"half")
    write(tmp_path / "file")
    assert names(tmp_path) == sorted([*before, "file"])


@POSIX
def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic.fcntl, "flock", unsupported)
    left = tmp_path / f".halfspace-{atomic._kernel()}-0123456789abcdef.tmp"
    left.write_bytes(b"half")
    age(left, 10**6)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert left.exists()


def test_without_the_module_of_locks(tmp_path, monkeypatch):
    """As on Windows: an hour must have passed, and the system refuses to remove what is open."""
    monkeypatch.setattr(atomic, "fcntl", None)
    left = tmp_path / OTHER
    left.write_bytes(b"half")
    write(tmp_path / "file")
    assert left.exists()
    age(left, 4000)
    write(tmp_path / "file", b"newer")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"newer"


@POSIX
def test_a_file_taken_for_abandoned_before_its_lock_is_made_anew(tmp_path, monkeypatch):
    lock, taken = atomic.locked, []

    def late(descriptor):
        if not taken:
            (path,) = tmp_path.glob(".halfspace-*.tmp")
            taken.append(path)
            path.unlink()  # by another writer, which held the lock for a moment
        return lock(descriptor)

    monkeypatch.setattr(atomic, "locked", late)
    write(tmp_path / "file")
    assert taken
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


@POSIX
def test_a_folder_that_cannot_be_listed_is_no_hindrance(tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic.os, "listdir", refused)
    write(tmp_path / "file")
    monkeypatch.undo()
    assert names(tmp_path) == ["file"]


@POSIX
def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull)):
        with pytest.raises(OSError, match="Not a regular file"):
            regular_mode(path)
        with pytest.raises(OSError, match="Not a regular file"):
            write(path)
    assert names(tmp_path) == ["pipe"]
