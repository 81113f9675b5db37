"""What the commands write: never over an input, never in place of a device, in the format that the suffix says."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command import call, fail, succeed

from halfspace import HalfspaceIndex
from halfspace.files import outputs

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX semantics")
N, D, M = 300, 6, 4
FORMATS = [".csv", ".jsonl", ".parquet"]


@pytest.fixture
def files(tmp_path):
    """Files of the commands: vectors x.npy and x.npz, directions q.npy, ids.npy, tau.npy and an index x.hs."""
    rng = np.random.default_rng(1)
    vectors, directions = rng.standard_normal((N, D)), rng.standard_normal((M, D))
    np.save(tmp_path / "x.npy", vectors.astype(np.float32))
    np.savez(tmp_path / "x.npz", x=vectors.astype(np.float32), q=directions.astype(np.float32))
    np.save(tmp_path / "q.npy", directions.astype(np.float32))
    np.save(tmp_path / "ids.npy", np.arange(N)[::-1] * 10**15)
    np.save(tmp_path / "tau.npy", np.array([0.5, np.inf, -np.inf, 1.0]))
    succeed("build", tmp_path / "x.npy", "-o", tmp_path / "x.hs", "--ids", tmp_path / "ids.npy")
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# What is refused


def aliases(path):
    """The same file under other names: by way of its folder, by a symbolic and a hard link, and in a linked folder."""
    yield path
    yield path.parent / "." / ".." / path.parent.name / path.name
    if os.name != "nt":
        (path.parent / f"soft{path.suffix}").symlink_to(path.name)
        yield path.parent / f"soft{path.suffix}"
        os.link(path, path.parent / f"hard{path.suffix}")
        yield path.parent / f"hard{path.suffix}"
        (path.parent / "linked").symlink_to(path.parent)
        yield path.parent / "linked" / path.name


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize(
    ("lost", "arguments"),
    [
        ("x.npy", ["build", "x.npy"]),
        ("x.npz", ["build", "x.npz:x"]),
        ("ids.npy", ["build", "x.npy", "--ids", "ids.npy"]),
        ("x.npz", ["query", "x.hs", "x.npz:q", "--tau", "1"]),
        ("hs.npz", ["query", "hs.npz", "q.npy", "--tau", "1"]),
        ("tau.csv", ["query", "x.hs", "q.npy", "--tau", "tau.npy"]),
    ],
)
def test_an_input_is_never_the_output(files, lost, arguments, place, monkeypatch):
    """The file is named in other ways, too; and inputs that have a suffix of outputs only by a link."""
    monkeypatch.chdir(files)
    if lost == "hs.npz":
        (files / "x.hs").rename(files / lost)
    if lost == "tau.csv":
        (files / "tau.npy").rename(files / lost)
        os.link(files / lost, files / "tau.npy")
    names = list(aliases(files / lost))
    if place >= len(names):
        return
    before = contents(files)
    line = fail(2, *arguments, "-o", names[place])
    assert f"{names[place]}: is the input" in line
    assert contents(files) == before


@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_an_input_of_bench_is_never_its_output(files, option):
    suffix = ".md" if option == "-o" else ".svg"
    os.link(files / "q.npy", files / f"q{suffix}")
    before = contents(files)
    line = fail(2, "bench", files / "x.npy", files / "q.npy", "--tau", 1, option, files / f"q{suffix}")
    assert "is the input" in line
    assert contents(files) == before


def test_two_outputs_of_bench_are_two_files(files):
    (files / "o.md").touch()
    os.link(files / "o.md", files / "o.svg")
    arguments = ["--tau", 1, "-o", files / "o.md", "--plot", files / "o.svg"]
    assert "is the input" in fail(2, "bench", files / "x.npy", files / "q.npy", *arguments)


@POSIX
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "link to a device"])
def test_pipes_and_devices_are_refused(files, kind):
    """They would be replaced by a file; that of a container's /dev/null breaks the container."""
    names = {"query": "y.csv", "build": "y.hs", "bench": "y.md"}
    for command, name in names.items():
        path = files / name
        if "link" in kind:
            target = Path(os.devnull) if "device" in kind else files / "target"
            if not target.exists():
                os.mkfifo(target)
            path.symlink_to(target)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path = Path(os.devnull)
        before = os.lstat(path)
        arguments = {
            "query": ["query", files / "x.hs", files / "q.npy", "--tau", 1],
            "build": ["build", files / "x.npy"],
            "bench": ["bench", files / "x.npy", files / "q.npy", "--tau", 1],
        }[command]
        assert f"{path}: is a pipe or a device" in fail(2, *arguments, "-o", path)
        assert os.path.samestat(before, os.lstat(path))
    assert not stat.S_ISREG(os.stat(os.devnull).st_mode)


