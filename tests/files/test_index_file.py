"""Index files whose checksums are right and whose metadata are hostile: refused with the path, or answered exactly."""

import copy
import math
from functools import cache

import numpy as np
import pytest
from helpers.checking import FILTERS

from halfspace import HalfspaceIndex
from halfspace.files import container as storage

N, D = 600, 6
ABSENT = object()
HOSTILE = [
    *(None, True, False, -1, 0, 1, 2, 5, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400),
    *(0.0, 6.0, 6.5, math.inf, -math.inf, math.nan, 1e300),
    *("", "6", "nan", "inf", "float32", "float16", "bfloat16", "auto", "scan", "cells", "groups", "balls", "sweep"),
    *("0x1p+99999", "-0x1p+0", "0x1.8p+0", "0x1p-2000", "0x1p+10", "0x1p-1074", "0x1p-10", "1", "-inf", "0x0p+0", "\0"),
    *([], {}, [6], {"a": 1}, [[]], [{}], [None], {"scan": 1, "cells": 2}, {"cells": "many"}),
    dict.fromkeys(FILTERS[:-1], -1),
    dict.fromkeys(FILTERS[:-1], 1.5),
    dict.fromkeys(FILTERS[:-1], True),
    dict.fromkeys(FILTERS[:-1], 10**400),
    ABSENT,
]
FIELDS = ["kind", "dim", "dtype", "filter", "subspaces", "group_size", "next_id", "segments"]
OF_SEGMENTS = ["grain", "filter", "trial", "size"]


@cache
def numbers():
    """Small halves of integers: float64 brute force is exact, and ties at tau are many."""
    rng = np.random.default_rng(8)
    return rng.integers(-6, 7, (N + 20, D)).astype(np.float32) / 2, rng.integers(-3, 4, (2, D)).astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    return numbers()


@pytest.fixture(scope="module", params=FILTERS)
def index(request, rows):
    """Sealed rows, a tail, dead rows of both, and ids that came again."""
    made = HalfspaceIndex(D, filter=request.param)
    made.insert(rows[0][:N], np.random.default_rng(9).permutation(N))
    made.compact()
    made.insert(rows[0][N:])
    made.delete([3, N + 2, N + 4])
    made.insert(rows[0][:1], [N + 2])
    return made


def write(path, metadata, arrays, monkeypatch):
    """Write metadata as they are: Python's JSON has infinities and NaN, and other writers may have them, too."""
    dumps = storage.json.dumps
    with monkeypatch.context() as patch:
        patch.setattr(storage.json, "dumps", lambda value, **options: dumps(value, separators=(",", ":")))
        patch.setattr(storage.json, "loads", lambda text: copy.deepcopy(metadata))
        storage.write(path, metadata, arrays)


@cache
def expected(place, tau):
    """The exact answer for a direction in float64, where these numbers have no rounding error."""
    vectors, directions = numbers()
    ids = np.random.default_rng(9).permutation(N).tolist() + list(range(N, N + 20))
    kept = dict(zip(ids, (vectors.astype(np.float64) @ directions[place].astype(np.float64)).tolist(), strict=True))
    kept[N + 2] = kept[ids[0]]
    return sorted(id for id, score in kept.items() if id not in (3, N + 4) and score >= tau)


