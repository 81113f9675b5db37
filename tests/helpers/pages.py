"""The examples of Markdown pages: blocks of Python, and blocks of text with what they print."""

import contextlib
import io
import re
import subprocess
import sys
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
    with contextlib.chdir(folder):
        for part in parts:
            output = io.StringIO()
            code = "\n" * (part.line - 1) + part.code  # errors name the line of the page
            with contextlib.redirect_stdout(output):
                exec(compile(code, str(path), "exec"), names)
            printed.append(output.getvalue())
    return printed
