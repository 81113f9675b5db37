"""Exactness on a GPU: every filter and every way through the kernels gives the set and the scores of the oracle."""

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, FILTERS, build, identical
from helpers.families import (
    EXTREME_TAUS,
    FAMILIES,
    MORE_FAMILIES,
    any_bits,
    boundary_taus,
    cancelling,
    cancelling_by_steps,
    gaussian,
    heavy_tailed,
    huge,
    integers,
    pairs,
    subnormal,
    tiny,
)
from on_gpu import EXTREMES_THAT_STAY, ask, count, equal_rows, make, put

pytestmark = pytest.mark.gpu

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_filter = pytest.mark.parametrize("filter", FILTERS)


def by_name(families):
    return pytest.mark.parametrize("family", families, ids=lambda family: family.__name__)


@every_dtype
@by_name(FAMILIES + MORE_FAMILIES)
def test_every_filter_is_exact(family, dtype, rng, gpu):
    """Few rows; the cells meet one direction, four at once, strips of 64, and a matrix of 140."""
    vectors, directions = family(rng, 18, 13, 7, dtype)
    batch, tau = pairs(rng, vectors, directions)
    expected = reference.query(vectors, batch, tau)
    sizes = [len(found) for found, _ in expected]
    some = rng.permutation(len(tau))[:13]
    for filter in ("scan", "cells", "groups", "balls", "sweep"):
        index = make(gpu, vectors, filter=filter, dtype=dtype)
        own = [expected[k] for k in some]
        equal_rows(ask(gpu, index, batch[some], tau[some]), own)
        equal_rows(ask(gpu, index, batch[some], tau[some], scores=False), own)
        if filter == "cells":
            assert count(gpu, index, batch, tau).tolist() == sizes
            equal_rows(ask(gpu, index, batch[some[:5]], tau[some[:5]]), own[:5])
            for k in some[:2]:
                hits = ask(gpu, index, batch[k], float(tau[k]))
                assert hits.ids.tolist() == expected[k][0].tolist()
                assert reference.bits(hits.scores).tolist() == reference.bits(expected[k][1]).tolist()


@every_filter
def test_extreme_thresholds(filter, gpu):
    """One for each direction, and each for all of them; what float32 cannot hold, and what it flushes."""
    vectors = np.array([[1, 0], [0, 2.0**-149], [0, 0], [-1e-30, 1e-30], [3e38, 3e38], [-1, 1], [0, -0.0]], np.float32)
    directions = np.array([[1, 1], [2.0**-149, 2.0**-149], [1e-30, -1e-30], [3e38, 3e38], [0, -0.0]], np.float32)
    index, tau = make(gpu, vectors, filter=filter), np.array(EXTREME_TAUS)
    batch, thresholds = np.repeat(directions, tau.size, axis=0), np.tile(tau, len(directions))
    equal_rows(ask(gpu, index, batch, thresholds), reference.query(vectors, batch, thresholds))
    for one in EXTREME_TAUS:
        equal_rows(ask(gpu, index, directions, one), reference.query(vectors, directions, one))
        equal_rows(ask(gpu, index, directions[:1], one), reference.query(vectors, directions[:1], one))


@pytest.mark.parametrize(
    ("d", "batches"),
    [
        (1, [1, 20]),
        (2, [1, 9, 130]),
        (128, [12, 130]),
        (129, [1, 70]),
        (384, [3, 70, 130]),
        (385, [1, 20]),
        (768, [20, 130]),
        (769, [2, 20]),
        (2047, [1, 13]),
    ],
)
def test_dimensions_and_batches(d, batches, rng, gpu):
    """Every kernel for cells, where the numbers of dimensions begin and end that it takes."""
    vectors, directions = gaussian(rng, 100, d, max(batches), "float32")
    index = make(gpu, vectors, filter="cells")
    tau = np.sort(vectors @ directions.T, axis=0)[-5].astype(np.float64)
    expected = reference.query(vectors, directions, tau, faster=True)
    for m in batches:
        equal_rows(ask(gpu, index, directions[:m], tau[:m]), expected[:m])


@every_dtype
@pytest.mark.parametrize("filter", ["scan", "cells"])
@pytest.mark.parametrize("d", [3, 8, 9, 512, 513, 1030])
@by_name([cancelling, cancelling_by_steps])
def test_hairlines(family, d, filter, dtype, rng, gpu):
    """Products that float64 cannot decide, by one lane, by eight and by a warp."""
    vectors, directions = family(rng, 6, d, 3, dtype)
    tau = np.concatenate([boundary_taus(rng, vectors, q, 1) for q in directions])
    batch = np.repeat(directions, 3, axis=0)
    index = make(gpu, vectors, filter=filter, dtype=dtype)
    equal_rows(ask(gpu, index, batch, tau), reference.query(vectors, batch, tau))


