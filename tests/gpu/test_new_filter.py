"""A filter on a GPU that the library knows nothing of: its specification, its code and its kernel are in this file."""

import sys

import numpy as np
import pytest
from helpers import reference
from helpers.families import EXTREME_TAUS, FAMILIES, pairs
from on_gpu import ask, count, equal_rows, make

from halfspace.model.counters import Stage
from halfspace.model.filters import FILTERS, FilterSpec, register

pytestmark = pytest.mark.gpu

KERNEL = """
#include "formats.cuh"
#include "rounding.cuh"
#include "filters/left.cuh"

// A row may be a hit if |q| |x| reaches tau.
extern "C" __global__ void __launch_bounds__(THREADS) classify_norms(Call call, const int* listed) {
    const long long chunk = listed[blockIdx.x];
    for (long long k = blockIdx.y; k < call.count; k += gridDim.y) {
        const Plan& plan = call.plans[k];
        if (plan.bad != 0.0) continue;
        const Segment& segment = segment_of(call, k, chunk);
        for (int i = threadIdx.x; i < CHUNK; i += THREADS) {
            const long long row = (chunk - segment.first) * CHUNK + i;
            const bool there = row < segment.rows;
            const bool own = there && !(longest_product(plan.norm, exact64(segment.norms[row])) < plan.tau);
            count_work(call, NORMS_STAGE, TESTED, there);
            count_work(call, NORMS_STAGE, own ? LEFT : DROPPED, there);
            leave(call, segment, k, chunk, own && !is_excluded(segment, row), false, row);
        }
    }
}
"""
NAME = "norms-on-a-gpu"


@pytest.fixture(scope="module")
def norms(gpu, tmp_path_factory):
    """The name of the filter, while it is known."""
    from halfspace.gpu.filters import FilterCode, _codes
    from halfspace.gpu.runtime.launch import Kernel
    from halfspace.gpu.runtime.records import CALL, THREADS, Kind

    file = tmp_path_factory.mktemp("kernels") / "norms.cu"
    file.write_text(KERNEL)
    kernel = Kernel(str(file), "classify_norms", ("call", CALL), ("listed", np.int32))

    def launches(run, uploaded, part):
        grid = part.chunks.size, min(run.count, 65535)
        yield kernel.bind(grid, THREADS, run.call, part.chunks, format=run.format)

    module = sys.modules[__name__]
    module.CODE = FilterCode(Kind.SCAN, launches)
    sys.modules.setdefault("norms_on_a_gpu", module)
    register(
        FilterSpec(
            name=NAME,
            summary="a norm bound",
            stages=(Stage.NORMS,),
            build=lambda how, segment, meter: segment,
            code={"gpu": "norms_on_a_gpu"},
        )
    )
    yield NAME
    for table, key in ((FILTERS, NAME), (_codes, NAME), (sys.modules, "norms_on_a_gpu")):
        table.pop(key, None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_it_is_exact(family, dtype, norms, rng, gpu):
    vectors, directions = family(rng, 18, 7, 3, dtype)
    batch, tau = pairs(rng, vectors, directions)
    expected = reference.query(vectors, batch, tau)
    index = make(gpu, vectors, filter=norms, dtype=dtype)
    equal_rows(ask(gpu, index, batch, tau), expected)
    equal_rows(ask(gpu, index, batch, tau, scores=False), expected)
    assert count(gpu, index, batch, tau).tolist() == [len(found) for found, _ in expected]


def test_it_drops_and_explains(norms, rng, gpu):
    """Among dead rows, a tail, and several chunks."""
    vectors = rng.standard_normal((2500, 5)).astype(np.float32) * rng.pareto(1.5, (2500, 1)).astype(np.float32)
    index, q = make(gpu, vectors[:2400], filter=norms), rng.standard_normal(5).astype(np.float32)
    index.insert(gpu.xp.asarray(vectors[2400:]))
    index.delete(gpu.xp.asarray([3, 700]))
    live = np.delete(np.arange(2500), [3, 700])
    for tau in (*EXTREME_TAUS, 1.0, 20.0):
        found, _ = reference.one_faster(vectors[live], q, tau)
        assert ask(gpu, index, q, float(tau)).ids.tolist() == live[found].tolist()
    stage = index.explain(gpu.xp.asarray(q), 20.0).stage("norms")
    assert stage.tested == 2400 == stage.dropped + stage.left
    assert stage.dropped > 2000
    assert index.stats()["filters"][norms] == 2400


def test_it_is_not_for_a_cpu(norms):
    from halfspace import HalfspaceIndex

    with pytest.raises(ValueError, match="does not run on the device 'cpu'"):
        HalfspaceIndex(3, filter=norms)
