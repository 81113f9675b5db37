"""Examples of pages and docstrings run as they stand."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


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


@pytest.mark.parametrize("name", ["sklearn", "faiss", "text", "questions", "joins.pairwise", "joins.asked"])
def test_the_examples_of_docstrings_run(name):
    done = doctest.testmod(import_module(f"halfspace.{name}"))
    assert done.attempted >= 3
    assert done.failed == 0
