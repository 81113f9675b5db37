"""Index files of vectors that come in pieces: the same answers, in bounded memory, and nothing is lost by a kill."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from helpers.checking import identical
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import halfspace
from halfspace import HalfspaceIndex, building
from halfspace.files import growing

N, D = 1000, 6


@pytest.fixture
def small_segments(monkeypatch):
    """Segments of at most 128 rows, so that a thousand rows are many of them."""
    monkeypatch.setattr(building, "LEAST_ROWS", 1)
    monkeypatch.setattr(building, "MOST_ROWS", 128)


@pytest.fixture
def vectors(rng):
    return rng.integers(-4, 5, (N, D)).astype(np.float32)


def brute(vectors, directions, tau, ids=None):
    """Of small integers, exactly."""
    reached = vectors.astype(np.int64) @ directions.astype(np.int64).T >= tau
    ids = np.arange(len(vectors)) if ids is None else ids
    return [sorted(ids[column].tolist()) for column in reached.T]


def check(index, vectors, ids=None):
    directions = np.random.default_rng(1).integers(-3, 4, (5, D)).astype(np.float32)
    assert [hits.ids.tolist() for hits in index.query(directions, 9)] == brute(vectors, directions, 9, ids)
    index.verify()
    assert index.ids.tolist() == sorted(range(len(vectors)) if ids is None else ids)


def pieces(vectors, *ends):
    return iter(np.split(vectors, ends))


def table(vectors, ids=None):
    columns = {"embedding": pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), D)}
    return pyarrow.table(columns | ({} if ids is None else {"id": ids}))


def test_few_rows_are_written_as_save_writes_them(tmp_path, vectors):
    index = HalfspaceIndex(D)
    index.insert(vectors)
    index.compact()
    index.save(tmp_path / "saved")
    built = halfspace.build(tmp_path / "built", vectors)
    assert (tmp_path / "built").read_bytes() == (tmp_path / "saved").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "saved"]
    check(built, vectors)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_kind_of_source_gives_the_same_file(tmp_path, vectors, small_segments, dtype):
    np.save(tmp_path / "x.npy", vectors)
    folder = tmp_path / "parts"
    folder.mkdir()
    parquet.write_table(table(vectors[:400]), folder / "a.parquet", row_group_size=70)
    parquet.write_table(table(vectors[400:]), folder / "b.parquet")
    whole = table(vectors)
    sources = [
        (vectors, {}),
        (vectors.tolist(), {}),
        (np.load(tmp_path / "x.npy", mmap_mode="r"), {}),
        (tmp_path / "x.npy", {}),
        (pieces(vectors, 1, 3, 500, 500, 999), {}),
        (folder, {}),
        (f"{folder}/*.parquet:embedding", {}),
        (whole, {"column": "embedding"}),
        (whole.to_batches(max_chunksize=37), {"column": "embedding"}),
        (pyarrow.RecordBatchReader.from_batches(whole.schema, whole.to_batches()), {"column": "embedding"}),
    ]
    files = set()
    for number, (source, options) in enumerate(sources):
        index = halfspace.build(tmp_path / f"{number}", source, dtype=dtype, **options)
        files.add((tmp_path / f"{number}").read_bytes())
        assert index.stats()["segments"] == 8
    assert len(files) == 1
    check(index, vectors)
    loaded = HalfspaceIndex.load(tmp_path / "0")
    loaded.compact()
    check(loaded, vectors)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("filter", ["auto", "cells", "groups", "scan"])
def test_metrics_and_filters(tmp_path, vectors, small_segments, metric, filter):
    vectors[:, 0] = 5  # none is zero
    index = HalfspaceIndex(D, metric=metric, filter=filter)
    index.insert(vectors)
    built = halfspace.build(tmp_path / "x", pieces(vectors, 311), metric=metric, filter=filter)
    assert (built.metric, built.filter) == (metric, filter)
    for tau in (0.5, 3.0):
        identical(index.query(vectors[:7], tau), built.query(vectors[:7], tau))
    identical(index.search(vectors[:7], 5), built.search(vectors[:7], 5))
    built.verify()


def test_ids(tmp_path, vectors, small_segments, rng):
    ids = rng.permutation(10 * N)[:N] - 5 * N
    for name, source, options in (
        ("array", vectors, {"ids": ids}),
        ("stream", pieces(vectors, 5, 300), {"ids": ids}),
        ("table", table(vectors, ids), {"column": "embedding", "ids": "id"}),
    ):
        index = halfspace.build(tmp_path / name, source, **options)
        check(index, vectors, ids)
        firsts = [segment.ends[0] for segment in index._snapshot.sealed]
        assert firsts == sorted(firsts)
        assert index._snapshot.next_id == max(0, ids.max() + 1)
    parquet.write_table(table(vectors, ids), tmp_path / "x.parquet", row_group_size=100)
    check(halfspace.build(tmp_path / "y", tmp_path / "x.parquet", column="embedding", ids="id"), vectors, ids)


@pytest.mark.parametrize("memory", [None, 4000])
def test_an_id_that_comes_twice_is_refused(tmp_path, vectors, small_segments, rng, memory):
    ids = rng.permutation(N)
    ids[900] = ids[3]
    with pytest.raises(ValueError, match=f"id {ids[3]} is given twice"):
        halfspace.build(tmp_path / "x", table(vectors, ids), column="embedding", ids="id", memory=memory)
    with pytest.raises(ValueError, match=f"id {ids[3]} is given twice"):
        halfspace.build(tmp_path / "x", vectors, ids=ids)
    ids[4] = ids[3]
    with pytest.raises(ValueError, match=f"source: id {ids[3]} is given twice"):
        halfspace.build(tmp_path / "y", table(vectors, ids), column="embedding", ids="id")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


def test_what_is_wrong_is_named(tmp_path, vectors, small_segments):
    path = tmp_path / "x"
    bad = vectors.copy()
    bad[777, 2] = np.nan
    with pytest.raises(ValueError, match=r"source: row 777, column 2: nan in float32"):
        halfspace.build(path, pieces(bad, 300, 776))
    parquet.write_table(table(bad), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: row 777, column 2: nan in float32"):
        halfspace.build(tmp_path / "z", tmp_path / "x.parquet")
    bad[777] = 0
    with pytest.raises(ValueError, match=r"row 777 is zero"):
        halfspace.build(tmp_path / "y", bad, metric="cosine")
    with pytest.raises(ValueError, match=r"give dim"):
        halfspace.build(tmp_path / "y", iter([]))
    with pytest.raises(ValueError, match=r"shape \(7,\) or \(n, 7\)"):
        halfspace.build(tmp_path / "y", vectors, dim=7)
    with pytest.raises(ValueError, match=r"no column named 'other'"):
        halfspace.build(tmp_path / "y", table(vectors), column="other")
    with pytest.raises(ValueError, match=r"ids must have shape \(1000,\)"):
        halfspace.build(tmp_path / "y", vectors, ids=[1, 2])
    with pytest.raises(ValueError, match=r"names a column"):
        halfspace.build(tmp_path / "y", vectors, ids="id")
    with pytest.raises(ValueError, match="no file"):
        halfspace.build(tmp_path / "y", tmp_path / "none*.parquet")
    assert len(halfspace.build(tmp_path / "empty", iter([]), dim=4)) == 0
    assert not path.exists()


class Stop(Exception):
    pass


@settings(max_examples=15)
@given(at=st.lists(st.integers(0, 1000), min_size=1, max_size=4), kind=st.sampled_from(["array", "stream", "parquet"]))
def test_what_is_finished_is_kept(at, kind, tmp_path_factory):
    """Stopped wherever it may be, and begun anew: the same bytes, and finished rows are not derived again."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(-4, 5, (N, D)).astype(np.float32)
    folder = tmp_path_factory.mktemp("kept")
    parquet.write_table(table(vectors), folder / "x.parquet", row_group_size=90)
    make = {
        "array": lambda: vectors,
        "stream": lambda: pieces(vectors, 100, 101, 640),
        "parquet": lambda: folder / "x.parquet",
    }[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "LEAST_ROWS", 1)
        patch.setattr(building, "MOST_ROWS", 128)
        halfspace.build(folder / "whole", make())
        for rows in at:

            def progress(done, total, rows=rows):
                if done >= rows and done != total:
                    raise Stop

            try:
                halfspace.build(folder / "x", make(), progress=progress)
                break
            except Stop:
                pass
        else:
            journal, seen = folder / "x.building.json", []
            kept = json.loads(journal.read_text())["told"]["done"] if journal.exists() else 0

            def noted(done, total, seen=seen):
                seen.append(done)

            check(halfspace.build(folder / "x", make(), progress=noted), vectors)
            assert max(seen[:2]) >= kept - 1
    assert (folder / "x").read_bytes() == (folder / "whole").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"x", "whole", "x.parquet"}


