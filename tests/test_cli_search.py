"""``halfspace search``: the k best in their order, on the terminal, as JSON and in files."""

import csv
import json

import numpy as np
import pytest
from helpers.command import call, fail, succeed

import halfspace.commands
from halfspace import HalfspaceIndex

N, D, M = 700, 12, 5


@pytest.fixture(scope="module")
def data():
    """Small integers, so that float64 is exact and ties are many."""
    rng = np.random.default_rng(5)
    return rng.integers(-4, 5, (N, D)).astype(np.float32), rng.integers(-3, 4, (M, D)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory, data):
    """Directions q.npy, and an index of each metric, all in one folder."""
    folder = tmp_path_factory.mktemp("search")
    np.save(folder / "q.npy", data[1])
    for metric in ("ip", "l2"):
        index = HalfspaceIndex(D, metric=metric)
        index.insert(data[0])
        index.save(folder / f"{metric}.hs")
    return folder


def best(metric, data, j, k, tau=None):
    """Ids of the k best, ties by id, and their scores."""
    vectors, q = data[0].astype(np.float64), data[1][j].astype(np.float64)
    scores = vectors @ q if metric == "ip" else np.sqrt(((vectors - q) ** 2).sum(axis=1))
    sign = 1 if metric == "l2" else -1
    order = np.lexsort((np.arange(N), sign * scores))
    reached = order if tau is None else order[sign * scores[order] <= sign * tau]
    return reached[:k].tolist(), scores[reached[:k]].astype(np.float32).tolist()


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("k", [0, 1, 30])
def test_the_best_come_first(metric, k, files, data):
    document = json.loads(succeed("search", files / f"{metric}.hs", files / "q.npy", "-k", k, "--json"))
    assert document["hits"] == k * M
    assert len(document["answers"]) == M
    for j, answer in enumerate(document["answers"]):
        assert (answer["ids"], answer["scores"]) == best(metric, data, j, k)
        assert answer["total"] == k
        assert "tau" not in answer


def test_ten_are_found_and_shown(files, data):
    text = succeed("search", files / "ip.hs", files / "q.npy")
    assert f"{M} directions, {10 * M} hits" in text
    ids, scores = best("ip", data, 0, 10)
    for id, score in zip(ids, scores, strict=True):
        assert any(row.split()[:2] == ["0", str(id)] and float(row.split()[2]) == score for row in text.splitlines())


@pytest.mark.parametrize(("metric", "tau", "option"), [("ip", 30.0, "--tau"), ("l2", 8.0, "--radius")])
def test_thresholds_count_too(metric, tau, option, files, tmp_path, data):
    index, q = files / f"{metric}.hs", files / "q.npy"
    document = json.loads(succeed("search", index, q, "-k", 20, option, tau, "--json", "--threads", 1))
    taus = np.array([tau, np.inf, tau + 1, tau, -np.inf])
    np.save(tmp_path / "tau.npy", taus)
    each = json.loads(succeed("search", index, q, "-k", 20, option, tmp_path / "tau.npy", "--json"))
    for j in range(M):
        for answers, own in ((document, tau), (each, taus[j])):
            answer = answers["answers"][j]
            assert (answer["ids"], answer["scores"]) == best(metric, data, j, 20, own)
            assert answer["total"] == len(answer["ids"])
            assert float(answer["tau"]) == own


def test_files_of_what_was_found(files, tmp_path, data, monkeypatch):
    expected = [best("ip", data, j, 7) for j in range(M)]
    monkeypatch.setattr(halfspace.commands, "_CHUNK_ROWS", 2)
    assert "hits.npz" in succeed("search", files / "ip.hs", files / "q.npy", "-k", 7, "-o", tmp_path / "hits.npz")
    with np.load(tmp_path / "hits.npz") as hits:
        assert set(hits.files) == {"ids", "scores", "offsets", "totals"}
        assert hits["ids"].tolist() == [id for ids, _ in expected for id in ids]
        assert hits["scores"].tolist() == [score for _, scores in expected for score in scores]
        assert hits["offsets"].tolist() == [7 * j for j in range(M + 1)]
    succeed("search", files / "ip.hs", files / "q.npy", "-k", 7, "-o", tmp_path / "hits.csv")
    with open(tmp_path / "hits.csv", newline="") as lines:
        rows = [(int(row["query"]), int(row["id"]), float(row["score"])) for row in csv.DictReader(lines)]
    assert rows == [(j, *pair) for j, answer in enumerate(expected) for pair in zip(*answer, strict=True)]


def test_no_directions(files, tmp_path):
    np.save(tmp_path / "none.npy", np.empty((0, D), np.float32))
    document = json.loads(succeed("search", files / "ip.hs", tmp_path / "none.npy", "--json"))
    assert (document["directions"], document["hits"], document["answers"]) == (0, 0, [])


def test_mistakes_are_named(files, tmp_path):
    index, q = files / "ip.hs", files / "q.npy"
    assert call("search", index, q, "-k", "-1").exit_code == 2
    assert "--tau 'x' is neither" in fail(2, "search", index, q, "--tau", "x")
    assert "q.npy" in fail(2, "search", index, q, "-o", q)
    assert "hits.txt" in fail(2, "search", index, q, "-o", tmp_path / "hits.txt")
    assert "missing.hs" in fail(2, "search", tmp_path / "missing.hs", q)
    np.save(tmp_path / "bad.npy", np.array([[1.0] * D, [np.nan] * D]))
    line = fail(2, "search", index, tmp_path / "bad.npy")
    assert "bad.npy" in line
    assert "1" in line
