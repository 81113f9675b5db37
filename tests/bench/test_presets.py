"""Sets that are searched within a radius: their thresholds, their files, and the answers that came with them."""

import json
import math
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.command import fail, succeed

from halfspace.bench import exact_hits
from halfspace.bench.presets import PRESETS, resolve, table

ROOT = Path(__file__).parents[2]
FAST = ["--engines", "halfspace,numpy", "--rounds", 1, "--threads", 1]


def four_squares(total):
    """Four integers whose squares add up to a number, as Lagrange proved that there are."""
    for a in range(math.isqrt(total), -1, -1):
        for b in range(math.isqrt(total - a * a), -1, -1):
            for c in range(math.isqrt(total - a * a - b * b), -1, -1):
                d = math.isqrt(left := total - a * a - b * b - c * c)
                if d * d == left:
                    return a, b, c, d
    raise AssertionError(total)


@pytest.mark.parametrize("name", PRESETS)
def test_what_lies_on_the_boundary_is_within(name):
    preset = PRESETS[name]
    limit, tau = Fraction(preset.limit), Fraction(preset.tau)
    if preset.metric == "ip":
        assert abs(tau - limit) <= limit * Fraction(2) ** -53
        return
    assert limit <= tau**2 < limit * (1 + Fraction(2) ** -51)
    if limit.denominator == 1:  # the squares of integers: the limit, and one more
        rows = np.float32([four_squares(int(limit) + more) for more in (0, 1)])
        assert (rows.astype(int) ** 2).sum(axis=1).tolist() == [limit, limit + 1]
        assert exact_hits(rows, np.zeros((1, 4), np.float32), preset.tau, "l2")[1].tolist() == [0]


@pytest.fixture
def folder(tmp_path):
    """A folder of integers, as bigann has them, and of their answers: one is wrong."""
    rng = np.random.default_rng(1)
    vectors, directions = rng.integers(0, 64, (300, 16), "u1"), rng.integers(0, 64, (8, 16), "u1")
    for name, array in (("base.1B.u8bin.crop_nb_300", vectors), ("query.public.10K.u8bin", directions)):
        (tmp_path / name).write_bytes(struct.pack("<II", *array.shape) + array.tobytes())
    differences = vectors[None].astype(int) - directions[:, None]
    hits = (differences**2).sum(axis=2) <= 10_000
    assert 0 < hits[0].sum() < 300
    hits[0, np.flatnonzero(hits[0])[0]] = False
    ids = np.nonzero(hits)[1]
    numbers = [len(hits), len(ids), *hits.sum(axis=1), *ids]
    (tmp_path / "gt.rangeres").write_bytes(np.array(numbers, "<i4").tobytes())
    return tmp_path


def test_a_set_is_found_in_its_folder(folder):
    own = json.loads(succeed("bench", folder, "--preset", "bigann", "--json", *FAST))["comparisons"][0]
    files = folder / "base.1B.u8bin.crop_nb_300", folder / "query.public.10K.u8bin"
    named = json.loads(succeed("bench", *files, "--preset", "bigann", "--json", *FAST))["comparisons"][0]
    plain = json.loads(succeed("bench", *files, "--metric", "l2", "--radius", 100, "--json", *FAST))["comparisons"][0]
    assert own["hits"] == named["hits"] == plain["hits"] > 0
    assert own["metric"] == "l2"
    assert all(row["wrong"] == 0 for row in own["rows"])


def test_files_that_only_begin_like_those_of_a_set_are_passed_over(folder):
    name = "base.1B.u8bin.crop_nb_"
    for other in ("300.aria2", "", "x300", "300x", "_300", "3.crop_nb_300.part"):
        (folder / f"{name}{other}").write_bytes(b"")
    assert resolve("bigann", str(folder), None)[1] == str(folder / f"{name}300")
    (folder / f"{name}300").unlink()
    with pytest.raises(ValueError, match=r"there is neither base\.1B\.u8bin nor"):
        resolve("bigann", str(folder), None)


def test_answers_that_came_with_a_set_are_judged(folder):
    question = ("bench", folder, "--preset", "bigann", "--answers", folder / "gt.rangeres", "--json", *FAST)
    found = json.loads(succeed(*question))["comparisons"][0]
    assert found["known"].startswith(
        "Of the answers that came with the vectors, 1 of 8 are not the exact set: recall 9"
    )
    assert found["known"].endswith(", 0 false positives.")
    some = json.loads(succeed(*question, "--queries", 4, "--first", 200))["comparisons"][0]
    assert (some["vectors"], some["directions"]) == (200, 4)
    assert " 1 of 4 are not" in some["known"] or " 0 of 4 are not" in some["known"]
    shown = succeed(*(word for word in question if word != "--json"))
    assert found["known"] in shown


def test_what_cannot_be_meant_is_refused(folder, tmp_path):
    assert "--preset must be one of" in fail(2, "bench", folder, "--preset", "sift")
    assert "it goes without --metric" in fail(2, "bench", folder, "--preset", "bigann", "--tau", 1)
    assert "give the folder of base.1B.u8bin and query.public.10K.u8bin" in fail(2, "bench", "--preset", "bigann")
    assert "neither base.1B.fbin nor" in fail(2, "bench", folder, "--preset", "deep")
    (folder / "base.1B.u8bin.crop_nb_100").write_bytes(b"")
    assert "several may be meant: base.1B.u8bin.crop_nb_100, " in fail(2, "bench", folder, "--preset", "bigann")
    files = (folder / "base.1B.u8bin.crop_nb_300", folder / "query.public.10K.u8bin", "--preset", "bigann")
    (folder / "few.rangeres").write_bytes(struct.pack("<3i", 1, 0, 0))
    assert "answers of 1 directions, where there are 8" in fail(
        2, "bench", *files, "--answers", folder / "few.rangeres"
    )
    (folder / "far.rangeres").write_bytes(struct.pack("<11i", 8, 1, *[1, *[0] * 7], 300))
    assert "one has the id 300" in fail(2, "bench", *files, "--answers", folder / "far.rangeres")
    assert "--first and --answers go with files" in fail(2, "bench", "--first", 3)


def test_the_page_and_the_help_have_all_sets(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert table() in (ROOT / "docs/benchmarks.md").read_text("utf-8")
    *names, last = PRESETS
    assert f"{', '.join(names)} or {last}." in succeed("bench", "--help")
