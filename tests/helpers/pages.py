"""The examples of Markdown pages: blocks of Python, and blocks of text with what they print.

    PYTHONPATH=. python tests/helpers/pages.py docs/recipes/threshold.md

runs pages, writes below each block what it prints, and keeps the pictures that it draws in docs/images. Pages that are
`NOTEBOOKS` are written as such, too, with their outputs.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NOTEBOOKS = ("semantic-search", "threshold", "near-duplicates", "recommender", "radius")
"""Recipes that are notebooks, too."""
_SCRIPT = 'if __name__ == "__main__":'


class Example(NamedTuple):
    """A block of Python, the text that the page shows below it, and the line where it begins."""

    code: str
    shown: str
    line: int


def examples(path):
    """The examples of a page, in order; `shown` is empty where the page shows nothing."""
    text = path.read_text("utf-8")
    return [
        Example(found[1], found[2] or "", text.count("\n", 0, found.start()) + 2) for found in _BLOCK.finditer(text)
    ]


@contextlib.contextmanager
def _closed_pictures():
    """Close the pictures that examples leave open."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def outputs(path, folder):
    """What each example of a page prints; they run one after another, in a folder, as a reader would run them.

    A page whose code is a script (it starts processes) runs as one.
    """
    parts = examples(path)
    if any(_SCRIPT in part.code for part in parts):
        script = folder / "script.py"
        script.write_text("\n".join(part.code for part in parts), "utf-8")
        quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}  # nothing is sent anywhere
        done = subprocess.run(
            [sys.executable, script.name],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            env=quiet,
        )
        assert done.returncode == 0, done.stderr
        return [*[""] * (len(parts) - 1), done.stdout]
    names, printed = {"__name__": "page"}, []
    with contextlib.chdir(folder), _closed_pictures():
        for part in parts:
            output = io.StringIO()
            code = "\n" * (part.line - 1) + part.code  # errors name the line of the page
            with contextlib.redirect_stdout(output):
                exec(compile(code, str(path), "exec"), names)
            printed.append(output.getvalue())
    return printed


def rewrite(path, images):
    """Put what the examples of a page print below them, and their pictures into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        printed = iter(outputs(path, Path(folder)))
        for picture in Path(folder).glob("*.svg"):
            undated = re.sub(r" *<dc:date>.*?</dc:date>\n", "", picture.read_text("utf-8"))
            (images / f"recipe-{picture.name}").write_text(undated, "utf-8")

    def shown(found):
        text = next(printed)
        return f"```python\n{found[1]}```" + (f"\n\n```text\n{text}```" if text else "")

    path.write_text(_BLOCK.sub(shown, path.read_text("utf-8")), "utf-8")


def notebook(path):
    """A recipe as a notebook, with the outputs and pictures that the page shows."""
    text, cells, end = path.read_text("utf-8"), [], 0
    for found in _BLOCK.finditer(text):
        cells += [_prose(text[end : found.start()]), _code(found[1], found[2], path.parent.parent / "images")]
        end = found.end()
    cells = [cell for cell in [*cells, _prose(text[end:])] if cell["source"]]
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def _prose(text):
    """A cell of Markdown: without pictures, which are outputs, and with links as they are from notebooks."""
    plain = re.sub(r"^!\[.*\n?", "", text, flags=re.MULTILINE)
    plain = re.sub(r"\]\((?!\.\./|[a-z]+:)", "](../recipes/", plain).strip()
    return {"cell_type": "markdown", "metadata": {}, "source": plain.splitlines(keepends=True)}


def _code(code, printed, images):
    """A cell of code, with what it prints and draws."""
    results = []
    if printed:
        results.append({"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)})
    for name in re.findall(r'savefig\("([\w.-]+)"', code):
        data = {"image/svg+xml": (images / f"recipe-{name}").read_text("utf-8").splitlines(keepends=True)}
        results.append({"data": data, "metadata": {}, "output_type": "display_data"})
    source = code.rstrip().splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": results, "source": source}


if __name__ == "__main__":
    import matplotlib

    from asv_benchmarks.report.style import STYLE

    matplotlib.rcParams.update(STYLE)
    for name in sys.argv[1:]:
        page = Path(name).resolve()
        docs = Path(__file__).parents[2] / "docs"
        rewrite(page, docs / "images")
        if page.stem in NOTEBOOKS:
            written = docs / "notebooks" / f"{page.stem}.ipynb"
            written.write_text(json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n", "utf-8")