@every_dtype
def test_chunks(dtype, rng, gpu):
    """Rows in several chunks, the longest ones first; the same as an index on the CPU, to the bit."""
    vectors, directions = heavy_tailed(rng, 2300, 9, 130, dtype)
    ids = rng.permutation(5000)[:2300]
    products = np.sort(vectors.astype(np.float32) @ directions.T, axis=0)
    tau = products[-rng.integers(1, 30, 130), np.arange(130)].astype(np.float64)
    options = {"dtype": dtype, "ids": ids}
    theirs, index = build(vectors, filter="cells", **options), make(gpu, vectors, filter="cells", **options)
    for m in (130, 70, 5):
        identical(ask(gpu, index, directions[:m], tau[:m]), theirs.query(directions[:m], tau[:m]))
    extremes = [-np.inf, 0.0, np.inf]
    for filter in ("groups", "balls", "sweep", "scan"):
        other = make(gpu, vectors, filter=filter, **options)
        identical(ask(gpu, other, directions[:3], tau[:3]), theirs.query(directions[:3], tau[:3]))
        counted = count(gpu, other, directions[:3], extremes)
        assert counted.tolist() == theirs.count(directions[:3], extremes).tolist()


def test_thresholds_of_any_dtype(rng, gpu):
    """Subnormal float32 thresholds among them, which CuPy's own conversion would take for zero."""
    vectors = rng.integers(-40, 41, (60, 1)).astype(np.float32) * np.float32(2.0**-149)
    index, one = make(gpu, vectors), np.ones((1, 1), np.float32)
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        unit = {"float16": 2.0**-24, "bfloat16": 2.0**-133}.get(dtype, 2.0**-149)
        tau = (np.arange(-5, 6) * unit).astype(reference.DTYPES[dtype])
        batch = np.repeat(one, tau.size, axis=0)
        expected = reference.query(vectors, batch, tau.astype(np.float64))
        assert count_of(gpu, index, batch, put(gpu, tau)) == [len(ids) for ids, _ in expected]
    for dtype in (np.int8, np.uint64, np.int64):
        assert count_of(gpu, index, one, gpu.xp.asarray([0], dtype)) == [int((vectors >= 0).sum())]
    for tau in (np.float32(2.0**-149), gpu.xp.asarray(np.float32(2.0**-149)), 2.0**-149):
        assert index.count(gpu.xp.asarray(one[0]), tau) == int((vectors > 0).sum())


def count_of(gpu, index, directions, tau):
    return index.count(gpu.xp.asarray(directions), tau).tolist()


@every_dtype
@by_name([subnormal, tiny, huge, any_bits, cancelling, integers])
def test_flushed_subnormals(family, dtype, rng, gpu, monkeypatch):
    """A GPU always flushes; the emulator where it is told to, before anything is stored."""
    if hasattr(gpu.xp, "emulator"):
        monkeypatch.setattr(gpu.xp.emulator, "flush", True)
    vectors, directions = family(rng, 12, 9, 3, dtype)
    tau = np.concatenate([boundary_taus(rng, vectors, q, 1) for q in directions])
    tau = np.concatenate([tau, rng.permutation(EXTREMES_THAT_STAY)[:5]])
    batch = np.concatenate([np.repeat(directions, 3, axis=0), directions[rng.integers(0, 3, 5)]])
    expected = reference.query(vectors, batch, tau)
    for filter in ("scan", "cells", "groups", "balls", "sweep"):
        index = make(gpu, vectors, filter=filter, dtype=dtype)
        equal_rows(ask(gpu, index, batch, tau), expected)
        if filter == "cells":
            equal_rows(ask(gpu, index, batch[:3], tau[:3]), expected[:3])
            hits = ask(gpu, index, batch[0], float(tau[0]))
            assert hits.ids.tolist() == expected[0][0].tolist()


WIDEN = """
#include "formats.cuh"

extern "C" __global__ void widen_all(const float* values, double* wide, long long count) {
    for (long long i = threadIdx.x; i < count; i += blockDim.x) wide[i] = widen_by_shifts(values[i]);
}
"""


def test_widening_by_shifts(rng, gpu, tmp_path):
    """Every exponent, zeros and subnormals, of both signs."""
    from halfspace.gpu.runtime.launch import Kernel

    file = tmp_path / "widen.cu"
    file.write_text(WIDEN)
    mantissas = np.concatenate([[0, 1, 2**22, 2**23 - 1], rng.integers(0, 2**23, 4)])
    bits = ((np.arange(255) << 23)[:, None] | mantissas).ravel().astype(np.uint32)
    values = np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)
    wide = gpu.xp.empty(values.size, np.float64)
    widen = Kernel(str(file), "widen_all", ("values", np.float32), ("wide", np.float64), ("count", int))
    widen((1,), 256, put(gpu, values), wide, values.size)
    assert wide.get().view(np.int64).tolist() == values.astype(np.float64).view(np.int64).tolist()
