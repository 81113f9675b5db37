"""Kernels on disk: never those of other sources, and whatever is wrong with a file, an answer comes."""

import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import halfspace
from halfspace.cpu.runtime import jit as _jit
from halfspace.cpu.runtime import kernel_cache as _kernel_cache

SOURCE = """
import numpy as np
from halfspace.cpu.runtime.jit import compiled

@compiled
def answer(values):
    for i in range(values.size):
        values[i] += 40
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A module with one kernel, which is kept beside it."""
    monkeypatch.setattr(_kernel_cache, "_warned", type(_kernel_cache._warned)())
    monkeypatch.setattr("numba.core.config.CACHE_DIR", "")
    (tmp_path / "module.py").write_text(SOURCE)
    return tmp_path


def answer(folder, dtype=np.int64):
    """Load the module anew and ask its kernel, as a later process would; whether it was compiled, and its answer."""
    space = {"__name__": "module"}
    path = folder / "module.py"
    exec(compile(path.read_text(), path, "exec"), space)
    kernel = space["answer"]
    values = np.array([2], dtype)
    kernel(values)
    return sum(kernel.stats.cache_misses.values()), values[0]


def files(folder):
    return sorted((folder / "__pycache__").glob("*.nb[ic]"))


def test_a_kernel_is_compiled_once(folder):
    assert answer(folder) == (1, 42)
    assert answer(folder) == (0, 42)
    assert answer(folder, np.float32) == (1, 42.0)
    assert answer(folder, np.float32) == answer(folder) == (0, 42)
    assert len(files(folder)) == 2


def test_kernels_of_other_sources_are_not_read_but_removed(folder, monkeypatch):
    assert answer(folder) == (1, 42)
    (old,) = files(folder)
    monkeypatch.setattr(_kernel_cache, "_stamp", lambda *sources: "another stamp")
    assert answer(folder) == (1, 42)
    (new,) = files(folder)
    assert new != old
    # Even under the name that it would have, the code of another function is not run.
    foreign = pickle.loads(new.read_bytes()[len(_kernel_cache._SIGNATURE) + _kernel_cache._SUM_NBYTES :])
    space = _kernel_cache._File(str(folder), "other", "another stamp")
    space.save(("some", "key"), foreign[1])
    shutil.copy(space._path(("some", "key")), new)
    assert answer(folder) == (1, 42)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "numba's own"])
def test_damaged_files_are_written_anew(folder, damage):
    assert answer(folder) == (1, 42)
    (file,) = files(folder)
    whole = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "flipped": whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
            "foreign": b"something else",
            "numba's own": pickle.dumps("0.1"),
        }[damage]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer(folder) == (1, 42)
        assert answer(folder) == (0, 42)
    assert files(folder) == [file]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(122, "Disk quota exceeded")])
def test_a_disk_that_is_full_costs_one_warning(folder, error, monkeypatch):
    def full(path, content):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
            assert answer(folder) == (1, 42)
        assert answer(folder, np.float32) == (1, 42)  # a second warning would be an error
        assert files(folder) == []
    assert answer(folder) == (1, 42)
    assert answer(folder) == (0, 42)


@pytest.mark.parametrize("obstacle", ["a folder", "unreadable"])
def test_a_file_that_cannot_be_read_costs_one_warning(folder, obstacle, monkeypatch):
    assert answer(folder) == (1, 42)
    (file,) = files(folder)
    if obstacle == "a folder":
        file.unlink()
        file.mkdir()
    else:

        def refused(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert answer(folder) == (1, 42)
    assert answer(folder) == (1, 42)  # a second warning would be an error


def test_kernels_compile_where_no_folder_can_be_written(folder, monkeypatch):
    def nowhere(*_):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("numba.core.caching.CompileResultCacheImpl.__init__", nowhere)
    with pytest.warns(RuntimeWarning, match="no folder can be written"):
        assert _jit.compiled(lambda x: x + 1)(2) == 3


def test_the_stamp_covers_every_source_and_every_version(monkeypatch):
    stamps = {_kernel_cache._stamp.__wrapped__()}
    read = Path.read_bytes
    package = Path(halfspace.__file__).parent
    floors = "model", "runtime", "cpu"  # all that is compiled for a CPU, and what it takes constants from
    sources = [path for floor in floors for path in package.joinpath(floor).rglob("*.py")]
    assert len(sources) > 60
    for source in sources:
        with monkeypatch.context() as patch:
            changed = lambda path, source=source: read(path) + b"#" * (path == source)  # noqa: E731
            patch.setattr(Path, "read_bytes", changed)
            stamps.add(_kernel_cache._stamp.__wrapped__())
    for name in ("numba", "llvmlite"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{name}.__version__", "99")
            stamps.add(_kernel_cache._stamp.__wrapped__())
    assert len(stamps) == 1 + len(sources) + 2


def test_the_stamp_covers_a_source_of_somebody_else(tmp_path):
    """A filter that a file outside of the package adds: its code is compiled anew when that file changes."""
    source = tmp_path / "own.py"
    stamps = {_kernel_cache._stamp()}
    for text in ("a = 1", "a = 2"):
        source.write_text(text)
        stamps.add(_kernel_cache._stamp.__wrapped__(str(source)))
    assert len(stamps) == 3


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_run(folder):
    """Writers that are killed at any moment, many times: whoever comes next gets the right answer."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    environment.pop("NUMBA_CACHE_DIR", None)
    for allowed in (0, 1, 2):
        script = (
            "import os, sys; from pathlib import Path; left = [int(sys.argv[1])]\n"
            "def step(f):\n"
            "    def counted(*a, **k):\n"
            "        if left[0] == 0: os._exit(9)\n"
            "        left[0] -= 1\n"
            "        return f(*a, **k)\n"
            "    return counted\n"
            "Path.write_bytes = step(Path.write_bytes); os.replace = step(os.replace)\n"
            "import numpy as np, module; v = np.array([2]); module.answer(v); print(v[0])\n"
        )
        command = [sys.executable, "-c", script, str(allowed)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stdout) == ((9, "") if allowed < 2 else (0, "42\n")), done.stderr
        assert len(files(folder)) == (allowed == 2)
    (left,) = (folder / "__pycache__").glob("*.tmp")
    os.utime(left, (1e9, 1e9))
    assert answer(folder, np.float32) == (1, 42)
    assert not left.exists()
