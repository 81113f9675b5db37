"""The stand-in of CuPy has the names that the library and its tests use of the module, and no others."""

import ast
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
ITS_OWN = {Path(__file__), ROOT / "tests/gpu/test_emulator.py"}
"""Tests of the emulator, which keep none of its names alive."""
CALLED = {"cp", "cupy", "xp"}
"""What the module is called; an attribute `xp` is it, too."""
BY_NAME = {"getattr", "hasattr", "setattr"}


def sources():
    """Every file that may use CuPy, or an array module that may be CuPy."""
    for folder in ("halfspace", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if path not in ITS_OWN and not path.is_relative_to(ROOT / "tests/emulator"):
                yield path


def chain(node):
    """The names after the module: `cuda.Device` of `cp.cuda.Device` and of `gpu.xp.cuda.Device`; else None."""
    names = []
    while isinstance(node, ast.Attribute) and node.attr != "xp":
        names.insert(0, node.attr)
        node = node.value
    of_cupy = isinstance(node, ast.Attribute) or (isinstance(node, ast.Name) and node.id in CALLED)
    return ".".join(names) if names and of_cupy else None


def used_in(text):
    """The dotted names of CuPy that a source uses, also as `setattr(cp.cuda.runtime, "getDevice", ...)`."""
    for node in ast.walk(ast.parse(text)):
        if (name := chain(node)) is not None:
            yield name
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in BY_NAME:
            owner, name = node.args[:2]
            if chain(owner) is not None:
                yield f"{chain(owner)}.{ast.literal_eval(name)}"


def used():
    """All dotted names that are used, and a file that uses each."""
    return {name: str(path.relative_to(ROOT)) for path in sources() for name in used_in(path.read_text("utf-8"))}


def has(part, dotted):
    for name in dotted.split("."):
        if not hasattr(part, name):
            return False
        part = getattr(part, name)
    return True


def offered(part, prefix=""):
    """The public names of a module of the emulator, and those within; not the modules of others that it imports."""
    for name, value in vars(part).items():
        if name.startswith("_") or (isinstance(value, ModuleType) and not value.__name__.startswith("cupy.")):
            continue
        yield prefix + name
        if isinstance(value, ModuleType | SimpleNamespace) and name != "emulator":  # whose settings are for tests
            yield from offered(value, f"{prefix}{name}.")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cp.cuda.runtime.getDevice()", {"cuda", "cuda.runtime", "cuda.runtime.getDevice"}),
        ("gpu.xp.cuda.Device(0).use()", {"cuda", "cuda.Device"}),
        ("self._backend.xp.empty(3).fill(np.float32(1))", {"empty"}),
        ("cupy.asarray(copy.x)", {"asarray"}),
        ('patch.setattr(cp.cuda, "alloc", None)', {"cuda", "cuda.alloc"}),
    ],
)
def test_names_are_read_off_a_source(text, names):
    assert set(used_in(text)) == names


def test_it_has_all_that_is_used(cp):
    names = used()
    assert len(names) > 40
    assert {name: path for name, path in names.items() if not has(cp, name)} == {}


def test_it_has_nothing_that_is_not_used(cp):
    names = list(offered(cp))
    assert {"asarray", "cuda.Device", "cuda.runtime.getDevice"} <= set(names)
    assert sorted(set(names) - used().keys()) == []