def test_what_was_begun_otherwise_is_left_alone(tmp_path, vectors, small_segments):
    def stop(done, total):
        if done > 500:
            raise Stop

    with pytest.raises(Stop):
        halfspace.build(tmp_path / "x", pieces(vectors, 300), progress=stop)
    before = (tmp_path / "x.building").read_bytes()
    with pytest.raises(ValueError, match="was begun with dtype 'float32', not 'float16'; remove it"):
        halfspace.build(tmp_path / "x", pieces(vectors, 300), dtype="float16")
    other = vectors.copy()
    other[511] += 1
    with pytest.raises(ValueError, match="row 511 differs"):
        halfspace.build(tmp_path / "x", pieces(other, 300))
    with pytest.raises(ValueError, match="row 511 differs"):
        halfspace.build(tmp_path / "x", pieces(vectors[:500], 300))
    assert (tmp_path / "x.building").read_bytes() == before
    check(halfspace.build(tmp_path / "x", pieces(vectors, 300)), vectors)


def test_two_processes_do_not_write_one_file(tmp_path, vectors, small_segments):
    def progress(done, total):
        if done:
            with pytest.raises(ValueError, match="another process is at it"):
                halfspace.build(tmp_path / "x", vectors)

    check(halfspace.build(tmp_path / "x", pieces(vectors, 300), progress=progress), vectors)


