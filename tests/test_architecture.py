"""The house stays in order: floors, no circles, constants defined once, files and functions of a size to read."""

import ast
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import grimp
import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]
CODE = [ROOT / name for name in ("halfspace", "tests", "asv_benchmarks")]
SOURCES = sorted(chain.from_iterable(folder.rglob("*.py") for folder in CODE))
KERNELS = sorted((ROOT / "halfspace/gpu/kernels").rglob("*.cu*"))
LINES, PARAMETERS = 400, 8

OPTIONS_OF_USERS = {
    "halfspace/attention/kv.py": {"KVIndex.__init__"},
    "halfspace/attention/hf/cache.py": {"HalfspaceCache.__init__"},
    "halfspace/attention/hf/serving.py": {"batching"},
    "halfspace/questions.py": {"Questions.query"},
    "halfspace/spread.py": {"OnDevices.query"},
    "halfspace/cli.py": {"demo", "query", "bench"},
    "halfspace/scale_commands.py": {"build"},
    "halfspace/join_commands.py": {"pairs", "groups", "dedup"},
}
"""Functions whose parameters are what users may choose, by keyword or on the command line."""


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("halfspace", cache_dir=None)


def test_each_floor_imports_only_those_below():
    """The contract of the linter, in ``pyproject.toml``."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_devices_know_nothing_of_what_stands_on_them(graph):
    """What the contract comes to, asked in another way: no chain of imports leads from a floor to one above it."""
    above = {"index", "attention", "query", "cli", "bench", "warmup"}
    for floor in ("model", "state", "files", "cpu", "gpu"):
        for module in graph.find_descendants(f"halfspace.{floor}"):
            imported = {name.split(".")[1] for name in graph.find_modules_directly_imported_by(module) if "." in name}
            assert not imported & above, module
    outside = graph.find_modules_directly_imported_by("halfspace.model.layout")
    assert outside == {"halfspace.model.arrays", "halfspace.model.metrics"}


def test_no_modules_import_each_other(graph):
    modules = sorted(graph.modules)
    at = {name: k for k, name in enumerate(modules)}
    pairs = [(at[one], at[other]) for one in modules for other in graph.find_modules_directly_imported_by(one)]
    one, other = np.array(pairs).T
    links = coo_array((np.ones(len(pairs)), (one, other)), shape=(len(modules),) * 2)
    count, owners = connected_components(links, directed=True, connection="strong")
    circles = [[modules[k] for k in np.flatnonzero(owners == part)] for part in range(count)]
    assert [circle for circle in circles if len(circle) > 1] == []


@pytest.mark.parametrize("name", ["CHUNK", "BLOCK", "TILE", "MODERATE", "HIGH_MIDDLE", "LOW_MIDDLE"])
def test_what_devices_share_is_defined_once(name):
    """Once in Python, and at most once in kernels, where a test compares the two."""
    assigned = re.compile(rf"^(?:\w+, )*{name}(?:, \w+)*(?:: [^=]+)? = ", re.MULTILINE)
    own = [path for path in SOURCES if path.is_relative_to(ROOT / "halfspace") and assigned.search(path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in own] == ["halfspace/model/layout.py"]
    defined = re.compile(rf"^\s*(?:#define {name}\b|(?:static )?constexpr \w+ {name} =)", re.MULTILINE)
    assert sum(len(defined.findall(path.read_text())) for path in KERNELS) <= 1


def test_files_are_of_a_size_to_read():
    files = [*SOURCES, *KERNELS, *(ROOT / "tests/emulator").rglob("*.h"), *(ROOT / "tests/emulator").rglob("*.cuh")]
    assert len(files) > 200
    lines = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in files}
    assert {path: count for path, count in lines.items() if count > LINES} == {}


def named(tree, prefix=""):
    """All functions of a module, with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
        own = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        yield from named(node, prefix + own)


def test_functions_take_at_most_eight_parameters():
    long = []
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        for name, node in named(ast.parse(path.read_text())):
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len(taken) - (bool(taken) and taken[0].arg in ("self", "cls"))
            if count > PARAMETERS and name not in OPTIONS_OF_USERS.get(place, ()):
                long.append((place, name, count))
    assert long == []


def test_kernels_take_at_most_eight_parameters():
    function = re.compile(r"\b(\w+)\s*\(([^(){};]*)\)\s*\{")
    long = []
    for path in KERNELS:
        for name, parameters in function.findall(re.sub(r"//.*", "", path.read_text())):
            if name not in ("for", "if", "while", "switch") and parameters.count(",") + 1 > PARAMETERS:
                long.append((path.name, name, parameters.count(",") + 1))
    assert long == []


def test_argument_lists_are_formatted():
    """No list of arguments is so long that the formatter would have to be kept from it."""
    kept = "fmt: " + "skip"
    assert [path.name for path in SOURCES if kept in path.read_text()] == []