@POSIX
def test_where_the_command_prints_is_refused(files):
    """``build x.npy -o /dev/stdout > y.hs`` would lose either the index or what is printed."""
    script = "from halfspace.cli import main; main()"
    command = [sys.executable, "-c", script, "build", str(files / "x.npy"), "-o"]
    environment = os.environ | {"PYTHONPATH": str(Path(outputs.__file__).parents[2])}
    for name in ("/dev/stdout", str(files / "y.hs")):
        with open(files / "y.hs", "wb") as stream:
            found = subprocess.run(
                [*command, name], stdout=stream, stderr=subprocess.PIPE, env=environment, check=False
            )
        assert found.returncode == 2
        assert b"is where this command prints" in found.stderr
        assert (files / "y.hs").read_bytes() == b""


@pytest.mark.parametrize("name", ["hits", "hits.txt", "hits.npy", "hits.csv.gz", "hits.hs", ".csv"])
def test_other_suffixes(files, name):
    line = fail(2, "query", files / "x.hs", files / "q.npy", "--tau", 1, "-o", files / name)
    assert "known are .npz, .csv, .parquet, .jsonl" in line
    assert not (files / name).exists()


@POSIX
def test_links_without_a_target(files):
    arguments = ["query", files / "x.hs", files / "q.npy", "--tau", 1, "-o"]
    (files / "dangling.csv").symlink_to("nowhere/hits.csv")
    assert "no such folder" in fail(2, *arguments, files / "dangling.csv")
    (files / "loop.csv").symlink_to("loop.csv")
    assert "loop.csv" in fail(2, *arguments, files / "loop.csv")
    (files / "new.csv").symlink_to("target.csv")
    succeed(*arguments, files / "new.csv")
    assert (files / "new.csv").is_symlink()
    assert (files / "target.csv").read_text().startswith("query,id,score\n")


def test_parquet_without_pyarrow(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("halfspace.files.vectors.read_vectors", lambda _: pytest.fail("work was done"))
    line = fail(2, "query", files / "x.hs", files / "q.npy", "--tau", 1, "-o", files / "hits.parquet")
    assert "hits.parquet: writing Parquet needs pyarrow: pip install pyarrow" in line
    with pytest.raises(ValueError, match="pip install pyarrow"):
        outputs.write_hits(files / "hits.parquet", {"totals": np.zeros(2, np.int64)})


# What is written


@POSIX
@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet", ".jsonl", ".md", ".json", ".svg", ".png", ".pdf"])
def test_permissions_are_kept_and_links_followed(files, suffix):
    """A file of mode 0600 stays one, behind a link as well."""
    target, link = files / f"target{suffix}", files / f"link{suffix}"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target.name)
    if suffix in outputs.HITS:
        succeed("query", files / "x.hs", files / "q.npy", "--tau", 1, "-o", link)
    else:
        option = "-o" if suffix in (".md", ".json") else "--plot"
        fast = ["--engines", "numpy", "--rounds", 1, "--threads", 1, "--tau", 1]
        succeed("bench", files / "x.npy", files / "q.npy", *fast, option, link)
    assert link.is_symlink()
    assert target.read_bytes()[:3] != b"old"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert not list(files.glob(".halfspace-*"))


def rows_of(path):
    """Read a table with readers that are not ours: columns by name."""
    if path.suffix == ".csv":
        header, *lines = csv.reader(io.StringIO(path.read_text(), newline=""))
        columns = list(zip(*lines, strict=True)) or [()] * len(header)
        kinds = [float if name == "score" else int for name in header]
        return {name: list(map(kind, own)) for name, kind, own in zip(header, kinds, columns, strict=True)}
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return {name: [line[name] for line in lines] for name in lines[0]} if lines else {}
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    types = {"query": "int64", "id": "int64", "count": "int64", "score": "float"}
    assert [str(field.type) for field in table.schema] == [types[name] for name in table.schema.names]
    return table.to_pydict()


