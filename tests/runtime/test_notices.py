"""Compilation that takes long is told of, once, and nothing that stderr or the user's logging is can get in the way."""

import re
import threading
import time

import pytest
from helpers.terminal import left, on_a_terminal

from halfspace.runtime import notices
from halfspace.runtime.notices import compiling, shown_by, watched

SLOW = """
import logging, os, signal, sys, time
from halfspace.runtime import notices

notices.LONG = 0.2

def slowly(what, seconds):
    with notices.compiling(what, " (once; kept on disk)"):
        time.sleep(seconds)

def wait(what="kernels for float32", seconds=0.6):
    notices.watched(slowly, what, seconds, meanwhile=lambda: None)

class Odd:
    def flush(self):
        pass
"""

LIBRARY = """
import logging, sys
logging.basicConfig(level=logging.INFO, filename=sys.argv[1])
from halfspace.runtime import notices
notices.LONG = 0.2
import numpy as np
from halfspace import HalfspaceIndex
vectors = np.ones((300, 4), np.float32)
index = HalfspaceIndex(4, dtype="float16", filter="scan")
index.insert(vectors)
print(index.query(vectors[0], 1.0, sort=True).ids.size, index.count(vectors[:2], 1.0).sum())
"""


def test_a_fresh_cache_is_told_of_once_and_a_full_one_never(tmp_path):
    fresh, later = (
        (on_a_terminal(LIBRARY, log, NUMBA_CACHE_DIR=str(tmp_path / "kernels")), log.read_text())
        for log in (tmp_path / "first.log", tmp_path / "second.log")
    )
    (printed, got), log = fresh
    assert printed == "300 600\n"
    (line,) = left(got)
    assert re.fullmatch(r"halfspace: compiling kernels for float16 \(once; kept on disk\) \.\.\. \d+ s", line)
    assert log == "INFO:halfspace:compiling kernels for float16 (once; kept on disk)\n"
    assert later == (("300 600\n", ""), "")


def test_the_line_is_there_while_the_work_goes_on():
    code = SLOW + "wait(seconds=2.6)"
    printed, got = on_a_terminal(code)
    assert printed == ""
    assert left(got) == ["halfspace: compiling kernels for float32 (once; kept on disk) ... 3 s"]
    assert re.findall(r"\d+ s", got) == ["0 s", "1 s", "2 s", "3 s"]


def test_what_is_told_of_again_leaves_no_line():
    """The first that lasts long stays; pieces before it and after it are shown while they last."""
    waits = "wait(seconds=0.15); wait(seconds=0.15); wait(); wait(); wait('kernels for float16')"
    _, got = on_a_terminal(SLOW + waits)
    assert [line.rpartition(" (")[0] for line in left(got)] == [
        "halfspace: compiling kernels for float32",
        "halfspace: compiling kernels for float16",
    ]
    assert got.count("halfspace: ") > 2


def test_what_is_written_before_a_line_stays():
    _, got = on_a_terminal(SLOW + "wait(); os.write(2, b'so far '); wait()")
    assert left(got)[1:] == ["so far"]


@pytest.mark.parametrize(
    "no",
    [
        "logging.getLogger('halfspace').setLevel(logging.WARNING)",
        "logging.getLogger('halfspace').disabled = True",
        "logging.disable(logging.INFO)",
        "logging.getLogger().setLevel(logging.ERROR)",
        "notices.LONG = 60",
    ],
)
def test_nothing_is_shown_where_logging_says_no_or_work_is_short(no):
    assert on_a_terminal(SLOW + no + "\nwait()\nprint(5)") == ("5\n", "")


@pytest.mark.parametrize(
    "stderr",
    [
        "sys.stderr = None",
        "sys.stderr.close()",
        "sys.stderr = sys.__stderr__ = None",
        "os.close(2)",
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 2)",
        "sys.stderr = Odd()",
        "sys.stderr = sys.__stderr__ = Odd()",
        "import io; sys.stderr = io.StringIO()",
        "os.write = lambda *_: 1 / 0",
    ],
)
def test_whatever_stderr_is_the_work_is_done(stderr):
    assert on_a_terminal(SLOW + stderr + "\nwait()\nprint(5)") == ("5\n", "")


