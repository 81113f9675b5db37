"""Examples of pages and docstrings run as they stand."""

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from helpers import public

DOCS = Path(__file__).parents[1] / "docs"
PACKAGE = Path(__file__).parents[1] / "halfspace"


def run(page):
    """Run the examples of a page, one after another; returns their names."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 2
    names = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    return names


def test_the_examples_of_other_libraries_run(capsys):
    names = run("interop.md")
    assert len(names["labels"]) == 1000
    assert len(names["matches"]) == 32
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_the_examples_of_joins_run(capsys):
    names = run("joins.md")
    assert len(names["pairs"]) > 100
    assert len(names["labels"]) == len(names["docs"].vectors)
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_the_examples_of_scale_run(capsys):
    names = run("scale.md")
    assert names["found"].schema.names == ["query", "name", "id", "score"]
    assert names["shards"].ids.tolist() == list(range(20_000))
    assert len(capsys.readouterr().out.splitlines()) == 4


def with_examples():
    """Modules whose docstrings have examples; those of GPUs run on one."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if ">>> " in path.read_text("utf-8"):
            yield name


@pytest.mark.parametrize("name", list(with_examples()))
def test_the_examples_of_docstrings_run(name):
    done = doctest.testmod(import_module(name))
    assert done.attempted >= 1
    assert done.failed == 0


def sources(thing):
    """The code of the examples of a docstring."""
    found = doctest.DocTestParser().get_examples(inspect.getdoc(thing) or "")
    return "".join(example.source for example in found)


def test_every_public_name_has_an_example():
    """Its own; or one in the docstring of its class, or of a module that it comes from or is exported by."""
    lacking = []
    for name, thing in public.callables():
        home, _, last = name.rpartition(".")
        around = [import_module(thing.__module__)]
        while home:
            part = public.named(home)
            around.append(part)
            home = "" if inspect.ismodule(part) else home.rpartition(".")[0]
        used = re.compile(rf"\b{last}\b")
        if not sources(thing) and not any(used.search(sources(part)) for part in around):
            lacking.append(name)
    assert lacking == []
