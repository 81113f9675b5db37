"""The command line: right answers, JSON that parses, one-line errors and their exit codes."""

import json
import math
import re
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from helpers.command import call, fail, succeed

import halfspace.bench.demo
import halfspace.cli
import halfspace.commands
from halfspace.datasets import load_pydocs
from halfspace.files.binary import SUFFIXES

N, D, M = 700, 12, 5


@pytest.fixture(scope="module")
def data():
    """Small integers, so that float64 brute force is exact and ties at tau are many."""
    rng = np.random.default_rng(5)
    return rng.integers(-4, 5, (N, D)).astype(np.float32), rng.integers(-3, 4, (M, D)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory, data):
    """Vectors x.npy, directions q.npy and an index x.hs built from them, all in one folder."""
    folder = tmp_path_factory.mktemp("cli")
    np.save(folder / "x.npy", data[0])
    np.save(folder / "q.npy", data[1])
    succeed("build", folder / "x.npy", "-o", folder / "x.hs")
    return folder


def brute(data, tau, j):
    dots = data[0].astype(np.float64) @ data[1][j].astype(np.float64)
    ids = np.flatnonzero(dots >= tau)
    return ids, dots[ids].astype(np.float32)


# bands


def test_a_band_on_the_command_line(files, data):
    document = json.loads(succeed("query", files / "x.hs", files / "q.npy", "--tau", 3, "--unless", 9, "--json"))
    for j, answer in enumerate(document["answers"]):
        ids, scores = brute(data, 3, j)
        assert answer["ids"] == ids[scores < 9].tolist()
    np.save(files / "ends.npy", np.full(M, 9.0))
    counted = succeed(
        "query", files / "x.hs", files / "q.npy", "--tau", 3, "--unless", files / "ends.npy", "--count", "--json"
    )
    assert [answer["total"] for answer in json.loads(counted)["answers"]] == [
        len(answer["ids"]) for answer in document["answers"]
    ]
    assert "--unless 'x' is neither" in fail(2, "query", files / "x.hs", files / "q.npy", "--tau", 3, "--unless", "x")


# demo


def test_demo_json_is_exact():
    report = json.loads(succeed("demo", "--json", "--rounds", 1))
    assert report["wrong"] == []
    assert report["proved"] == 64
    assert (report["vectors"], report["dim"], report["hits"]) == (6301, 384, 597)
    assert len(report["questions"]) == 32
    assert sum(question["hits"] for question in report["questions"]) == 597
    walk = next(question for question in report["questions"] if question["text"] == "walk a directory tree")
    assert walk["best"][0]["name"] == "os.walk"
    assert [hit["score"] for hit in walk["best"]] == sorted((hit["score"] for hit in walk["best"]), reverse=True)
    assert report["dot_products_dense"] == 6301 * 32
    assert report["timings"][0]["name"] == "halfspace"
    assert report["timings"][0]["exact_answers"] == 32


def test_demo_text():
    text = succeed("demo", "--rounds", 0, "--show", 1, "--top", 1, "--tau", 0.6, "--filter", "cells")
    assert "open a network socket" in text
    assert "and 31 more questions" in text
    assert "64 of 64 answers" in text
    assert "faiss" not in text


@pytest.mark.parametrize(("tau", "hits"), [("inf", 0), ("-inf", 6301 * 32)])
def test_demo_infinite_tau(tau, hits):
    report = json.loads(succeed("demo", "--json", "--rounds", 0, "--tau", tau))
    assert report["tau"] == tau
    assert report["hits"] == hits


def test_demo_fails_when_an_answer_is_not_exact(monkeypatch):
    right = halfspace.bench.demo.least_dot(0.5)
    monkeypatch.setattr(halfspace.bench.demo, "least_dot", lambda tau: right + 2**40)
    result = call("demo", "--json", "--rounds", 0)
    assert result.exit_code == 1
    wrong = json.loads(result.stdout.splitlines()[0])["wrong"]
    assert wrong
    assert "0 hits missing" in wrong[0]
    assert "answers are not exact" in fail(1, "demo", "--rounds", 0)


