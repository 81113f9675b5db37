"""While another process compiles a search kernel, a scan answers: the same hits, and nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from halfspace import HalfspaceIndex
from halfspace.cpu.runtime import helper

BEGIN = """
import os, signal, subprocess, sys, threading, time
import numpy as np
from halfspace import HalfspaceIndex, warmup
from halfspace.cpu import meanwhile
from halfspace.cpu.pipeline import search_kernel
from halfspace.cpu.filters import code_of
from halfspace.cpu.runtime import helper

rng = np.random.default_rng(0)
vectors = rng.integers(-9, 10, (700, 16))
directions = rng.integers(-9, 10, (3, 16))
products = directions @ vectors.T
index = HalfspaceIndex(16, filter=FILTER)
index.insert(vectors.astype(np.float32))

def check(direction=0):
    hits = index.query(directions[direction].astype(np.float32), 100.0)
    expected = np.flatnonzero(products[direction] >= 100)
    assert hits.ids.tolist() == expected.tolist() and expected.size > 5
    assert hits.scores.tolist() == products[direction][expected].tolist()

def loaded():
    return bool(search_kernel(code_of(FILTER)).overloads)

def helpers():
    return helper._helpers
"""
BLOCKED = """
import os, sys, time
if "halfspace.cpu.ahead" in " ".join(sys.orig_argv):
    until = time.monotonic() + 100
    while not os.path.exists({go!r}) and time.monotonic() < until:
        time.sleep(0.01)
"""
"""A module that every interpreter imports first: one that compiles waits until a file is there."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A cache that has all but the search kernel of balls."""
    cache = tmp_path_factory.mktemp("kernels")
    done = run(BEGIN + "check(); index.query(directions[:2], 100.0)", cache, filter="scan")
    assert done.returncode == 0, done.stderr
    assert run(BEGIN + "check()", cache, HALFSPACE_COMPILE="wait").returncode == 0
    for path in cache.rglob("pipeline.search_balls.*"):
        path.unlink()
    assert kernels(cache) == ["search_scan"]
    return cache


@pytest.fixture
def cache(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "kernels")


@pytest.fixture
def blocked(tmp_path):
    """Interpreters that compile wait for a file; the environment that has them do so, and the file."""
    go = tmp_path / "go"
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(go=str(go)))
    yield {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}, go
    go.touch()


