"""What runs on the host is annotated, so that mypy checks it; compiled functions get their types from their callers."""

import ast
from pathlib import Path

from halfspace import cpu

SOURCES = sorted(Path(cpu.__file__).parent.rglob("*.py"))
COMPILERS = {"always_inlined", "by_type", "compiled", "inlined", "intrinsic"}


def called(node):
    """Name what is called, or a decorator with or without arguments."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.id if isinstance(node, ast.Name) else ""


def functions(node, templates, inside=False):
    """Functions and whether they are compiled: decorated so, inside of one, or the template of a kernel."""
    for inner in ast.iter_child_nodes(node):
        own = inside
        if isinstance(inner, ast.FunctionDef):
            own = inside or inner.name in templates or bool({*map(called, inner.decorator_list)} & COMPILERS)
            yield inner, own
        yield from functions(inner, templates, own)


def test_host_code_is_annotated():
    found = 0
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "specialised"]
        for function, is_compiled in functions(tree, {ast.unparse(call.args[0]) for call in calls}):
            if is_compiled:
                continue
            taken = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            bare = [part.arg for part in taken if part.annotation is None and part.arg not in ("self", "cls")]
            assert not bare, (path.name, function.name)
            assert function.returns is not None, (path.name, function.name)
            found += 1
    assert found > 100


def test_compiled_functions_are_not():
    """Nobody would check their annotations."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and {*map(called, node.decorator_list)} & {"compiled", "inlined"}:
                assert not any(part.annotation for part in node.args.args), (path.name, node.name)