def test_demo_refuses_nan():
    assert "nan" in fail(2, "demo", "--tau", "nan").lower()


def test_demo_arithmetic_against_fractions():
    docs = load_pydocs()
    vectors, directions = docs.vectors[:5], docs.query_vectors[:3]
    dots = halfspace.bench.demo.exact_dots(vectors, directions)
    for j, direction in enumerate(directions):
        for i, vector in enumerate(vectors):
            pairs = zip(vector.tolist(), direction.tolist(), strict=True)
            real = sum(Fraction(a) * Fraction(b) for a, b in pairs)
            assert Fraction(int(dots[j, i]), 2**48) == real
            for tau in (float(real), math.nextafter(float(real), 9), math.nextafter(float(real), -9)):
                assert (dots[j, i] >= halfspace.bench.demo.least_dot(tau)) == (real >= Fraction(tau))
    assert halfspace.bench.demo.least_dot(2.0**-48) == 1
    assert halfspace.bench.demo.least_dot(5e-324) == 1
    assert halfspace.bench.demo.least_dot(-5e-324) == 0
    assert halfspace.bench.demo.least_dot(1e300) == 2**62


def test_demo_arithmetic_refuses_what_could_overflow():
    with pytest.raises(ValueError, match="too large"):
        halfspace.bench.demo.exact_dots(np.full((1, 384), 300, np.float16), np.full((1, 384), 300, np.float16))
    with pytest.raises(ValueError, match="float32"):
        halfspace.bench.demo.exact_dots(np.ones((1, 2), np.float32), np.ones((1, 2), np.float16))


# build


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_build(files, tmp_path, dtype):
    summary = json.loads(succeed("build", files / "x.npy", "-o", tmp_path / "y.hs", "--dtype", dtype, "--json"))
    assert (summary["vectors"], summary["dim"], summary["dtype"]) == (N, D, dtype)
    assert summary["bytes"] == (tmp_path / "y.hs").stat().st_size
    answers = json.loads(succeed("query", tmp_path / "y.hs", files / "q.npy", "--tau", 5, "--json"))
    assert answers == json.loads(succeed("query", files / "x.hs", files / "q.npy", "--tau", 5, "--json")) | {
        "index": str(tmp_path / "y.hs")
    }


def test_build_with_subspaces(files, tmp_path):
    options = ["--filter", "sweep", "--subspaces", 3, "--group-size", 5]
    succeed("build", files / "x.npy", "-o", tmp_path / "y.hs", *options)
    index = halfspace.HalfspaceIndex.load(tmp_path / "y.hs")
    assert index._snapshot.sealed[0].data.members.shape == (1, 3, N)
    assert index._snapshot.sealed[0].data.size == 5
    text = succeed("query", tmp_path / "y.hs", files / "q.npy", "--tau", 9, "--explain")
    assert all(name in text for name in ("sweep", "gates", "balls", "bytes read"))
    assert "subspaces" in fail(2, "build", files / "x.npy", "-o", tmp_path / "z.hs", "--subspaces", 3)


def test_build_with_ids(files, tmp_path, data):
    ids = np.random.default_rng(1).permutation(10 * N)[:N]
    np.save(tmp_path / "ids.npy", ids)
    text = succeed(
        "build", files / "x.npy", "-o", tmp_path / "y.hs", "--ids", tmp_path / "ids.npy", "--filter", "cells"
    )
    assert f"{N:,}" in text
    answer = json.loads(succeed("query", tmp_path / "y.hs", files / "q.npy", "--tau", 9, "--json"))["answers"][0]
    assert answer["ids"] == sorted(ids[brute(data, 9, 0)[0]].tolist())


