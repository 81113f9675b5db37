"""The page about other libraries, and the examples of what it names, run as they stand."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs/interop.md"


def test_the_examples_of_the_page_run(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(names["labels"]) == 1000
    assert len(names["matches"]) == 32
    assert len(capsys.readouterr().out.splitlines()) >= 3


@pytest.mark.parametrize("name", ["sklearn", "faiss", "text", "questions"])
def test_the_examples_of_docstrings_run(name):
    done = doctest.testmod(import_module(f"halfspace.{name}"))
    assert done.attempted > 3
    assert done.failed == 0
