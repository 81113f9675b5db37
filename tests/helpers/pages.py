"""The examples of Markdown pages: blocks of Python, and blocks of text with what they print.

    PYTHONPATH=. python tests/helpers/pages.py docs/recipes/threshold.md

runs pages, writes below each block what it prints, and keeps the pictures that it draws in docs/images.
"""

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
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
        done = subprocess.run(
            [sys.executable, script.name], cwd=folder, check=False, capture_output=True, text=True, timeout=300
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
            shutil.copy(picture, images / f"recipe-{picture.name}")

    def shown(found):
        text = next(printed)
        return f"```python\n{found[1]}```" + (f"\n\n```text\n{text}```" if text else "")

    path.write_text(_BLOCK.sub(shown, path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    import matplotlib

    from asv_benchmarks.report.style import STYLE

    matplotlib.rcParams.update(STYLE)
    for name in sys.argv[1:]:
        rewrite(Path(name).resolve(), Path(__file__).parents[2] / "docs" / "images")
