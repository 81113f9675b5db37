"""Commands of the pages run as they are printed; what needs a GPU, the network or hours is held to what there is."""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.command import succeed

from halfspace.bench import clustered
from halfspace.datasets import load_pydocs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = "halfspace|python3?|pip|pytest|asv|cd|ruff|mypy|lint-imports|find|sphinx-build|twine|ray|compute-sanitizer"
COMMAND = re.compile(rf"^ {{4,}}((?:[A-Z_]+=\S+ )*(?:{PROGRAMS}) .*|mypy|lint-imports)$", re.MULTILINE)
INLINE = re.compile(r"`(halfspace (?:[a-z]+)(?: [^`]*)?)`")
EXTRAS = re.compile(r"pip install [^`\n]*\"(?:halfspace-search|\.)\[([\w,-]+)\]\"")

ELSEWHERE = {
    r"python3 -m venv |\.venv/|ruff |mypy$|lint-imports$|asv |cd ": "run by .ci/run",
    r"find halfspace -name .*-delete$": "would compile all kernels anew",
    r"([A-Z_]+=\S+ )*pytest( |$)": "are the tests, whose files are looked for",
    r"sphinx-build ": "is in test_site.py",
    r"python -m build$|twine check ": "is in test_packaging.py",
    r"pip install ": "needs the network; extras are looked for",
    r"ray start": "needs a cluster",
    r"halfspace .*(--device gpu|halfspace-gpu)|compute-sanitizer ": "needs a GPU",
    r"python -m asv_benchmarks\.": "takes minutes to hours; arguments are parsed",
    r"python -c .*clustered\(1_000_000": "takes a gigabyte",
    r"HALFSPACE_BENCH_SMALL=1 asv ": "run by .ci/run",
}
"""Commands that no test of this file runs, and why."""
QUICK = "--rounds 1 --threads 1 --queries 2 --engines halfspace,numpy,faiss-ivf"
"""What is added to comparisons, whose times nobody reads here."""


def commands(page):
    """The commands of a page: lines that are indented, those that go on with a backslash as one, without comments."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    return [part.strip() for line in COMMAND.findall(text) for part in line.partition("  #")[0].split(" && ")]


def inline(page):
    """Commands within sentences and tables, those that are not cut short."""
    found = INLINE.findall(re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL))
    return [command.replace("\\|", "|") for command in found if " = " not in command]


def elsewhere(command):
    return next((why for pattern, why in ELSEWHERE.items() if re.match(pattern, command)), None)


def run(command):
    """Run a command: those of this project in this process, others by the shell."""
    words = shlex.split(command)
    if words[0] == "halfspace":
        succeed(*words[1:])
        return
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, shell=True, check=True, env=environment, timeout=300, capture_output=True)


def binned(path, array):
    path.write_bytes(np.array(array.shape, "<u4").tobytes() + array.tobytes())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with small files of the names that pages suppose a reader to have."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    vectors, directions = clustered(300, 24, 1), clustered(5, 24, 2)
    docs = load_pydocs()
    np.savez("sentences.npz", vectors=docs.vectors, directions=docs.query_vectors)
    np.save("points.npy", docs.query_vectors)
    with h5py.File("glove.hdf5", "w") as file:
        file["train"], file["test"] = vectors, directions
    Path("data/bigann").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 64, (310, 16), "u1")
    for folder in (Path(), Path("data/bigann")):
        binned(folder / "base.1B.u8bin", images[:300])
        binned(folder / "query.public.10K.u8bin", images[300:])
    Path("range_gt_1M_10000").write_bytes(np.array([10, 0, *[0] * 10], "<i4").tobytes())
    return tmp_path


def test_commands_run_as_printed(here):
    """All of them, page by page: what one writes the next ones read."""
    first = ROOT / "docs/command-line.md"
    printed = [command for page in [first, *(page for page in PAGES if page != first)] for command in commands(page)]
    wanted = [command for command in printed if elsewhere(command) is None]
    assert len(wanted) > 25
    for command in wanted:
        run(f"{command} {QUICK}" if command.startswith("halfspace bench") else command)
    written = {path.name for path in here.iterdir()}
    named = {word for command in wanted for word in re.findall(r" (?:-o|--plot) (\S+)", command)}
    assert named <= written


def test_every_reason_is_needed():
    printed = [command for page in PAGES for command in commands(page)]
    assert [pattern for pattern in ELSEWHERE if not any(re.match(pattern, command) for command in printed)] == []


class Parsed(Exception):
    """A script has taken its arguments."""


def scripts():
    """Commands of scripts, in sentences, too, where a name alone does not say how it is called."""
    found = {command for page in PAGES for command in commands(page) if command.startswith("python -m asv_benchmarks.")}
    inside = re.compile(r"`(python -m asv_benchmarks\.[\w.]+ [^`]*)`")
    found |= {command for page in PAGES for command in inside.findall(page.read_text("utf-8"))}
    return sorted(found)


@pytest.mark.parametrize("command", scripts())
def test_scripts_take_the_arguments_that_are_printed(command, monkeypatch):
    """A script parses what a page calls it with; of one that needs a GPU to be imported, options are looked for."""
    module, *words = shlex.split(command)[2:]
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text("utf-8")
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *arguments):
        parse(self, *arguments)
        raise Parsed

    if "ArgumentParser" not in source:
        assert "sys.argv" in source or not words
    elif re.search(r"^(?:import|from) (?:cupy|halfspace\.gpu)", source, re.MULTILINE):
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []
    else:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        monkeypatch.setattr(sys, "argv", [module, *words])
        with pytest.raises(Parsed):
            importlib.import_module(module).main()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_name_what_there_is(page, monkeypatch):
    """Options of `halfspace`, in sentences, too; files of tests; extras of the package."""
    monkeypatch.setenv("COLUMNS", "200")
    for command in [*commands(page), *inline(page)]:
        words = shlex.split(command)
        if words[0] == "halfspace" and len(words) > 1 and words[1] != "--version":
            text = succeed(words[1], "--help")
            options = {word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
            assert [option for option in options if not re.search(rf"(?<![\w-]){option}\b", text)] == [], command
        paths = [word for word in words if word.startswith("tests/")] if "pytest" in words else []
        assert [path for path in paths if not (ROOT / path.partition("::")[0]).exists()] == [], command
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for extras in EXTRAS.findall(page.read_text("utf-8")) for name in extras.split(",")}
    assert named <= known.keys()
