"""Commands of the pages run as they are printed; those that take long, a GPU or the network name what there is."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command import succeed

from halfspace.bench import clustered

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^    ((?:halfspace|python|pytest) .*)$", re.MULTILINE)


def commands(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    return [line.partition("  #")[0].strip() for line in COMMAND.findall(text)]


def run(command):
    """Run a command: those of this project in this process, others by the shell."""
    words = shlex.split(command)
    if words[0] == "halfspace":
        succeed(*words[1:])
        return
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, shell=True, check=True, env=environment, timeout=300, capture_output=True)


def test_the_command_line_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = commands(ROOT / "docs/command-line.md")
    assert len(printed) > 12
    for command in printed:
        run(command)
    written = {path.name for path in tmp_path.iterdir()}
    named = {word for command in printed for word in re.findall(r" -o (\S+)", command)}
    assert named <= written


def test_comparisons_run_as_printed(tmp_path, monkeypatch):
    """On fewer vectors than a reader has, whose files these commands are about."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    vectors, directions = clustered(300, 24, 1), clustered(5, 24, 2)
    for name in ("directions", "points"):
        np.save(f"{name}.npy", directions)
    np.save("vectors.npy", vectors)
    with h5py.File("glove.hdf5", "w") as file:
        file["train"], file["test"] = vectors, directions
    printed = [command for command in commands(ROOT / "docs/guide.md") if command.startswith("halfspace bench ")]
    assert len(printed) == 3
    for command in printed:
        run(f"{command} --rounds 1 --threads 1")
    assert {"times.svg", "times.md"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_name_what_there_is(page, monkeypatch):
    """Options of `halfspace`, modules and options of scripts, and files of tests."""
    monkeypatch.setenv("COLUMNS", "200")
    for command in commands(page):
        words = shlex.split(command)
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if words[0] == "halfspace":
            text = succeed(words[1], "--help") if len(words) > 1 else ""
        elif words[:2] == ["python", "-m"] and words[2].startswith("asv_benchmarks"):
            text = (ROOT / words[2].replace(".", "/")).with_suffix(".py").read_text("utf-8")
        else:
            text = " ".join(options)
        assert [option for option in options if option not in text] == [], command
        paths = [word for word in words if word.startswith("tests/")] if words[0] == "pytest" else []
        assert [path for path in paths if not (ROOT / path.partition("::")[0]).exists()] == [], command