def test_a_header_that_outgrows_its_room(tmp_path, vectors, small_segments, monkeypatch):
    monkeypatch.setattr(growing, "ROOM", 64)
    check(halfspace.build(tmp_path / "x", vectors), vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_replaces_a_file_and_keeps_its_permissions(tmp_path, vectors, small_segments):
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "old")
    check(halfspace.build(tmp_path / "link", vectors), vectors)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="Not a regular file"):
        halfspace.build(tmp_path, vectors)


KILLED = """
import sys, time
import numpy as np
import halfspace
from halfspace import building

building.LEAST_ROWS, building.MOST_ROWS = 1, 128
vectors = np.load(sys.argv[1], mmap_mode="r")


def progress(done, total):
    print(done, flush=True)
    time.sleep(0.01)


halfspace.build(sys.argv[2], vectors, threads=1, progress=progress)
"""


def test_a_killed_process_loses_one_segment_at_most(tmp_path, vectors, small_segments):
    np.save(tmp_path / "x.npy", vectors)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", KILLED, tmp_path / "x.npy", tmp_path / "x"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) > 600:
                process.send_signal(signal.SIGKILL)
    assert json.loads((tmp_path / "x.building.json").read_text())["told"]["done"] >= 512
    assert not (tmp_path / "x").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout.splitlines()[1]) >= 512
    check(HalfspaceIndex.load(tmp_path / "x"), vectors)