def test_build_from_bvecs(tmp_path):
    rows = np.random.default_rng(2).integers(0, 256, (50, 4), dtype=np.uint8)
    heads = np.full((50, 1), 4, "<i4").view(np.uint8)
    (tmp_path / "x.bvecs").write_bytes(np.hstack([heads, rows]).tobytes())
    succeed("build", tmp_path / "x.bvecs", "-o", tmp_path / "x.hs")
    document = json.loads(succeed("query", tmp_path / "x.hs", tmp_path / "x.bvecs", "--tau", 60000, "--json"))
    dots = rows.astype(np.int64) @ rows.astype(np.int64).T
    assert [answer["ids"] for answer in document["answers"]] == [np.flatnonzero(row >= 60000).tolist() for row in dots]


def test_build_bad_input(files, tmp_path, data):
    output = tmp_path / "y.hs"
    assert "missing.npy" in fail(2, "build", tmp_path / "missing.npy", "-o", output)
    assert ".csv" in fail(2, "build", tmp_path / "x.csv", "-o", output)
    assert "nowhere" in fail(2, "build", files / "x.npy", "-o", tmp_path / "nowhere" / "y.hs")
    assert "folder" in fail(2, "build", files / "x.npy", "-o", tmp_path)
    assert "int8" in fail(2, "build", files / "x.npy", "-o", output, "--dtype", "int8")
    assert "magic" in fail(2, "build", files / "x.npy", "-o", output, "--filter", "magic")
    np.save(tmp_path / "few.npy", np.arange(3))
    assert "few.npy" in fail(2, "build", files / "x.npy", "-o", output, "--ids", tmp_path / "few.npy")
    np.save(tmp_path / "real.npy", np.arange(N) / 2)
    assert "real.npy" in fail(2, "build", files / "x.npy", "-o", output, "--ids", tmp_path / "real.npy")
    np.save(tmp_path / "twice.npy", np.zeros(N, np.int64))
    assert "twice.npy: id 0 is given twice" in fail(
        2, "build", files / "x.npy", "-o", output, "--ids", tmp_path / "twice.npy"
    )
    np.save(tmp_path / "large.npy", np.arange(N, dtype=np.uint64) + np.uint64(2**63 - 1))
    line = fail(2, "build", files / "x.npy", "-o", output, "--ids", tmp_path / "large.npy")
    assert f"large.npy: ids must fit in int64, got {2**63 + N - 2}" in line

    bad = data[0].copy()
    bad[650, 3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    assert "bad.npy: row 650, column 3: nan" in fail(2, "build", tmp_path / "bad.npy", "-o", output)
    bad[650, 3] = 1e6
    np.save(tmp_path / "bad.npy", bad)
    line = fail(2, "build", tmp_path / "bad.npy", "-o", output, "--dtype", "float16")
    assert "row 650, column 3: 1000000.0 in float16" in line
    (tmp_path / "empty.fbin").write_bytes(struct.pack("<II", 0, D))
    for options in ((), ("--shard-rows", 4)):
        line = fail(2, "build", tmp_path / "empty.fbin", "-o", output, *options)
        assert "empty.fbin: holds no vectors: build needs one at least" in line
    assert not output.exists()


# query


@pytest.mark.parametrize("tau", [0, 7.5, 12])
def test_query_to_file(files, tmp_path, data, tau):
    text = succeed("query", files / "x.hs", files / "q.npy", "--tau", tau, "-o", tmp_path / "hits.npz")
    assert "hits.npz" in text
    assert [path.name for path in tmp_path.iterdir()] == ["hits.npz"]
    with np.load(tmp_path / "hits.npz") as hits:
        assert set(hits.files) == {"ids", "scores", "offsets", "totals"}
        for j in range(M):
            own = slice(hits["offsets"][j], hits["offsets"][j + 1])
            ids, scores = brute(data, tau, j)
            np.testing.assert_array_equal(hits["ids"][own], ids)
            np.testing.assert_array_equal(hits["scores"][own], scores)
            assert hits["totals"][j] == len(ids)


def test_query_in_chunks_of_directions(files, tmp_path, monkeypatch):
    whole = succeed("query", files / "x.hs", files / "q.npy", "--tau", 3, "--json")
    monkeypatch.setattr(halfspace.commands, "_CHUNK_ROWS", 2)
    assert succeed("query", files / "x.hs", files / "q.npy", "--tau", 3, "--json") == whole


def test_query_one_tau_per_direction(files, tmp_path, data):
    taus = np.array([3.0, -np.inf, np.inf, 8.25, 0.0])
    np.save(tmp_path / "tau.npy", taus)
    document = json.loads(succeed("query", files / "x.hs", files / "q.npy", "--tau", tmp_path / "tau.npy", "--json"))
    for j, answer in enumerate(document["answers"]):
        assert answer["ids"] == brute(data, taus[j], j)[0].tolist()
        assert float(answer["tau"]) == taus[j]


def test_query_sort_and_limit(files, data):
    arguments = ("query", files / "x.hs", files / "q.npy", "--tau", 4, "--json", "--limit", 7)
    for j, answer in enumerate(json.loads(succeed(*arguments, "--sort"))["answers"]):
        ids, scores = brute(data, 4, j)
        best = np.lexsort((ids, -scores))[:7]
        assert answer["ids"] == ids[best].tolist()
        assert answer["scores"] == scores[best].tolist()
        assert answer["total"] == len(ids)


def test_query_count(files, tmp_path, data):
    expected = [len(brute(data, 6, j)[0]) for j in range(M)]
    document = json.loads(succeed("query", files / "x.hs", files / "q.npy", "--tau", 6, "--count", "--json"))
    assert [answer["total"] for answer in document["answers"]] == expected
    assert document["hits"] == sum(expected)
    succeed("query", files / "x.hs", files / "q.npy", "--tau", 6, "--count", "-o", tmp_path / "hits.npz")
    with np.load(tmp_path / "hits.npz") as hits:
        assert hits.files == ["totals"]
        assert hits["totals"].tolist() == expected
    assert str(expected[0]) in succeed("query", files / "x.hs", files / "q.npy", "--tau", 6, "--count")


def test_query_without_scores(files, tmp_path):
    succeed("query", files / "x.hs", files / "q.npy", "--tau", 6, "--no-scores", "-o", tmp_path / "hits.npz")
    with np.load(tmp_path / "hits.npz") as hits:
        assert set(hits.files) == {"ids", "offsets", "totals"}
    assert "score" not in succeed("query", files / "x.hs", files / "q.npy", "--tau", 6, "--no-scores")


def test_query_table_and_explanation(files, data):
    text = succeed("query", files / "x.hs", files / "q.npy", "--tau", 2, "--explain", "--threads", 1)
    assert "direction" in text
    assert "more rows" in text
    assert "dot products" in text
    document = json.loads(succeed("query", files / "x.hs", files / "q.npy", "--tau", 2, "--explain", "--json"))
    assert [explained["hits"] for explained in document["explain"]] == [len(brute(data, 2, j)[0]) for j in range(3)]
    assert all(explained["stages"] for explained in document["explain"])


def test_query_without_directions_or_hits(files, tmp_path):
    np.save(tmp_path / "none.npy", np.empty((0, D), np.float32))
    for extra in ((), ("--count",), ("--explain",)):
        document = json.loads(succeed("query", files / "x.hs", tmp_path / "none.npy", "--tau", 1, "--json", *extra))
        assert (document["directions"], document["hits"], document["answers"]) == (0, 0, [])
    assert "0 hits" in succeed("query", files / "x.hs", files / "q.npy", "--tau", 1e9)


def test_query_bad_input(files, tmp_path, data):
    def bad(*arguments, directions=files / "q.npy", index=files / "x.hs"):
        return fail(2, "query", index, directions, *arguments)

    assert "'nan'" in bad("--tau", "nan")
    assert "'much'" in bad("--tau", "much")
    assert "absent.npy" in bad("--tau", tmp_path / "absent.npy")
    np.save(tmp_path / "tau.npy", np.zeros(M + 1))
    assert "tau.npy" in bad("--tau", tmp_path / "tau.npy")
    np.save(tmp_path / "tau.npy", np.array([0, 1, np.nan, 2, 3]))
    assert "tau of direction 2 is nan" in bad("--tau", tmp_path / "tau.npy")
    assert "absent.hs" in bad("--tau", 1, index=tmp_path / "absent.hs")
    assert "absent.npy" in bad("--tau", 1, directions=tmp_path / "absent.npy")
    assert "--count" in bad("--tau", 1, "--count", "--sort")
    assert "nowhere" in bad("--tau", 1, "-o", tmp_path / "nowhere" / "hits.npz")
    np.save(tmp_path / "wide.npy", np.zeros((2, D + 1)))
    line = bad("--tau", 1, directions=tmp_path / "wide.npy")
    assert "wide.npy" in line
    assert str(D + 1) in line
    (tmp_path / "huge.fbin").write_bytes(struct.pack("<II", 2**32 - 1, 0))  # 32 GiB of thresholds
    expected = f"huge.fbin: directions must have shape (n, {D}), as the index has {D} dimensions, got (4294967295, 0)"
    assert expected in bad("--tau", 1, directions=tmp_path / "huge.fbin")
    assert expected in fail(2, "search", files / "x.hs", tmp_path / "huge.fbin", "--tau", 1)
    infinite = data[1].copy()
    infinite[4, 1] = np.inf
    np.save(tmp_path / "inf.npy", infinite)
    assert "inf.npy: row 4, column 1: inf" in bad("--tau", 1, directions=tmp_path / "inf.npy")


def test_query_keeps_the_old_file_when_writing_fails(files, tmp_path, monkeypatch):
    output = tmp_path / "hits.npz"
    output.write_bytes(b"old")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device", "hits.npz")

    monkeypatch.setattr(np, "savez", full)
    assert "No space left" in fail(2, "query", files / "x.hs", files / "q.npy", "--tau", 1, "-o", output)
    assert output.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["hits.npz"]


# info and the rest


def test_info(files):
    document = json.loads(succeed("info", files / "x.hs", "--json"))
    assert document["bytes"] == (files / "x.hs").stat().st_size
    assert "verified" not in document
    assert json.loads(succeed("info", files / "x.hs", "--verify", "--json"))["verified"] is True
    text = succeed("info", files / "x.hs", "--verify")
    assert "float32" in text
    assert f"{N:,}" in text


def test_damaged_index(files, tmp_path):
    whole = (files / "x.hs").read_bytes()
    damaged = tmp_path / "damaged.hs"
    for content in (whole[:-64], whole[:100], b"", b"text" * 100):
        damaged.write_bytes(content)
        for arguments in (("info", damaged), ("query", damaged, files / "q.npy", "--tau", 1)):
            assert "damaged.hs" in fail(1, *arguments)
    flipped = bytearray(whole)
    flipped[-2000] ^= 4
    damaged.write_bytes(flipped)
    result = call("info", damaged, "--verify", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout.splitlines()[0])
    assert document["verified"] is False
    assert "damaged" in document["problem"]
    assert "damaged.hs" in fail(1, "info", damaged, "--verify")
    assert "damaged.hs" in fail(1, "query", damaged, files / "q.npy", "--tau", 1)


@pytest.mark.parametrize(
    "arguments",
    [("query",), ("query", "a", "b"), ("build", "a"), ("nonsense",), ("demo", "--top", "-1"), ("info", "a", "--what")],
)
def test_usage_errors(arguments):
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_help_and_version():
    assert {*SUFFIXES} <= {*re.split(r"[\[, ]+", halfspace.commands.FILES)}
    assert "halfspace" in succeed("--version")
    for command in ("demo", "build", "query", "info", "bench", "warmup"):
        assert command in call("--help").output
        assert call(command, "--help").exit_code == 0


def test_entry_point_in_a_pipe(files):
    """A reader that closes the pipe early is no reason for a traceback."""
    script = "from halfspace.cli import main; main()"
    command = [sys.executable, "-c", script, "query", files / "x.hs", files / "q.npy", "--tau", "-99", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(10) == b'{"index": '
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
