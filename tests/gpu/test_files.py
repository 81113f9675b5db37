"""Files of one device on the other: what is stored, what is derived from it, and what `verify` says."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.checking import DTYPES, FILTERS, build, identical
from helpers.families import heavy_tailed, uneven
from on_gpu import ask, make, put

from halfspace import HalfspaceIndex

pytestmark = pytest.mark.gpu


def change(gpu, index, vectors):
    """What an index goes through before and after it is kept: a second segment, a tail, rows that are dead."""
    bring = (lambda x: put(gpu, x)) if index.device == "gpu" else np.asarray
    index.insert(bring(vectors[:300]))
    index.insert(bring(vectors[300:310]))
    index.delete(bring(index.ids.tolist()[::9]))


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize(
    ("here", "there", "mmap"), [("gpu", "cpu", False), ("cpu", "gpu", True), ("gpu", "gpu", False)]
)
def test_a_file_of_any_device_is_read_on_any(here, there, mmap, filter, rng, gpu, tmp_path):
    for dtype in DTYPES if here != there else DTYPES[1:2]:
        options = {"subspaces": 2, "group_size": 3} if filter in ("balls", "sweep") else {}
        vectors, directions = heavy_tailed(rng, 1600, 4, 5, dtype)
        tau = np.quantile(vectors.astype(np.float32) @ directions.T, 0.99)
        index = HalfspaceIndex(4, device=here, filter=filter, dtype=dtype, **options)
        index.insert(put(gpu, vectors[:1290]) if here == "gpu" else vectors[:1290])
        change(gpu, index, vectors[1290:])
        index.save(tmp_path / "first")
        loaded = HalfspaceIndex.load(tmp_path / "first", mmap=mmap, device=there)
        loaded.verify()
        loaded.save(tmp_path / "second")
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
        for _ in range(2):
            answers = [
                ask(gpu, one, directions, tau) if one.device == "gpu" else one.query(directions, tau)
                for one in (index, loaded)
            ]
            identical(*answers)
            assert answers[0].totals.sum() > 0
            for one in (index, loaded):
                change(gpu, one, vectors[:310])
        ours, theirs = index.stats(), loaded.stats()
        assert {**theirs, "device": here, "threads": ours["threads"]} == ours
        index.verify()


def test_principal_axes_of_a_cpu_are_kept(rng, gpu, tmp_path):
    vectors, directions = uneven(rng, 4096, 256, 20, "float32")
    theirs = build(vectors, filter="cells")
    assert theirs._snapshot.sealed[0].data.axes is not None
    theirs.save(tmp_path / "first")
    index = HalfspaceIndex.load(tmp_path / "first", device="gpu")
    assert isinstance(index._snapshot.sealed[0].data.axes.codes, gpu.xp.ndarray)
    tau = np.sort(vectors @ directions.T, axis=0)[-20].astype(np.float64)
    identical(ask(gpu, index, directions, tau), theirs.query(directions, tau))
    identical(ask(gpu, index, directions[0], float(tau[0])), theirs.query(directions[0], float(tau[0])))
    index.verify()
    index.save(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    index.compact()
    index.verify()


@pytest.mark.parametrize("filter", ["scan", "cells", "groups", "sweep"])
@pytest.mark.parametrize("part", ["vectors", "norms", "ids"])
def test_verify_finds_what_is_damaged_on_the_gpu(part, filter, rng, gpu):
    index = make(gpu, rng.standard_normal((300, 6)).astype(np.float32), filter=filter)
    index.verify()
    (segment,) = index._snapshot.sealed
    array = getattr(segment, part).copy()
    array.reshape(-1)[3:4] = array.reshape(-1)[7:8] * (10 if part == "vectors" else 1)
    index._snapshot = replace(index._snapshot, sealed=(replace(segment, **{part: array}),))
    with pytest.raises(ValueError, match=r"segment 0|is there twice"):
        index.verify()


def test_a_damaged_file_is_refused(rng, gpu, tmp_path):
    make(gpu, rng.standard_normal((300, 6)).astype(np.float32)).save(tmp_path / "index")
    content = bytearray((tmp_path / "index").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "index").write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        HalfspaceIndex.load(tmp_path / "index", device="gpu")
    with pytest.raises(ValueError, match="checksum"):
        HalfspaceIndex.load(tmp_path / "index", device="gpu", mmap=True).verify()
