"""What is compiled: only what a question needs, once for all stored formats, and nothing of NumPy's that takes long."""

import json
import os
import subprocess
import sys

import pytest

ASKED = """
import json, sys
import numpy as np
from numba.core import event
from halfspace import HalfspaceIndex

rng = np.random.default_rng(0)
vectors = rng.standard_normal((2000, 64), dtype=np.float32)

def ask(dtype, vectors, directions):
    with event.install_recorder("numba:compile") as recorder:
        index = HalfspaceIndex(64, dtype=dtype)
        index.insert(vectors)
        index.query(directions[0], 5.0)
        index.query(directions[:40], 5.0)
        index.count(directions[0], 5.0)
        index.query(directions[0], 5.0, sort=True)
    functions = [one.data["dispatcher"].py_func for _, one in recorder.buffer if one.is_start]
    return [f"{function.__module__}.{function.__qualname__}" for function in functions]

def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array

strided = np.repeat(vectors, 2, axis=1)[:, ::2]
found = {}
for dtype in sys.argv[1:]:
    found[dtype] = ask(dtype, vectors, vectors)
    found[dtype + " again"] = [*ask(dtype, frozen(vectors), frozen(vectors)), *ask(dtype, strided, strided)]
print(json.dumps(found))
"""


def compiled(cache, *dtypes):
    """The names of what a new process compiles, one after another, for an index of each stored format."""
    command = [sys.executable, "-c", ASKED, *dtypes]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    cache = tmp_path_factory.mktemp("kernels")
    return compiled(cache, "float32"), compiled(cache, "float16", "bfloat16", "float32")


def test_few_functions_are_compiled(found):
    first, later = found
    assert 50 < len(first["float32"]) < 210
    assert 10 < len(later["float16"]) < 75
    assert later["float32"] == []


def test_search_kernels_serve_every_format(found):
    first, later = found
    assert "halfspace.cpu.pipeline.search_cells" in first["float32"]
    for dtype, names in later.items():
        own = [name for name in names if name.startswith(("halfspace.cpu.pipeline", "halfspace.cpu.filters.cascade"))]
        assert own == [], dtype


def test_arrays_that_are_read_only_or_strided_compile_nothing_more(found):
    for process in found:
        for dtype, names in process.items():
            assert not dtype.endswith("again") or names == [], dtype


def test_nothing_of_numpy_that_takes_long_is_compiled(found):
    """Each of these is a hundred times the code that a kernel needs."""
    names = " ".join(name for process in found for names in process.values() for name in names)
    for costly in ("sort", "unicode", "shape_context", "numpy_take", "arraymath", "ol_np_empty", "ol_np_full"):
        theirs = [name for name in names.split() if costly in name and not name.startswith("halfspace.")]
        assert theirs == [], costly
