"""Indexes whose filter brings rows into groups: how they live on, report progress, and are kept in files."""

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, FILTERS, equal, identical

from halfspace import HalfspaceIndex, cpu
from halfspace.files import container as storage
from halfspace.state import build as seal

GROUPED = ["groups", "balls", "sweep"]
every_filter = pytest.mark.parametrize("filter", FILTERS)
every_grouped_filter = pytest.mark.parametrize("filter", GROUPED)


def normal(rng, n, d):
    return rng.standard_normal((n, d)).astype(np.float32)


def sealed(vectors, filter, **options):
    """An index with all vectors in one segment."""
    index = HalfspaceIndex(vectors.shape[1], filter=filter, **options)
    index.insert(vectors)
    index.compact()
    return index


# Living


@every_grouped_filter
def test_a_small_insert_leaves_old_segments_alone(filter, rng, monkeypatch):
    name, grouped = ("partition" if filter == "groups" else "enclose"), []
    stage = getattr(cpu, name)

    def noted(vectors, *arguments, **options):
        grouped.append(vectors.shape[-2])
        return stage(vectors, *arguments, **options)

    monkeypatch.setattr(cpu, name, noted)
    index = HalfspaceIndex(3, filter=filter)
    index.insert(normal(rng, 5000, 3))
    (old,) = index._snapshot.sealed
    for part in range(1, 4):
        index.insert(normal(rng, 300, 3))
        assert index._snapshot.sealed[0] is old
        assert grouped == [5000] + [300] * part
    second = index._snapshot.sealed[1]
    index.delete([17, 5017])
    for before, now in zip((old, second), index._snapshot.sealed, strict=False):
        for part in ("vectors", "ids", "norms", "data", "by_id"):
            assert getattr(now, part) is getattr(before, part)
    index.insert(normal(rng, 300, 3))  # the fourth of like size: these merge, the large one stays
    large, merged = index._snapshot.sealed
    assert large.vectors is old.vectors
    assert merged.rows == 1199
    assert grouped[4:] == [1199]
    index.insert(normal(rng, 200, 3))  # fits the tail
    assert index._snapshot.sealed == (large, merged)
    assert len(grouped) == 5
    index.verify()


@pytest.mark.parametrize("dtype", DTYPES)
@every_filter
def test_rows_in_another_order_keep_their_ids(filter, dtype, rng):
    vectors = reference.store(rng.standard_normal((2500, 3)), dtype)
    ids = rng.permutation(10_000)[:2500] - 3000
    index = HalfspaceIndex(3, filter=filter, dtype=dtype)
    index.insert(vectors[:2000], ids=ids[:2000])
    index.compact()
    index.insert(vectors[2000:], ids=ids[2000:])
    assert index.ids.tolist() == sorted(ids.tolist())
    gone = rng.permutation(2500)[:900]
    index.delete(ids[gone])
    assert not any(id in index for id in ids[gone].tolist())
    back = gone[:400]
    index.insert(-vectors[back], ids=ids[back])
    stored, kept = vectors.copy(), np.setdiff1d(np.arange(2500), gone[400:])
    stored[back] = -stored[back]
    for _ in range(2):
        assert index.ids.tolist() == sorted(ids[kept].tolist())
        assert all(id in index for id in ids[kept].tolist())
        some = rng.permutation(kept)[:500]
        assert reference.bits(index.vectors(ids[some])).tolist() == reference.bits(stored[some]).tolist()
        direction = normal(rng, 1, 3)[0]
        expected = reference.query(stored[kept], direction, 1.0, ids=ids[kept], faster=True)[0]
        equal(index.query(direction, 1.0), expected)
        equal(index.query(direction, 1.0, limit=7, sort=True), reference.best(*expected, 7))
        inside = np.isin(expected[0], ids[some])
        equal(index.query(direction, 1.0, within=ids[some]), (expected[0][inside], expected[1][inside]))
        index.verify()
        index.compact()
    with pytest.raises(ValueError, match=str(ids[kept[0]])):
        index.insert(np.ones(3), ids=[ids[kept[0]]])


# Keeping


def options_of(filter):
    return {"subspaces": 3, "group_size": 5} if filter in ("balls", "sweep") else {}


