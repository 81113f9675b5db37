"""Lines of JSON, of a file and of standard input: what they hold, and the number of the line that is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command import fail, succeed

from halfspace import HalfspaceIndex
from halfspace.files import jsonl, vectors

ROWS = np.arange(12.0).reshape(4, 3) - 5.25


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture
def objects(tmp_path):
    """Objects with ids and another field, in any order."""
    lines = [{"id": 7 - at, "text": "é", "vector": row} for at, row in enumerate(ROWS.tolist())]
    return write(tmp_path / "x.jsonl", *lines)


def test_arrays_and_objects(tmp_path, objects):
    arrays = write(tmp_path / "y.jsonl", *ROWS.tolist()[:2], "", "  ", {"vector": [-0.75, 0.5, 0.0]}, [1, 2, 3])
    np.testing.assert_array_equal(vectors.read_vectors(objects), ROWS)
    found, ids = vectors.read_identified(objects)
    np.testing.assert_array_equal(found, ROWS)
    assert ids.tolist() == [7, 6, 5, 4]
    found, ids = vectors.read_identified(arrays)
    np.testing.assert_array_equal(found, [*ROWS[:2], [-0.75, 0.5, 0.0], [1, 2, 3]])
    assert found.dtype == np.float64
    assert ids is None


def test_ids_are_looked_at_where_they_are_wanted(tmp_path, objects):
    succeed("build", objects, "-o", tmp_path / "x.hs")
    index = HalfspaceIndex.load(tmp_path / "x.hs")
    np.testing.assert_array_equal(index.vectors([7, 6, 5, 4]), ROWS.astype(np.float32))
    named = write(tmp_path / "y.jsonl", *({"id": "doc", "vector": row} for row in ROWS.tolist()))
    document = json.loads(succeed("query", tmp_path / "x.hs", named, "--tau", 0, "--json"))
    dots = ROWS[::-1] @ ROWS.T
    assert [answer["ids"] for answer in document["answers"]] == [
        (4 + np.flatnonzero(column >= 0)).tolist() for column in dots.T
    ]
    line = fail(2, "build", named, "-o", tmp_path / "y.hs")
    assert 'y.jsonl: line 1: its id must be an integer that fits in int64, got "doc"' in line
    np.save(tmp_path / "ids.npy", np.arange(4))
    succeed("build", named, "-o", tmp_path / "y.hs", "--ids", tmp_path / "ids.npy")
    assert HalfspaceIndex.load(tmp_path / "y.hs").ids.tolist() == [0, 1, 2, 3]


WRONG = {
    "{'vector': [1]}": "line 2: is no JSON: .*, column 2",
    "1 2 3": "line 2: is no JSON: Extra data, column 3",
    "[1, 2, NaN]": "line 2: NaN is no number of JSON",
    "[1, 2, -Infinity]": "line 2: -Infinity is no number of JSON",
    "[1, 2, 1e999]": "line 2: column 2 is beyond the range of float64",
    f"[1, 2, {10**400}]": "line 2: int too large",
    f"[1, 2, {'9' * 5000}]": "line 2: .*digits",
    "[1, null, 3]": "line 2: column 1 is null, not a number",
    "[1, 2, true]": "line 2: column 2 is true",
    '[1, 2, "3"]': 'line 2: column 2 is "3"',
    "[[1, 2, 3]]": r"line 2: column 0 is \[1, 2, 3\]",
    "[1, 2]": "line 2: has 2 numbers, line 1 has 3: rows must have one length",
    "[1, 2, 3, 4]": "line 2: has 4 numbers, line 1 has 3",
    "[]": "line 2: expected an array of numbers, .* found an empty one",
    "3": "line 2: expected an array of numbers, .* found 3",
    "null": "line 2: .* found null",
    '{"vectors": [1, 2, 3]}': r"line 2: has no 'vector', but \['vectors'\]",
    '{"vector": {"a": 1}}': r"line 2: .* found \{\"a\": 1\}",
    "[" * 100_000: "line 2: .*recursion",
    '{"id": 1, "vector": [1, 2, 3]}': "line 2: line 1 and this one do not both have an id",
}


@pytest.mark.parametrize("line", WRONG, ids=range(len(WRONG)))
def test_lines_that_are_wrong(tmp_path, line):
    file = write(tmp_path / "x.jsonl", "[1, 2, 3]", line, "[1, 2, 3]")
    with pytest.raises(ValueError, match=rf"^{file}: {WRONG[line]}") as refusal:
        vectors.read_identified(file)
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("id", ["null", "1.0", "true", '"1"', str(2**63), str(-(2**63) - 1)])
def test_ids_that_are_none(tmp_path, id):
    file = write(tmp_path / "x.jsonl", f'{{"id": {id}, "vector": [1]}}')
    with pytest.raises(ValueError, match="line 1: its id must be an integer that fits in int64"):
        vectors.read_identified(file)
    assert vectors.read_vectors(file).shape == (1, 1)


def test_ids_of_some_lines(tmp_path):
    file = write(tmp_path / "x.jsonl", {"id": 1, "vector": [1]}, {"id": 2, "vector": [1]}, [1])
    with pytest.raises(ValueError, match="line 3: line 1 and this one do not both have an id"):
        vectors.read_identified(file)
    write(file, {"id": 1, "vector": [1]}, {"id": 1, "vector": [1]})
    assert "x.jsonl: id 1 is given twice" in fail(2, "build", file, "-o", tmp_path / "x.hs")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_no_lines(tmp_path, content):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.jsonl: no line has a vector"):
        vectors.read_vectors(tmp_path / "x.jsonl")


def test_bytes_that_are_no_text(tmp_path):
    for content in (b"[1]\n[\xff]\n", b"[1]\n" + "[1]".encode("utf-16-le")):
        (tmp_path / "x.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.jsonl: line 2: "):
            vectors.read_vectors(tmp_path / "x.jsonl")


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_LINE", 1 << 20)
    (tmp_path / "x.jsonl").write_bytes(b"[1]\n" + b"[1" + b",1" * (1 << 20))
    with pytest.raises(ValueError, match="line 2: is longer than 1 MiB"):
        vectors.read_vectors(tmp_path / "x.jsonl")


def test_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_STEP", 3)
    file = write(tmp_path / "x.jsonl", *[[1, 2]] * 10)
    seen = []
    vectors.read_vectors(file, lambda done, total: seen.append((done, total)))
    assert seen == [(21, 70), (42, 70), (63, 70), (70, 70)]


# standard input


def test_standard_input(tmp_path, objects):
    from typer.testing import CliRunner

    import halfspace.cli

    def piped(content, *arguments):
        return CliRunner().invoke(halfspace.cli.app, [str(argument) for argument in arguments], input=content)

    lines = objects.read_text()
    assert piped(lines, "build", "-", "-o", tmp_path / "x.hs", "--json").exit_code == 0
    index = HalfspaceIndex.load(tmp_path / "x.hs")
    np.testing.assert_array_equal(index.vectors([7, 6, 5, 4]), ROWS.astype(np.float32))
    found = piped(lines, "query", tmp_path / "x.hs", "-", "--tau", 0, "--json")
    assert found.stdout == succeed("query", tmp_path / "x.hs", objects, "--tau", 0, "--json")
    for command in (["build", "-", "-o", tmp_path / "y.hs"], ["query", tmp_path / "x.hs", "-", "--tau", 0]):
        assert "standard input: line 2: has 1 numbers, line 1 has 3" in piped("[1, 2, 3]\n[1]", *command).output
        assert "standard input: no line has a vector" in piped("", *command).output
        assert "standard input: row 1, column 2: 1e+300 in float32" in piped("[1,2,3]\n[1,2,1e300]", *command).output
    assert "standard input: row 0 is not finite" in piped("[1e300]", "bench", objects, "-", "--tau", 1).output
    assert "only one of the two" in fail(2, "bench", "-", "-", "--tau", 1)
    assert piped("[1, 2]", "bench", "-", objects, "--tau", 1).exit_code == 2


def test_a_file_called_as_standard_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", ROWS)
    Path("x.npy").rename("-")
    assert "standard input: no line" in fail(2, "build", "-", "-o", "x.hs")
    assert "unknown suffix" in fail(2, "build", "./-", "-o", "x.hs")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input is closed"):
        vectors.read_vectors("-")


@pytest.mark.skipif(os.name == "nt", reason="POSIX semantics")
def test_standard_input_is_not_overwritten(objects):
    content = objects.read_bytes()
    script = "from halfspace.cli import main; main()"
    with objects.open("rb") as stream:
        found = subprocess.run(
            [sys.executable, "-c", script, "build", "-", "-o", str(objects)],
            stdin=stream,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": str(Path(vectors.__file__).parents[2])},
            check=False,
        )
    assert found.returncode == 2
    assert b"x.jsonl: is standard input, which would be lost" in found.stderr
    assert objects.read_bytes() == content