def test_handlers_of_the_log_that_fail_fail_alone():
    broken = "class Broken(logging.Handler):\n    def emit(self, record): 1 / 0\n"
    code = SLOW + broken + "logging.basicConfig(level=logging.INFO, handlers=[Broken()])\nwait()\nprint(5)"
    printed, got = on_a_terminal(code)
    assert printed == "5\n"
    assert len(left(got)) == 1


def test_a_child_leaves_the_terminal_to_its_parent():
    code = SLOW + (
        "child = os.fork()\n"
        "if child == 0:\n    wait()\n    print('child', flush=True)\n    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert on_a_terminal(code) == ("child\n", "")


def test_a_fork_may_fall_into_the_work():
    code = SLOW + (
        "import threading\n"
        "thread = threading.Thread(target=wait); thread.start(); time.sleep(0.4)\n"
        "child = os.fork()\n"
        "if child == 0:\n    wait('kernels for float16')\n    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "thread.join(); wait('kernels for bfloat16'); print(5)\n"
    )
    printed, got = on_a_terminal(code)
    assert printed == "5\n"
    assert [line.split()[4] for line in left(got)] == ["float32", "bfloat16"]


def test_an_interrupt_ends_the_line_at_once():
    """What goes on after it is not shown: the terminal is somebody else's by then."""
    code = SLOW + (
        "class Alarm(Exception): pass\n"
        "def handle(*_): raise Alarm\n"
        "signal.signal(signal.SIGALRM, handle); signal.setitimer(signal.ITIMER_REAL, 0.7)\n"
        "try:\n    wait(seconds=3)\nexcept Alarm:\n    os.write(2, b'interrupted'); time.sleep(1.5); print(5)\n"
    )
    printed, got = on_a_terminal(code)
    assert printed == "5\n"
    assert got.endswith("interrupted")
    assert [line.partition(" (")[0] for line in left(got)] == [
        "halfspace: compiling kernels for float32",
        "interrupted",
    ]


def test_at_the_end_of_the_interpreter_it_is_silent():
    code = SLOW + "import atexit\natexit.register(lambda: (wait(seconds=0.1), print(5)))\n"
    assert on_a_terminal(code) == ("5\n", "")
    code = SLOW + "class Last:\n    def __del__(self, wait=wait, print=print):\n        wait()\n        print(5)\n"
    printed, _ = on_a_terminal(code + "last = Last(); last.itself = last")
    assert printed == "5\n"


@pytest.fixture
def quick(monkeypatch):
    """All is long, and nothing has been told of yet."""
    monkeypatch.setattr(notices, "LONG", 0.0)
    for name in ("_told", "_stayed"):
        monkeypatch.setattr(notices, name, set())
    monkeypatch.setattr(notices, "_spent", {})


def slowly(what, seconds=0.3):
    with compiling(what):
        time.sleep(seconds)


def nothing():
    pass


@pytest.mark.usefixtures("quick")
def test_another_display_shows_it_instead():
    shown = []
    with shown_by(shown.append):
        watched(slowly, "one", meanwhile=nothing)
        watched(slowly, "other", meanwhile=nothing)
    watched(slowly, "one", meanwhile=nothing)
    assert shown == ["compiling one", "", "compiling other", ""]


@pytest.mark.usefixtures("quick")
def test_one_of_several_that_wait_shows_it():
    shown = []
    with shown_by(shown.append):
        threads = [threading.Thread(target=watched, args=(slowly, "one"), kwargs={"meanwhile": nothing}) for _ in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shown[::2] == ["compiling one"] * (len(shown) // 2)
    assert shown[1::2] == [""] * (len(shown) // 2)


@pytest.mark.usefixtures("quick")
def test_what_is_compiled_in_the_midst_of_another_belongs_to_it():
    def outer():
        with compiling("outer"):
            slowly("inner")

    shown = []
    with shown_by(shown.append):
        watched(outer, meanwhile=nothing)
    assert shown == ["compiling outer", ""]
    assert set(notices._spent) == {"outer"}


@pytest.mark.usefixtures("quick")
def test_what_the_work_raises_comes_out():
    def failing():
        with compiling("one"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watched(failing, meanwhile=nothing)
    assert notices._now is None


@pytest.mark.usefixtures("quick")
def test_a_display_that_fails_is_in_nobodys_way():
    def broken(what):
        raise ZeroDivisionError

    with shown_by(broken):
        assert watched(slowly, "one", meanwhile=nothing) is None