def answers(files, scores=True):
    """The answers by the library, which other tests compare with oracles; scores as exact numbers."""
    index = HalfspaceIndex.load(files / "x.hs")
    hits = index.query(np.load(files / "q.npy"), np.load(files / "tau.npy"))
    queries = [j for j in range(M) for _ in range(hits.offsets[j], hits.offsets[j + 1])]
    return {"query": queries, "id": hits.ids.tolist()} | ({"score": hits.scores.tolist()} if scores else {})


@pytest.mark.parametrize("suffix", [*FORMATS, ".CSV"])
@pytest.mark.parametrize("piece", [7, 1 << 16])
def test_hits(files, suffix, piece, monkeypatch):
    monkeypatch.setattr(outputs, "_PIECE", piece)
    monkeypatch.setattr(outputs, "_ROW_GROUP", 20)
    path = files / f"hits{suffix}"
    succeed("query", files / "x.hs", files / "q.npy", "--tau", files / "tau.npy", "-o", path)
    found = rows_of(path.rename(files / path.name.lower()))
    expected = answers(files)
    assert list(found) == ["query", "id", "score"]
    assert max(expected["id"]) > 2**53
    assert {"query": found["query"], "id": found["id"]} == {"query": expected["query"], "id": expected["id"]}
    ours, theirs = np.array(found["score"], np.float32), np.array(expected["score"], np.float32)
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_hits_without_scores_and_counts(files, suffix):
    path = files / f"hits{suffix}"
    arguments = ["query", files / "x.hs", files / "q.npy", "--tau", files / "tau.npy", "-o", path]
    succeed(*arguments, "--no-scores")
    expected = answers(files, scores=False)
    assert rows_of(path) == expected
    succeed(*arguments, "--count")
    assert rows_of(path) == {"query": [0, 1, 2, 3], "count": [expected["query"].count(j) for j in range(M)]}


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_hits(files, suffix):
    path = files / f"hits{suffix}"
    succeed("query", files / "x.hs", files / "q.npy", "--tau", "inf", "-o", path)
    assert rows_of(path) == ({} if suffix == ".jsonl" else {"query": [], "id": [], "score": []})
    if suffix == ".csv":
        assert path.read_text() == "query,id,score\n"


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_float32_comes_back(tmp_path, suffix):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    tiny = np.arange(1, 200, dtype=np.uint32).view(np.float32)
    ends = np.array([0.0, -0.0, np.inf, -np.inf, 3.4028235e38, 1.1754944e-38, 16777216, 1e7, 0.1, 1e16], np.float32)
    scores = np.concatenate([scores[~np.isnan(scores)], tiny, -tiny, ends])
    ids = rng.integers(-(2**63), 2**63 - 1, scores.size)
    found = {"ids": ids, "offsets": np.array([0, 5, 5, ids.size]), "totals": np.array([5, 0, ids.size - 5])}
    path = tmp_path / f"hits{suffix}"
    outputs.write_hits(path, found | {"scores": scores})
    rows = rows_of(path)
    assert np.array(rows["score"], np.float32).tobytes() == scores.tobytes()
    assert rows["id"] == ids.tolist()
    assert rows["query"] == [0] * 5 + [2] * (ids.size - 5)


@pytest.mark.parametrize("suffix", [*FORMATS, ".npz"])
def test_a_failure_leaves_the_old_file(files, suffix, monkeypatch):
    path = files / f"hits{suffix}"
    path.write_bytes(b"old")
    before = contents(files)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    line = fail(2, "query", files / "x.hs", files / "q.npy", "--tau", 1, "-o", path)
    assert "No space left on device" in line
    assert path.name in line
    assert contents(files) == before


def test_help_says_what_is_written():
    for command in ("build", "query", "bench"):
        text = " ".join(call(command, "--help").output.split())
        assert "no input, pipe or device" in text.replace("│ │ ", "")
