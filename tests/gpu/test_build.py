"""The build stages of the GPU backend, held against those of the CPU to the bit."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES
from helpers.families import FAMILIES, MORE_FAMILIES

from halfspace import cpu
from halfspace.model.filters.cells import Cells
from halfspace.model.formats import FORMATS, as_bits
from halfspace.model.metrics import Metric

pytestmark = pytest.mark.gpu

SPACES = 2
SHAPES = [(1, 1), (15, 3), (64, 8), (65, 33), (300, 128), (1100, 33)]
families = pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES, ids=lambda family: family.__name__)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def on_host(part, xp):
    """The same arrays on the host."""
    if is_dataclass(part):
        return replace(part, **{field.name: on_host(getattr(part, field.name), xp) for field in fields(part)})
    return xp.asnumpy(part) if isinstance(part, xp.ndarray) else part


def same(ours, theirs):
    """Two parts of a segment, or two arrays, that agree in dtype, shape and every bit."""
    if is_dataclass(theirs):
        for field in fields(theirs):
            same(getattr(ours, field.name), getattr(theirs, field.name))
    elif isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == theirs


def make(family, rng, n, d, dtype):
    """Stored bits (SPACES, n, d)."""
    return as_bits(family(rng, SPACES * n, d, 1, dtype)[0]).reshape(SPACES, n, d)


@families
@dtypes
def test_stages_agree_with_the_cpu(family, dtype, rng, gpu):
    """Norms and grain, cells around centres of either device, groups; in three shapes that are drawn."""
    for shape in rng.permutation(len(SHAPES))[:3]:
        n, d = SHAPES[shape]
        bits = make(family, rng, n, d, dtype)
        vectors = gpu.xp.asarray(bits)
        norms, grain = gpu.measure(vectors, 1)
        their_norms, their_grain = cpu.measure(bits, 1)
        same(gpu.xp.asnumpy(norms), their_norms)
        assert grain == their_grain
        cells = on_host(gpu.encode(vectors, norms, 1), gpu.xp)
        assert cells.weights.max() <= 1.0
        assert not np.any(cells.weights.view(np.uint32) & 0xFFFF)
        same(cells, cpu.encode(bits, their_norms, 1, like=cells))
        theirs = replace(cpu.encode(bits, their_norms, 1), axes=None)
        on_device = Cells(*(None if part is None else gpu.xp.asarray(part) for part in vars(theirs).values()))
        same(on_host(gpu.encode(vectors, norms, 1, like=on_device), gpu.xp), theirs)
        groups = on_host(gpu.enclose_groups(vectors, norms, 1), gpu.xp)
        same(groups, cpu.enclose_groups(bits, their_norms, 1, groups.centre))


@families
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2], ids=lambda metric: metric.label)
def test_lengths_agree_with_the_cpu(family, metric, rng, gpu):
    """Those of cells, and of all balls of groups, with what they lack."""
    dtype = DTYPES[rng.integers(3)]
    for shape in rng.permutation(len(SHAPES))[:3]:
        n, d = SHAPES[shape]
        bits = make(family, rng, n, d, dtype)
        vectors = gpu.xp.asarray(bits)
        norms, their_norms = gpu.measure(vectors, 1)[0], cpu.measure(bits, 1)[0]
        cells = on_host(gpu.encode(vectors, norms, 1, metric=metric), gpu.xp)
        same(cells, cpu.encode(bits, their_norms, 1, like=cells, metric=metric))
        groups = on_host(gpu.enclose_groups(vectors, norms, 1, metric=metric), gpu.xp)
        same(groups, cpu.enclose_groups(bits, their_norms, 1, groups.centre, metric=metric))


@families
@dtypes
def test_balls(family, dtype, rng, gpu):
    shapes = [(1, [0, 1], 1), (15, [0, 3], 4), (65, [0, 3, 4, 8], 4), (300, [0, 33], 7)]
    for shape in rng.permutation(len(shapes))[:2]:
        n, columns, size = shapes[shape]
        bits, columns, told = make(family, rng, n, columns[-1], dtype), np.array(columns), []
        balls = on_host(gpu.enclose(gpu.xp.asarray(bits), columns, size, 1, told.append), gpu.xp)
        assert sum(told) == 2 * bits.size
        rows = np.broadcast_to(np.arange(n, dtype=np.int32), balls.members.shape)
        assert np.array_equal(np.sort(balls.members), rows)
        same(balls, cpu.enclose(bits, columns, size, 1, like=balls))


def test_partitions_are_as_close_as_those_of_the_cpu(rng, gpu):
    """In a mixture of Gaussians with other scales, the squared distances of rows from the centre of their group."""
    centres = 100 * rng.standard_normal((40, 16)) * 2.0 ** np.arange(16)
    bits = (centres[rng.integers(0, 40, 5000)] + rng.standard_normal((5000, 16))).astype(np.float32)
    columns, size = np.array([0, 8, 16]), 4

    def cost(order):
        groups = [bits[own][:, low : low + 8].reshape(-1, size, 8) for own, low in zip(order, (0, 8), strict=True)]
        return [np.square(group - group.mean(axis=1, keepdims=True), dtype=np.float64).sum() for group in groups]

    order = gpu.xp.asnumpy(gpu.partition(gpu.xp.asarray(bits), columns, size, 1))
    again = gpu.xp.asnumpy(gpu.partition(gpu.xp.asarray(bits), columns, size, 1))
    same(order, again)
    assert np.all(np.array(cost(order)) <= 1.1 * np.array(cost(cpu.partition(bits, columns, size, 1))))


def test_what_norms_cannot_bear_gets_no_weights(gpu):
    vectors = gpu.xp.asarray(np.float32([[[1e30, 1.0], [2e30, 5.0]]]))
    cells = gpu.encode(vectors, gpu.measure(vectors, 1)[0], 1)
    assert gpu.xp.asnumpy(cells.weights).tolist() == [[1.0, 1.0]]


SOURCES = [*"?bBhHiIlL", np.float16, FORMATS["bfloat16"][0], np.float32, np.float64]


@dtypes
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: np.dtype(source).name)
def test_store_rounds_every_source_as_the_cpu_does(source, dtype, rng, gpu):
    source, target = np.dtype(source), FORMATS[dtype][1]
    if source.kind in "iu":
        values = rng.integers(0, 2**63, (60, 60), np.uint64) >> rng.integers(0, 63, (60, 60)).astype(np.uint64)
        values[0, :6] = [2**53 + 1, 2**62 + 2**38, 2**62 + 2**38 + 1, 2**63 + 2**39 + 1, 2**64 - 1, 2**24 + 1]
        values = values.astype(source)
    elif source.kind == "b":
        values = rng.integers(0, 2, (60, 60)).astype(source)
    else:  # numbers near the stored ones and near what lies between them
        patterns = rng.integers(0, 2**16, (60, 60))
        with np.errstate(all="ignore"):
            near = reference.from_bits(patterns, dtype if target.itemsize == 2 else "bfloat16").astype(np.float64)
            values = (near * (1 + 2.0**-9 * rng.integers(-2, 3, near.shape))).astype(source)
            values[~np.isfinite(values.astype(np.float32 if dtype == "float32" else near.dtype))] = 0
    for view in (lambda x: x, lambda x: x.T, lambda x: x[::-1, 1::3], lambda x: x[7]):
        ours, bad = gpu.store(view(gpu.xp.asarray(values)), target, 1)
        theirs, their_bad = cpu.store(view(values), target, 1)
        assert bad == their_bad
        if bad < 0:
            same(gpu.xp.asnumpy(ours), theirs)


@dtypes
def test_store_names_the_first_that_is_not_finite(dtype, gpu):
    target = FORMATS[dtype][1]
    for worst in (np.nan, np.inf, -np.inf, 1e39):
        values = np.ones((7, 50), np.float64)
        values[3, 7:] = worst
        values[5] = np.nan
        assert gpu.store(gpu.xp.asarray(values), target, 1)[1] == cpu.store(values, target, 1)[1] == 157
        with np.errstate(over="ignore"):
            assert gpu.store(gpu.xp.asarray(values.astype(np.float32)), target, 1)[1] == 157
    largest = np.array([[65519.996, 65504.0]])  # what rounds to the largest float16, and that one
    assert gpu.store(gpu.xp.asarray(largest), target, 1)[1] == -1