def check(path, rows, mmap):
    """Whether a file is taken: it then answers exactly, and can grow; else the text of the error has its path."""
    refusal = None
    try:
        loaded = HalfspaceIndex.load(path, mmap=mmap)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert str(path) in refusal
        assert len(refusal) < 1000
        return False
    if mmap:
        try:
            loaded.verify()
        except ValueError:
            return False
    vectors, directions = rows
    for one in range(2):
        for place, tau in ((0, -3.0), (0, 0.0), (1, 4.5)):
            assert loaded.query(directions[place], tau).ids.tolist() == expected(place, tau)
        loaded.explain(directions[0], 0.0)
        loaded.stats()
        if one == 0:
            loaded.delete(loaded.insert(vectors[:300], np.arange(-300, 0)))
            loaded.compact()
    loaded.verify()
    return True


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("field", [*FIELDS, *OF_SEGMENTS])
def test_hostile_metadata(index, rows, field, mmap, tmp_path, monkeypatch):
    path = tmp_path / "index"
    index.save(path)
    stored = storage.read(path)
    assert check(path, rows, mmap)
    places = [stored.metadata] if field in FIELDS else stored.metadata["segments"]
    for place in range(len(places)):
        if field == "size" and field not in places[place]:
            continue  # only groups have one
        for value in HOSTILE:
            metadata = copy.deepcopy(stored.metadata)
            target = metadata if field in FIELDS else metadata["segments"][place]
            if value is ABSENT:
                target.pop(field, None)
            else:
                target[field] = value
            write(path, metadata, stored.arrays, monkeypatch)
            check(path, rows, mmap)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("change", ["fewer", "none", "more", "unread section", "swapped"])
def test_hostile_segments(index, rows, change, mmap, tmp_path):
    path = tmp_path / "index"
    index.save(path)
    stored = storage.read(path)
    segments, arrays = stored.metadata["segments"], dict(stored.arrays)
    changed = {
        "fewer": segments[:-1],
        "none": [],
        "more": [*segments, segments[-1]],
        "unread section": segments,
        "swapped": segments[::-1],
    }[change]
    if change == "unread section":
        arrays["7/ids"] = np.arange(3)
    storage.write(path, stored.metadata | {"segments": changed}, arrays)
    assert not check(path, rows, mmap) or change == "swapped"


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("place", ["within", "across", "above", "disorder", "from the end"])
def test_hostile_ids(index, rows, place, mmap, tmp_path):
    """Ids there twice, above the next one, in a wrong order, or found by way of rows that there are not."""
    path = tmp_path / "index"
    index.save(path)
    stored = storage.read(path)
    arrays = {name: array.copy() for name, array in stored.arrays.items()}
    tail = len(stored.metadata["segments"]) - 1
    if place == "within":
        arrays[f"{tail}/ids"][5] = arrays[f"{tail}/ids"][6]
    elif place == "across":
        arrays[f"{tail}/ids"][0] = arrays["0/ids"][7]
    elif place == "above":
        arrays[f"{tail}/ids"][0] = 2**62
    elif place == "from the end":
        if "0/by_id" not in arrays:
            return
        arrays["0/by_id"][arrays["0/by_id"] == N - 1] = -1  # NumPy would take it for the last row, a kernel would not
    elif index.filter != "scan":  # rows that are scanned may be in any order
        arrays["0/ids"] = arrays["0/ids"][::-1].copy()
    else:
        return
    storage.write(path, stored.metadata, arrays)
    assert not check(path, rows, mmap)


def test_the_largest_id(rows, tmp_path):
    made = HalfspaceIndex(D)
    made.insert(rows[0][:2], [2**63 - 1, -(2**63)])
    made.save(tmp_path / "index")
    for mmap in (False, True):
        loaded = HalfspaceIndex.load(tmp_path / "index", mmap=mmap)
        assert loaded.ids.tolist() == [-(2**63), 2**63 - 1]
        with pytest.raises(ValueError, match="no id is left"):
            loaded.insert(rows[0][:1])


@pytest.mark.parametrize("name", ["norms", "vectors"])
def test_norms_that_do_not_fit_are_found_when_a_file_is_read(index, name, tmp_path):
    """Too short a norm would lose vectors without a word."""
    index.save(tmp_path / "index")
    stored = storage.read(tmp_path / "index")
    changed = stored.arrays[f"0/{name}"] * np.float32(0.5 if name == "norms" else 2)
    storage.write(tmp_path / "index", stored.metadata, stored.arrays | {f"0/{name}": changed})
    with pytest.raises(ValueError, match="norms do not fit"):
        HalfspaceIndex.load(tmp_path / "index")
