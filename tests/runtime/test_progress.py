"""Building that is watched, or cancelled by what watches it."""

import contextlib

import numpy as np
import pytest
from helpers.checking import FILTERS
from helpers.interrupts import DIMENSION, ROWS, Calls, Stop, exact, integers
from typer.testing import CliRunner

from halfspace import HalfspaceIndex, cli, scale_commands

pytestmark = pytest.mark.usefixtures("no_gc_callbacks")


@pytest.mark.parametrize("filter", FILTERS)
def test_progress_never_goes_back_and_ends_with_all(filter, rng):
    rows = ROWS.get(filter, 9000)
    vectors = integers(rng, rows, 200)
    index, inserted, merged, compacted, verified = (
        HalfspaceIndex(200, filter=filter),
        Calls(),
        Calls(),
        Calls(),
        Calls(),
    )
    index.insert(vectors, progress=inserted)
    inserted.check(rows)
    for _ in range(2):
        index.insert(vectors[:300])
    index.insert(vectors[:300], progress=merged)
    merged.check(300)
    index.compact(progress=compacted)
    compacted.check(rows + 900)
    index.verify(progress=verified)
    verified.check(rows + 900)
    for calls in (inserted, compacted, verified):
        halves = [done for done, total in calls.told if 0 < done < total]
        assert len(set(halves)) >= (1 if filter == "scan" else 3), calls.told


def test_progress_counts_what_is_merged(rng):
    index, calls = HalfspaceIndex(DIMENSION), Calls()
    for _ in range(3):
        index.insert(integers(rng, 300))
    index.insert(integers(rng, 300), progress=calls)
    calls.check(1200)
    index.insert(integers(rng, 0), progress=(none := Calls()))
    assert none.told == [(0, 0), (0, 0)]
    index.insert(integers(rng, 1)[0], progress=(one := Calls()))
    one.check(1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("filter", FILTERS)
def test_an_exception_of_progress_cancels(filter, threads, rng):
    vectors = integers(rng, ROWS.get(filter, 9000), 64)
    ids, direction = np.arange(len(vectors)), integers(rng, 1, 64)[0]
    index = HalfspaceIndex(64, filter=filter, threads=threads)
    index.insert(vectors[:1000])
    whole = Calls()
    HalfspaceIndex(64, filter=filter, threads=threads).insert(vectors[1000:], progress=whole)
    for number in {1, 2, 3, len(whole.told) // 2, len(whole.told) - 1}:
        for work in (lambda calls: index.insert(vectors[1000:], progress=calls), lambda c: index.compact(progress=c)):
            calls = Calls(number)
            try:
                work(calls)
            except Stop:
                assert len(calls.told) == number
            else:
                assert len(calls.told) < number
            assert len(index) == 1000
            exact(index, vectors[:1000], ids[:1000], direction, 30)
    last = Calls()
    assert index.insert(vectors[1000:], progress=last).tolist() == ids[1000:].tolist()
    exact(index, vectors, ids, direction, 30)


def test_the_command_line_shows_progress_of_every_long_step(rng, tmp_path, monkeypatch):
    seen = {}

    @contextlib.contextmanager
    def noted(text):
        seen[text] = Calls()
        yield seen[text]

    for module in (cli, scale_commands):
        monkeypatch.setattr(module, "progress", noted)
    np.save(tmp_path / "vectors.npy", integers(rng, 3000).astype(np.float32))
    built = CliRunner().invoke(cli.app, ["build", str(tmp_path / "vectors.npy"), "-o", str(tmp_path / "index")])
    assert built.exit_code == 0, built.output
    assert CliRunner().invoke(cli.app, ["info", str(tmp_path / "index"), "--verify"]).exit_code == 0
    assert list(seen) == ["reading", "building", "verifying"]
    for name, calls in seen.items():
        if name != "reading":  # of an array that is mapped, which takes no time
            calls.check(3000)
