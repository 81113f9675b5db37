"""Folders of index files: the answers of one index, to the bit, however rows are dealt out; changes that are whole."""

import multiprocessing
import pickle

import numpy as np
import pytest
from helpers.checking import build, identical
from hypothesis import given, settings
from hypothesis import strategies as st

import halfspace
from halfspace import HalfspaceIndex, Shards, building
from halfspace.files import manifest

D = 5


def same(one, other, directions, tau):
    """Answers of all kinds, to the bit."""
    assert len(one) == len(other)
    assert one.ids.tolist() == other.ids.tolist()
    np.testing.assert_array_equal(one.vectors(one.ids), other.vectors(one.ids))
    for options in ({}, {"sort": True}, {"limit": 3}, {"sort": True, "limit": 3}, {"within": one.ids[::2]}):
        identical(one.query(directions, tau, **options), other.query(directions, tau, **options))
    for k in (0, 1, 4, 1000):
        identical(one.search(directions, k), other.search(directions, k))
    assert one.count(directions, tau).tolist() == other.count(directions, tau).tolist()
    pairs, others = one.pairs(tau), other.pairs(tau)
    assert pairs.to_arrow().equals(others.to_arrow())
    assert one.join(directions, tau).to_arrow().equals(other.join(directions, tau).to_arrow())
    assert one.join(other, tau).to_arrow().equals(other.join(one, tau).to_arrow())
    assert one.groups(tau).tolist() == other.groups(tau).tolist()
    assert one.representatives(tau).tolist() == other.representatives(tau).tolist()
    assert one.histogram([tau, tau + 1]).tolist() == other.histogram([tau, tau + 1]).tolist()


@settings(max_examples=12)
@given(
    cuts=st.lists(st.integers(0, 500), max_size=4),
    shard_rows=st.integers(40, 600),
    metric=st.sampled_from(["ip", "cosine", "l2"]),
    gone=st.lists(st.integers(0, 499), unique=True, max_size=60),
    seed=st.integers(0, 9),
)
def test_any_dealing_of_rows(cuts, shard_rows, metric, gone, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (500, D)).astype(np.float32)
    vectors[:, 0] = 1
    directions = rng.integers(-2, 3, (4, D)).astype(np.float32)
    directions[:, 1] = 1
    tau = {"ip": 4.0, "cosine": 0.7, "l2": 1.5}[metric]
    ids = rng.permutation(2000)[:500] - 700
    index = build(vectors, metric=metric, ids=ids)
    shards = Shards.create(folder / "x", D, metric=metric, shard_rows=shard_rows)
    for part in np.split(np.arange(500), sorted(cuts)):
        assert shards.insert(vectors[part], ids[part]).tolist() == ids[part].tolist()
    index.delete(ids[gone])
    shards.delete(ids[gone])
    same(index, shards, directions, tau)
    shards.verify()
    shards.compact()
    same(index, Shards(folder / "x"), directions, tau)
    shards.verify()
    assert all(shard.dead is None and shard.vectors <= shard_rows for shard in shards._manifest.shards)
    fresh = rng.integers(-2, 3, (9, D)).astype(np.float32)
    fresh[:, 0] = 1
    index.insert(fresh, ids[:9], replace=True)
    shards.insert(fresh, ids[:9], replace=True)
    assert index.insert(fresh + 3).tolist() == shards.insert(fresh + 3).tolist()
    same(index, shards, directions, tau)
    shards.save(folder / "one")
    same(HalfspaceIndex.load(folder / "one"), shards, directions, tau)


@pytest.fixture
def vectors(rng):
    return rng.integers(-3, 4, (300, D)).astype(np.float32)


@pytest.fixture
def shards(tmp_path, vectors):
    return Shards.build(tmp_path / "x", vectors, shard_rows=100)


