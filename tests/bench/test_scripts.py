"""The scripts beside the library: what they import of it is there, and documents name scripts that are there."""

import ast
import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from halfspace.model import filters
from halfspace.model.counters import Stage

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "asv_benchmarks").rglob("*.py"))


def imports(path):
    """The names that a script imports of the library and of other scripts, each with its module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield node.module, alias.name


def has(module, name):
    """Whether a module has a name, or a module of that name; scripts are read and not run."""
    if not module.startswith("asv_benchmarks"):
        return hasattr(importlib.import_module(module), name) or find_spec(f"{module}.{name}") is not None
    place = ROOT / module.replace(".", "/")
    if (place / f"{name}.py").exists():
        return True
    tree = ast.parse((place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text("utf-8"))
    return name in {part for node in tree.body for part in defined(node)}


def defined(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [part.id for target in targets if target for part in ast.walk(target) if isinstance(part, ast.Name)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT / "asv_benchmarks")))
def test_what_a_script_imports_is_there(path, request):
    names = [
        (module, name) for module, name in imports(path) if module.split(".")[0] in ("halfspace", "asv_benchmarks")
    ]
    if any("gpu" in (name, *module.split(".")) for module, name in names if module.startswith("halfspace")):
        request.getfixturevalue("gpu")
    assert [pair for pair in names if not has(*pair)] == []


def test_documents_name_scripts_that_are_there():
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = [path.read_text("utf-8") for path in [*documents, *SCRIPTS]]
    named = {name for text in texts for name in re.findall(r"python -m (asv_benchmarks[\w.]*\w)", text)}
    assert len(named) > 10
    assert {name for name in named if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()} == set()
    files = {name for text in texts for name in re.findall(r"\basv_benchmarks/[\w/.-]+\.(?:py|json)\b", text)}
    assert {name for name in files if not (ROOT / name).exists()} == set()


def test_counted_work_is_of_the_filters_and_stages_that_there_are():
    """asv looks at the names before anything is imported, so they stand there."""
    tree = ast.parse((ROOT / "asv_benchmarks/benchmarks/work.py").read_text("utf-8"))
    named = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("FILTERS", "BOUNDS")
    }
    assert set(named["FILTERS"]) == set(filters.tried(8, "cpu", "ip"))
    looking = {Stage.SCAN, Stage.VERIFY, Stage.EXACT}
    assert set(named["BOUNDS"]) == {stage.name.lower() for stage in set(Stage) - looking}