@pytest.mark.parametrize("mmap", [False, True])
@every_filter
def test_a_round_trip_keeps_everything(filter, mmap, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(seal, "TRIAL_ROWS", 3000)
    vectors, direction = normal(rng, 5000, 4) * rng.pareto(1.5, (5000, 1)), normal(rng, 1, 4)[0]
    index = HalfspaceIndex(4, filter=filter, **options_of(filter))
    for part in (vectors[:4500], vectors[4500:4900], vectors[4900:]):
        index.insert(part)
    index.delete(np.arange(0, 5000, 9))
    index.save(tmp_path / "first")
    loaded = HalfspaceIndex.load(tmp_path / "first", mmap=mmap)
    loaded.verify()
    loaded.save(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    for tau in (0.0, 5.0, -np.inf):
        identical(loaded.query(direction, tau), index.query(direction, tau))
        assert loaded.explain(direction, tau) == index.explain(direction, tau)
    assert loaded.stats() == index.stats()
    if filter == "auto":
        assert loaded.explain(direction, 0.0).choices[0].trial is not None
    loaded.insert(vectors)
    loaded.compact()
    (segment,) = loaded._snapshot.sealed
    if filter in ("balls", "sweep"):
        assert segment.data.columns.tolist() == [0, 1, 2, 4]
        assert segment.data.size == 5
    loaded.verify()
    del loaded


def swap_ends(array):
    array[..., 0], array[..., -1] = array[..., -1].copy(), array[..., 0].copy()


def repeat_first(array):
    array[..., -1] = array[..., 0]


def nudge(array):
    array.reshape(-1)[1] += 1


LEVELS = [f"{level}/{part}" for level in ("cells", "groups", "chunks") for part in ("codes", "scales", "radii")]
TAMPERED = [("groups", name, nudge) for name in ["norms", "centre", *LEVELS]]
CELLS = ["centre", "weights", "spans", "high", "low", "scales", "radii", "peaks"]
TAMPERED += [("cells", name, nudge) for name in ["norms", *(f"cells/{part}" for part in CELLS)]]
TAMPERED += [("groups", "by_id", how) for how in (swap_ends, repeat_first, nudge)]
for kind in ("balls", "sweep"):
    TAMPERED += [(kind, name, nudge) for name in ("norms", "centre", "balls/codes", "balls/scales", "balls/radii")]
    TAMPERED += [(kind, name, how) for name in ("members", "holders") for how in (swap_ends, repeat_first, nudge)]
    TAMPERED += [(kind, "columns", nudge)]


@pytest.mark.parametrize(("filter", "name", "how"), TAMPERED)
def test_verify_finds_what_does_not_fit(filter, name, how, tmp_path, rng):
    """Each checksum is right, but one array is not what the vectors make it."""
    path = tmp_path / "index"
    sealed(normal(rng, 1500, 4), filter, **options_of(filter)).save(path)
    stored = storage.read(path)
    arrays = {key: array.copy() for key, array in stored.arrays.items()}
    HalfspaceIndex.load(path).verify()
    how(arrays[f"0/{name}"])
    storage.write(path, stored.metadata, arrays)
    for mmap in (False, True):
        with pytest.raises(ValueError, match=r"segment 0|section|whole index"):
            HalfspaceIndex.load(path, mmap=mmap).verify()


@pytest.mark.parametrize(
    ("filter", "about"),
    [
        ("groups", {"filter": "cells"}),
        ("groups", {"filter": "balls"}),
        ("groups", {"filter": "auto"}),
        ("groups", {"filter": None}),
        ("cells", {"filter": "groups"}),
        ("balls", {"filter": "groups"}),
        ("balls", {"size": 4}),
        ("balls", {"size": 0}),
        ("sweep", {"size": None}),
    ],
)
def test_verify_finds_another_filter(filter, about, tmp_path, rng):
    path = tmp_path / "index"
    sealed(normal(rng, 1500, 4), filter, **options_of(filter)).save(path)
    stored = storage.read(path)
    stored.metadata["segments"][0] |= about
    storage.write(path, stored.metadata, stored.arrays)
    with pytest.raises(ValueError, match=r"segment 0|section|whole index"):
        HalfspaceIndex.load(path).verify()
