"""Every example of the README, the guide and the recipes runs, and prints what its page shows."""

import json
import re
from pathlib import Path

import pytest
from helpers import pages

DOCS = Path(__file__).parents[1] / "docs"
RECIPES = sorted((DOCS / "recipes").glob("*.md"))


@pytest.mark.parametrize("path", [DOCS.parent / "README.md", DOCS / "guide.md", *RECIPES], ids=lambda path: path.stem)
def test_a_page_prints_what_it_shows(path, tmp_path):
    if path.stem == "cluster":
        pytest.importorskip("ray")
    shown = [example.shown for example in pages.examples(path)]
    printed = pages.outputs(path, tmp_path)
    drawn = {f"recipe-{picture.name}" for picture in tmp_path.glob("*.svg")}
    assert drawn == set(re.findall(r"\(\.\./images/(recipe-[\w.-]+)\)", path.read_text("utf-8")))
    if path.parent == DOCS:  # the guide shows nothing
        assert any(printed)
        return
    assert shown == printed


def test_recipes_show_something_and_are_listed():
    index = (DOCS / "recipes/index.md").read_text("utf-8")
    for path in RECIPES:
        if path.stem != "index":
            assert any(example.shown for example in pages.examples(path)), path.name
            assert f"({path.name})" in index, path.name


@pytest.mark.parametrize("name", pages.NOTEBOOKS)
def test_notebooks_are_their_recipes(name):
    """Cells and outputs are those of the page, which runs above."""
    written = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
    assert written == pages.notebook(DOCS / "recipes" / f"{name}.md")
    pictures = [output for cell in written["cells"] for output in cell.get("outputs", []) if "data" in output]
    assert pictures
