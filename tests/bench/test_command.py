"""``halfspace bench`` end to end, its verdict, and its picture."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.command import fail, succeed

from halfspace.bench import Row, gaussian
from halfspace.bench.contest import Timing
from halfspace.bench.machine import processors
from halfspace.bench.report import Report, duration, markdown, two_digits, verdict

FAST = ["--engines", "halfspace,numpy,faiss-flat,faiss-hnsw,sklearn-balltree", "--rounds", 1, "--threads", 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    np.save(folder / "x.npy", gaussian(500, 24, 1))
    np.save(folder / "q.npy", gaussian(6, 24, 2))
    np.save(folder / "tau.npy", np.linspace(4, 9, 6))
    return folder


def test_json(folder):
    found = json.loads(succeed("bench", folder / "x.npy", folder / "q.npy", "--share", 0.02, "--json", *FAST))
    (comparison,) = found["comparisons"]
    assert (comparison["vectors"], comparison["dim"], comparison["directions"], comparison["hits"]) == (500, 24, 6, 60)
    assert [row["label"] for row in comparison["rows"]][:4] == [
        "halfspace",
        "numpy",
        "faiss-flat",
        "faiss-hnsw efSearch=16",
    ]
    assert comparison["rows"][0]["wrong"] == 0
    assert "reads everything" in comparison["left_out"]["sklearn-balltree"]
    assert "500 vectors are few" in comparison["verdict"]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_metrics(folder, metric):
    names = "halfspace,numpy,numpy-direct,faiss-flat,faiss-lsh,sklearn-brute,usearch-exact"
    own = ("--metric", metric, "--engines", names, "--rounds", 1, "--threads", 1)
    question = ("bench", folder / "x.npy", folder / "q.npy", "--share", 0.02, "--json")
    (comparison,) = json.loads(succeed(*question, *own))["comparisons"]
    assert (comparison["metric"], comparison["hits"]) == (metric, 60)
    assert all(row["wrong"] == 0 for row in comparison["rows"] if row["exact"])
    assert comparison["left_out"] == ({"faiss-lsh": "has no metric 'l2'"} if metric == "l2" else {})
    shown = succeed("bench", folder / "x.npy", folder / "q.npy", "--radius", 0.25, *own)
    assert f"metric {metric}" in shown


def test_table_picture_and_files(folder):
    files = [folder / name for name in ("p.svg", "p.png", "o.md", "o.json")]
    for plot, output in zip(files[:2], files[2:], strict=True):
        question = ["--tau", folder / "tau.npy", "--batch", 4, "--queries", 3, "--plot", plot, "-o", output]
        shown = succeed("bench", folder / "x.npy", folder / "q.npy", *question, *FAST)
        assert "x.npy: 500 vectors of 24 dimensions, 3 directions 3 at once" in shown
        assert "left out: sklearn-balltree" in shown
        last = shown.splitlines()[-1]
        assert "halfspace" in last or last.startswith("Other programs were at work")
    assert files[0].read_text().startswith("<?xml")
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "| halfspace |" in files[2].read_text()
    assert json.loads(files[3].read_text())["comparisons"][0]["batch"] == 4


def test_bad_input(folder):
    x, q = folder / "x.npy", folder / "q.npy"
    assert "give one of --tau and --share" in fail(2, "bench", x, q)
    assert "give one of --tau and --share" in fail(2, "bench", x, q, "--tau", 1, "--share", 0.1)
    assert "go with files" in fail(2, "bench", "--tau", 1)
    assert "one of directions" in fail(2, "bench", x)
    assert "engine must be one of" in fail(2, "bench", x, q, "--tau", 1, "--engines", "annoy")
    assert "sklearn-balltree: reads everything" in fail(2, "bench", x, q, "--tau", 1, "--engines", "sklearn-balltree")
    assert "--share must be" in fail(2, "bench", x, q, "--share", 2)
    assert "not a number" in fail(2, "bench", x, q, "--tau", "nan")
    assert "known are .svg" in fail(2, "bench", x, q, "--tau", 1, "--plot", folder / "p.gif")
    assert "no such folder" in fail(2, "bench", x, q, "--tau", 1, "-o", folder / "none" / "o.md")
    assert "none.npy" in fail(2, "bench", folder / "none.npy", q, "--tau", 1)
    np.save(folder / "bad.npy", np.array([[1.0, np.nan]]))
    np.save(folder / "two.npy", np.ones((3, 2)))
    np.save(folder / "zero.npy", np.zeros((3, 24)))
    assert "row 0 is zero" in fail(2, "bench", x, folder / "zero.npy", "--tau", 1, "--metric", "cosine")
    assert "metric must be one of" in fail(2, "bench", x, q, "--tau", 1, "--metric", "l1")
    np.save(folder / "no.npy", np.ones((0, 2)))
    assert "row 0 is not finite" in fail(2, "bench", folder / "bad.npy", folder / "two.npy", "--tau", 1)
    assert "holds no vectors" in fail(2, "bench", folder / "two.npy", folder / "no.npy", "--tau", 1)
    assert "directions have 24 dimensions, the vectors 2" in fail(2, "bench", folder / "two.npy", q, "--tau", 1)


def test_the_library_does_not_import_it():
    code = (
        "import sys, halfspace, halfspace.cli; sys.exit('halfspace.bench' in sys.modules or 'numpy' not in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# verdict


def row(name, median, wrong=0, recall=1.0, false=0):
    return Row(name, name, {}, True, 1.0, 1, median, median, median, 1.0, recall, false, wrong, 32, 100)


def test_verdict_says_that_brute_force_is_better():
    rows = [row("halfspace", 2e-3), row("numpy", 1e-3, wrong=3), row("faiss-flat", 4e-3)]
    said = verdict(rows, 5000).splitlines()
    assert said[0] == (
        "NumPy is the better choice for speed, 2.0 times as fast as halfspace; "
        "3 of its 32 answers were not the exact set."
    )
    assert said[1] == "halfspace is 2.0 times as fast as FAISS Flat; its answers were exact."
    assert "5,000 vectors are few" in said[2]
    assert "that missed nothing is numpy: 2.0 times the speed of halfspace" in said[3]


def test_verdict_names_the_fastest():
    rows = [row("halfspace", 1e-3), row("numpy", 8e-3), row("faiss-ivf", 5e-4, wrong=30, recall=0.99999, false=2)]
    said = verdict(rows, 10**6).splitlines()
    assert said[1].startswith("The fastest other engine that missed nothing is numpy: halfspace is 8.0 times as fast;")
    assert len(said) == 3
    assert said[2] == (
        "The fastest other engine with 99 % of the hits is faiss-ivf: 2.0 times the speed of halfspace; "
        "recall 99.99 %, 2 false positives, 30 of 32 answers wrong."
    )
    sketchy = [*rows, row("faiss-hnsw", 3e-4, recall=0.96), row("faiss-lsh", 1e-4, recall=0.4)]
    named = [line.partition(":")[0] for line in verdict(sketchy, 10**6).splitlines()[3:]]
    assert named == [
        "The fastest other engine with 95 % is faiss-hnsw",
        "The fastest other engine overall is faiss-lsh",
    ]
    assert "few" not in "".join(said)
    assert "please report it" in verdict([replace(rows[0], wrong=1)], 10**6)
    assert verdict(rows[1:], 10**6) == ""


def test_durations():
    assert [duration(s) for s in (2.0, 0.0123, 1.5e-5, 4e-8, 1234.0)] == [
        "2.0 s",
        "12 ms",
        "15 us",
        "0.04 us",
        "1,200 s",
    ]


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0123, "0.012"), (0.994, "0.99"), (0.996, "1.0"), (9.94, "9.9"), (9.96, "10"), (99.6, "100"), (27.4, "27")],
)
def test_numbers_have_two_digits(value, written):
    assert two_digits(value) == written


def test_a_busy_machine_is_named():
    report = Report("data", "ip", 100, 4, 1, 1, 2, 1, 5, [row("halfspace", 1e-3)], {})
    assert report.warning is None
    assert replace(report, processors=1.9).warning is None
    busy = replace(report, processors=1.2)
    assert "2 threads got no more than 1.2 processors" in busy.warning
    assert busy.said == [busy.warning]
    assert busy.warning in markdown([busy])
    assert report.said == verdict(report.rows, 100).splitlines()
    assert busy.document()["warning"] == busy.warning
    waiting = replace(report, rows=[replace(report.rows[0], waited=0.4)])
    assert "waited for a processor in up to 40 % of their time" in waiting.warning


def test_waiting_is_what_no_thread_ran():
    assert Timing((1.0, 2.0, 4.0), (0.5, 2.0, 8.0)).waited == 0
    assert Timing((1.0, 2.0, 4.0), (0.5, 1.5, 1.0)).waited == 0.5
    assert Timing((1.0,)).waited == 0


def test_processors_are_counted():
    assert 0 < processors(1, 0.02) <= 1.05
    assert 0 < processors(2, 0.02) <= 2.1


def test_each_device_has_its_verdict():
    rows = [row("halfspace", 2e-3), row("numpy", 4e-3), row("halfspace-gpu", 2e-4), row("torch", 1e-4, wrong=1)]
    said = verdict(rows, 50_000)
    assert "halfspace is 2.0 times as fast as NumPy" in said
    assert "PyTorch is the better choice for speed, 2.0 times as fast as halfspace-gpu; 1 of its 32" in said
    assert verdict(rows[2:], 50_000).splitlines()[0].startswith("PyTorch")
    assert verdict(rows[1:2], 50_000) == ""
