"""The site builds without a warning and without the network, and its reference has every public name."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from bs4 import BeautifulSoup
from helpers import public
from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site that was built of the pages as they are."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", folder / "trees", ROOT / "docs"]
    done = subprocess.run(
        [sys.executable, *command, folder / "html"], cwd=ROOT, check=False, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_public_name_is_in_the_reference(site):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    there = {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}
    expected = {name for name, _ in [*public.exported(), *public.callables()]}
    assert len(expected) > 100
    assert expected - there == set()


def test_links_of_the_site_lead_somewhere(site):
    """Those within it: to files, and to anchors on pages."""
    pages = {
        path: BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        for target in {tag.get("href") or tag.get("src") for tag in page.find_all(["a", "img", "link"])} - {None}:
            parts = urlparse(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.exists() or (parts.fragment and parts.fragment not in anchors.get(there, {parts.fragment})):
                broken.append((path.relative_to(site).as_posix(), target))
    assert len(pages) > 30
    assert broken == []


def test_links_between_pages_are_links_of_the_site(site):
    """Those of Markdown and of notebooks, by the files that they name."""
    lost, seen = [], 0
    for path in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]:
        page = site / path.relative_to(ROOT / "docs").with_suffix(".html")
        hrefs = {
            urlparse(tag["href"]).path for tag in BeautifulSoup(page.read_text("utf-8"), "html.parser")("a", href=True)
        }
        targets = re.findall(r"\]\(([\w/.-]+)\.(?:md|ipynb)(?:#[\w-]+)?\)", path.read_text("utf-8"))
        inside = [name for name in targets if (ROOT / "docs") in (path.parent / name).resolve().parents]
        lost += [(path.name, name) for name in inside if f"{name}.html" not in hrefs and name != path.stem]
        seen += len(inside)
    assert seen > 80
    assert lost == []


def test_notebooks_are_pages_with_their_outputs(site):
    for path in (ROOT / "docs/notebooks").glob("*.ipynb"):
        page = BeautifulSoup((site / f"notebooks/{path.stem}.html").read_text("utf-8"), "html.parser")
        cells = json.loads(path.read_text("utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert len(page.select(".cell_output > *")) >= len(outputs) > 2
        assert page.select(".cell_output img")