def start(code, cache, filter="balls", **environment):
    environment = {"HALFSPACE_COMPILE": "background", "NUMBA_CACHE_DIR": str(cache)} | environment
    command = [sys.executable, "-c", f"FILTER = {filter!r}\n{code}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env=os.environ | environment, **pipes)


def run(code, cache, filter="balls", **environment):
    with start(code, cache, filter, **environment) as process:
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    return subprocess.CompletedProcess(code, process.returncode, out, err)


def succeed(code, cache, **environment):
    done = run(BEGIN + code, cache, **environment)
    assert done.returncode == 0, done.stderr
    assert not list(cache.rglob("*.tmp"))
    return done.stdout


def kernels(cache):
    return sorted({path.name.split(".")[1] for path in cache.rglob("pipeline.search_*.nbc")})


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def is_gone(process):
    for _ in range(500):
        if not is_alive(process):
            return True
        time.sleep(0.02)
    return False


def test_a_scan_answers_until_the_kernel_is_there(cache, blocked):
    """Several threads ask at once, for one process; what it has compiled, this one loads."""
    environment, go = blocked
    code = f"""
askers = [threading.Thread(target=check, args=(k,)) for k in range(3)]
for asker in askers: asker.start()
for asker in askers: asker.join()
(own,) = helpers()
batch = index.query(directions.astype(np.float32), 100.0)
assert batch.totals.tolist() == (products >= 100).sum(axis=1).tolist()
assert not loaded() and not own.ended.is_set()
open({str(go)!r}, "w").close()
assert own.ended.wait(120)
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    check()
assert loaded() and len(helpers()) == 1
print([name for _, one in recorder.buffer if (name := one.data["dispatcher"].py_func.__name__).startswith("search")])
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("no child is left")
"""
    assert succeed(code, cache, **environment) == "[]\nno child is left\n"
    assert kernels(cache) == ["search_balls", "search_scan"]


def test_a_short_program_gets_its_kernel_and_says_so(cache):
    code = "import logging; logging.basicConfig(level=logging.INFO)\n" + BEGIN + "check(); print(loaded())"
    done = run(code, cache)
    assert (done.returncode, done.stdout) == (0, "False\n")
    assert kernels(cache) == ["search_balls", "search_scan"]
    own = "another process compiles the kernels of balls (once; kept on disk); until then a scan answers"
    assert done.stderr.splitlines().count(f"INFO:halfspace:{own}") == 1
    assert succeed("check(); print(loaded(), len(helpers()))", cache) == "True 0\n"


def test_what_is_asked_to_be_compiled_or_explained_waits(cache, blocked):
    environment, go = blocked
    code = f"""
check()
(own,) = helpers()
threading.Timer(0.3, lambda: open({str(go)!r}, "w").close()).start()
assert not own.ended.is_set()
stages = [stage.name for stage in index.explain(directions[0], 100.0).stages if stage.tested]
print(own.ended.is_set(), loaded(), "balls" in stages)
"""
    assert succeed(code, cache, **environment) == "True True True\n"


@pytest.mark.parametrize(
    ("code", "environment"),
    [
        ("", {"HALFSPACE_COMPILE": "wait"}),
        ("sys.executable = '/nowhere/python'", {}),
        ("meanwhile.SCANNED = 1000", {}),
        ("index.explain(directions[0], 100.0)", {}),
    ],
)
def test_where_it_may_not_or_cannot_be_the_call_compiles(code, environment, cache):
    assert succeed(f"{code}\ncheck(); print(loaded(), len(helpers()))", cache, **environment) == "True 0\n"


def test_which_programs_have_an_interpreter(monkeypatch):
    for interpreter in ("/usr/bin/python3", "C:/venv/Scripts/Python.exe"):
        monkeypatch.setattr(sys, "executable", interpreter)
        assert helper.available()
    for interpreter in ("/usr/bin/env", "", None):
        monkeypatch.setattr(sys, "executable", interpreter)
        assert not helper.available()
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not helper.available()


def test_a_filter_of_the_users_own_is_compiled_here(cache):
    code = """
own = code_of("balls")._replace(name="mine", sources=(*code_of("balls").sources, "/nowhere/mine.py"))
assert meanwhile._is_own(code_of("balls")) and not meanwhile._is_own(code_of("balls")._replace(name="m", sources=()))
"""
    assert succeed(code, cache) == ""


def test_a_failure_of_the_other_process_costs_the_wait_alone(cache, tmp_path):
    """It is given a package that cannot be imported."""
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
os.makedirs({str(tmp_path / "halfspace")!r})
open({str(tmp_path / "halfspace" / "__init__.py")!r}, "w").write("raise SystemExit(3)")
check()
(own,) = helpers()
assert own.ended.wait(60)
check(1)
print(loaded(), len(helpers()))
"""
    assert succeed(code, cache) == "True 1\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_the_child_of_a_fork_compiles_for_itself(cache, blocked):
    environment, go = blocked
    code = f"""
check()
child = os.fork()
if not child:
    check(1)
    os._exit(0 if loaded() and not helpers() else 1)
assert os.waitpid(child, 0)[1] == 0
(own,) = helpers()
assert not own.ended.is_set() and not loaded()
open({str(go)!r}, "w").close()
print(own.ended.wait(60), own._process.returncode)
"""
    assert succeed(code, cache, **environment) == "True 0\n"


@pytest.mark.parametrize("how", ["an exception", "a kill", "an interrupt"])
def test_it_ends_with_the_program(how, cache):
    code = "check(); print(helpers()[0]._process.pid, flush=True)\n"
    code += "1 / 0" if how == "an exception" else "time.sleep(60)"
    with start(BEGIN + code, cache) as process:
        other = int(process.stdout.readline())
        if how == "a kill":
            process.kill()
        elif how == "an interrupt":  # of the terminal: all in the foreground hear it
            os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert is_gone(other)
    assert not list(cache.rglob("*.tmp"))
    last = {"an exception": "ZeroDivisionError", "a kill": "", "an interrupt": "KeyboardInterrupt"}[how]
    assert last in err
    assert err.count("Traceback") == (how != "a kill")


def test_an_interrupt_of_the_terminal_does_not_reach_it(cache, blocked):
    environment, go = blocked
    code = f"""
check()
try:
    os.killpg(0, signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    pass
check(1)
open({str(go)!r}, "w").close()
(own,) = helpers()
print(own.ended.wait(60), own._process.returncode)
"""
    assert succeed(code, cache, **environment) == "True 0\n"


def test_modules_in_the_working_directory_are_not_imported(cache, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "FILTER = 'balls'\n" + BEGIN + "check()\n(own,) = helpers(); own.ended.wait(60)\nprint(own._process.returncode)"
    )
    environment = os.environ | {"HALFSPACE_COMPILE": "background", "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "0\n", done.stderr


def test_the_environment_has_two_values(monkeypatch):
    monkeypatch.setenv("HALFSPACE_COMPILE", "never")
    monkeypatch.setattr("halfspace.cpu.meanwhile._there", set())
    monkeypatch.setattr("halfspace.cpu.meanwhile.is_there", lambda kernel: False)
    index = HalfspaceIndex(16, filter="balls")
    index.insert(np.ones((700, 16), np.float32))
    with pytest.raises(ValueError, match="HALFSPACE_COMPILE must be 'wait' or 'background', got 'never'"):
        index.query(np.ones(16, np.float32), 1.0)