def state(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_build(tmp_path, vectors, shards, rng):
    assert [path.name for path in shards.files] == [f"shard-00000{number}.index" for number in range(3)]
    directions = rng.standard_normal((3, D)).astype(np.float32)
    same(build(vectors), shards, directions, 7.0)
    ids = rng.permutation(300)
    for number, source in enumerate((vectors, iter(np.split(vectors, [13, 110, 200])))):
        other = Shards.build(tmp_path / f"{number}", source, ids=ids, shard_rows=110, dtype="float16")
        same(build(vectors, ids=ids, dtype="float16"), other, directions, 7.0)
        assert len(other.files) == 3
    assert len(Shards.build(tmp_path / "none", iter([]), dim=3)) == 0
    with pytest.raises(ValueError, match="holds shards already: open them"):
        Shards.build(tmp_path / "x", vectors)
    with pytest.raises(ValueError, match="holds shards already: open them"):
        Shards.create(tmp_path / "x", D)
    with pytest.raises(ValueError, match="id 5 is given twice"):
        Shards.build(tmp_path / "y", iter([vectors]), ids=np.r_[5, np.arange(299)], shard_rows=100)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [0, 40, 99, 100, 150, 250, 299])
@pytest.mark.parametrize("stream", [False, True])
def test_a_build_goes_on_where_it_was_stopped(tmp_path, vectors, at, stream, monkeypatch):
    monkeypatch.setattr(building, "LEAST_ROWS", 1)
    monkeypatch.setattr(building, "MOST_ROWS", 30)

    def source():
        return iter(np.split(vectors, [1, 77, 200])) if stream else vectors

    def stop(done, total):
        if done >= at and done != 300:
            raise Stop

    whole = Shards.build(tmp_path / "whole", source(), shard_rows=100)
    with pytest.raises(Stop):
        Shards.build(tmp_path / "x", source(), shard_rows=100, progress=stop)
    with pytest.raises(ValueError, match="was begun with shard_rows 100, not 90"):
        Shards.build(tmp_path / "x", source(), shard_rows=90)
    shards = Shards.build(tmp_path / "x", source(), shard_rows=100)
    assert state(tmp_path / "x").keys() == state(tmp_path / "whole").keys()
    for one, other in zip(shards.files, whole.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_source_that_changed_between_shards(tmp_path, vectors):
    def stop(done, total):
        if done >= 150:
            raise Stop

    with pytest.raises(Stop):
        Shards.build(tmp_path / "x", iter(np.split(vectors, 10)), shard_rows=100, progress=stop)
    other = vectors.copy()
    other[99] += 1
    with pytest.raises(ValueError, match="row 99 differs"):
        Shards.build(tmp_path / "x", iter(np.split(other, 10)), shard_rows=100)


@pytest.mark.parametrize("change", ["insert", "replace", "delete", "compact", "add"])
def test_a_change_that_fails_leaves_what_was(tmp_path, vectors, shards, change, monkeypatch):
    """Wherever writing fails, the folder answers as before, and the next change goes through."""
    shards.delete([3, 250])
    build(vectors[:5], ids=np.arange(900, 905)).save(tmp_path / "more")
    changes = {
        "insert": lambda: shards.insert(vectors[:250]),
        "replace": lambda: shards.insert(vectors[:4], [7, 8, 107, 700], replace=True),
        "delete": lambda: shards.delete([0, 100, 200]),
        "compact": shards.compact,
        "add": lambda: shards.add(tmp_path / "more"),
    }
    before, named = shards.ids.tolist(), (tmp_path / "x" / manifest.NAME).read_bytes()
    write, calls = manifest.write, []

    def fails(*arguments):
        calls.append(arguments)
        raise OSError("the disk is full")

    monkeypatch.setattr(manifest, "write", fails)
    with pytest.raises(OSError, match="the disk is full"):
        changes[change]()
    assert len(calls) == 1
    assert (tmp_path / "x" / manifest.NAME).read_bytes() == named
    assert shards.ids.tolist() == Shards(tmp_path / "x").ids.tolist() == before
    monkeypatch.setattr(manifest, "write", write)
    changes[change]()
    assert Shards(tmp_path / "x").ids.tolist() == shards.ids.tolist()
    assert (shards.ids.tolist() == before) == (change == "compact")
    shards.verify()
    kept = shards._manifest.files | {manifest.NAME, manifest.LOCK}
    assert {path.name for path in (tmp_path / "x").iterdir()} == kept


def test_errors_come_before_changes(tmp_path, vectors, shards):
    before = state(tmp_path / "x")
    with pytest.raises(KeyError, match="id 300 is not in the index"):
        shards.delete([1, 300])
    with pytest.raises(ValueError, match="id 1 is given twice"):
        shards.delete([1, 1])
    with pytest.raises(ValueError, match="id 299 is in the index already"):
        shards.insert(vectors[:2], [400, 299])
    bad = vectors.copy()
    bad[150, 2] = np.nan
    with pytest.raises(ValueError, match=r"vectors\[150, 2\] is nan"):
        shards.insert(bad)
    with pytest.raises(ValueError, match="replace=True needs ids"):
        shards.insert(vectors, replace=True)
    with pytest.raises(ValueError, match=r"ids must have shape \(300,\)"):
        shards.insert(vectors, [1])
    build(vectors[:5]).save(tmp_path / "more")
    with pytest.raises(ValueError, match="id 0 is in the index already"):
        shards.add(tmp_path / "more")
    build(vectors[:5], dtype="float16", ids=np.arange(900, 905)).save(tmp_path / "more")
    with pytest.raises(ValueError, match=r"is of .*float16.*, the manifest of .*float32"):
        shards.add(tmp_path / "more")
    assert shards.insert(vectors[:0]).tolist() == []
    assert state(tmp_path / "x") == before
    with pytest.raises(FileNotFoundError):
        Shards(tmp_path / "nowhere")
    (tmp_path / "x" / manifest.NAME).write_text('{"kind": "another"}')
    with pytest.raises(ValueError, match=r"shards\.json: is no manifest of shards"):
        Shards(tmp_path / "x")


def test_files_are_checked_against_the_manifest(tmp_path, vectors, shards):
    build(vectors[:5], dtype="float16").save(shards.files[1])
    with pytest.raises(ValueError, match=r"shard-000001\.index: is of .*float16"):
        Shards(tmp_path / "x")
    shards.files[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-000001\.index"):
        Shards(tmp_path / "x")


def test_who_has_it_open_keeps_what_was(tmp_path, vectors, shards):
    other = Shards(tmp_path / "x")
    before = other.query(vectors[0], 5.0)
    shards.delete(np.arange(100))
    shards.compact()
    shards.insert(vectors[:30])
    identical(other.query(vectors[0], 5.0), before)
    other.verify()
    assert other.insert(vectors[0]).tolist() == [330]  # after what others inserted
    assert other.ids.tolist() == [*range(100, 331)]


def test_a_shard_without_vectors_goes(tmp_path, shards):
    shards.delete(np.arange(100, 200))
    assert [path.name for path in shards.files] == ["shard-000000.index", "shard-000002.index"]
    shards.delete(shards.ids)
    assert (len(shards), shards.files) == (0, [])
    assert shards.insert([[1, 2, 3, 4, 5]]).tolist() == [300]


def test_progress_of_compact(shards):
    shards.delete([0, 150])
    seen = []
    shards.compact(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(99, 298), (198, 298), (298, 298)]


def test_repr_and_pickle(tmp_path, shards):
    assert repr(shards) == "<Shards: 300 vectors in 3 files, dim=5, metric='ip', dtype='float32'>"
    assert pickle.loads(pickle.dumps(shards)).ids.tolist() == shards.ids.tolist()
    assert halfspace.Shards is Shards
    assert shards.folder == tmp_path / "x"


def insert_some(folder, begin):
    shards = Shards(folder, threads=1)
    for number in range(5):
        shards.insert(np.ones((3, D)), np.arange(3) + begin + 10 * number)


def test_processes_change_it_one_after_the_other(tmp_path, shards):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=insert_some, args=(tmp_path / "x", begin)) for begin in (1000, 2000)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    wanted = {begin + 10 * number + k for begin in (1000, 2000) for number in range(5) for k in range(3)}
    assert set(Shards(tmp_path / "x").ids.tolist()) == wanted | set(range(300))
