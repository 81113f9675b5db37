"""``halfspace pairs``, ``groups`` and ``dedup``: tables that agree with the index, and refusals before any work."""

import json
import shutil
from collections import namedtuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.command import fail, succeed

from halfspace import HalfspaceIndex

N = 600


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(9)
    return rng.integers(1, 6, (N, 3)).astype(np.float32), rng.permutation(5 * N)[:N]


@pytest.fixture(scope="module")
def files(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("joins")
    np.save(folder / "x.npy", data[0])
    np.save(folder / "ids.npy", data[1])
    np.save(folder / "priority.npy", np.arange(N)[::-1])
    return folder


def made(data, metric="cosine"):
    index = HalfspaceIndex(3, metric=metric)
    index.insert(*data)
    return index


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize(("metric", "tau"), [("cosine", 0.995), ("l2", 1.0), ("ip", 60.0)])
def test_pairs(metric, tau, suffix, files, data, tmp_path):
    output = tmp_path / f"pairs{suffix}"
    name = "--radius" if metric == "l2" else "--tau"
    arguments = ["pairs", files / "x.npy", name, tau, "--metric", metric, "--ids", files / "ids.npy", "-o", output]
    summary = json.loads(succeed(*arguments, "--json"))
    expected = [tuple(pair) for pair in made(data, metric).pairs(tau)]
    assert summary["pairs"] == len(expected) > 100
    if suffix == ".parquet":
        rows = zip(*pq.read_table(output).to_pydict().values(), strict=True)
    elif suffix == ".csv":
        lines = [line.split(",") for line in output.read_text().splitlines()]
        assert lines[0] == ["id_a", "id_b", "score"]
        rows = ((int(a), int(b), float(np.float32(score))) for a, b, score in lines[1:])
    else:
        rows = (tuple(json.loads(line).values()) for line in output.read_text().splitlines())
        rows = ((a, b, float(np.float32(score))) for a, b, score in rows)
    assert sorted(rows) == expected


def test_groups(files, data, tmp_path):
    output = tmp_path / "groups.parquet"
    shown = succeed("groups", files / "x.npy", "--tau", 0.99, "--ids", files / "ids.npy", "-o", output)
    index = made(data)
    table = pq.read_table(output)
    assert table["id"].to_pylist() == index.ids.tolist()
    assert table["group"].to_pylist() == index.groups(0.99).tolist()
    assert str(len(np.unique(index.groups(0.99)))) in shown


def test_dedup(files, data, tmp_path):
    output = tmp_path / "kept.csv"
    index = made(data)
    order = np.argsort(data[1])
    for options, priority in (([], None), (["--priority", files / "priority.npy"], np.arange(N)[::-1][order])):
        succeed("dedup", files / "x.npy", "--tau", 0.99, "--ids", files / "ids.npy", "-o", output, *options)
        kept = [int(line) for line in output.read_text().splitlines()[1:]]
        assert kept == index.representatives(0.99, priority=priority).tolist()
        assert 0 < len(kept) < N


def test_what_would_not_fit_the_disk_is_refused_before_it_begins(files, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(100, 90, 10))
    output = tmp_path / "pairs.parquet"
    error = fail(2, "pairs", files / "x.npy", "--tau", 0.9, "-o", output)
    assert "--force" in error
    assert not output.exists()
    succeed("pairs", files / "x.npy", "--tau", 0.9, "-o", output, "--force")
    assert output.exists()


def test_refusals_name_the_file(files, tmp_path):
    output = tmp_path / "out.parquet"
    assert "unknown suffix" in fail(2, "pairs", files / "x.npy", "--tau", 0.9, "-o", tmp_path / "out.txt")
    assert "is the input" in fail(2, "dedup", files / "x.npy", "--priority", output, "-o", _touched(output))
    assert "priority" in fail(2, "dedup", files / "x.npy", "--priority", files / "x.npy", "-o", tmp_path / "a.csv")
    assert "--tau" in fail(2, "dedup", files / "x.npy", "--metric", "l2", "-o", tmp_path / "a.csv")
    assert "tau" in fail(2, "groups", files / "x.npy", "--tau", "nan", "-o", output)


def test_a_priority_that_is_no_number_is_named_by_its_row(files, tmp_path):
    bad = np.zeros(N)
    bad[3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    options = ["--ids", files / "ids.npy", "--priority", tmp_path / "bad.npy", "-o", tmp_path / "kept.csv"]
    assert "bad.npy: row 3: nan" in fail(2, "dedup", files / "x.npy", *options)


def _touched(path):
    path.touch()
    return path
