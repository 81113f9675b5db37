"""The emulator itself: fibers, warp operations, and the arrays that stand in for CuPy's."""

import ml_dtypes
import numpy as np
import pytest


@pytest.fixture
def run(cp):
    def run(code, grid, block, *args, shared=0, name="kernel"):
        source = f'// begin runtime/ptx.cuh\n// end runtime/ptx.cuh\nextern "C" __global__ void {name}{code}'
        kernel = cp.RawModule(code=source, options=("-DSIZE=64", "--fmad=false")).get_function(name)
        if shared > 48 << 10:
            kernel.max_dynamic_shared_size_bytes = shared
        kernel((grid,), (block,), args, shared_mem=shared)

    return run


def test_shuffles_barriers_and_atomics_add_up(cp, run):
    code = """(const float* __restrict__ x, float* sums, unsigned long long* count, long long n) {
        __shared__ float parts[SIZE];
        const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
        float value = i < n ? x[i] : 0;
        for (int k = 16; k; k >>= 1) value += __shfl_xor_sync(0xffffffff, value, k);
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
        __syncthreads();
        for (int w = 1; w < blockDim.x / 32; w++) value += parts[w];
        if (threadIdx.x == 0) sums[blockIdx.x] = value;
        atomicAdd(count, 1ull);
    }"""
    x, sums, count = cp.arange(1000, dtype=np.float32), cp.empty(4, np.float32), cp.zeros(1, np.uint64)
    run(code, 4, 256, x, sums, count, 1000)
    assert sums.get().sum() == 499_500
    assert count.item() == 1024


def test_block_scan_in_dynamic_memory(cp, run):
    code = """(const int* x, int* y) {
        extern __shared__ unsigned char dynamic_shared[];
        int* sums = reinterpret_cast<int*>(dynamic_shared);
        sums[threadIdx.x] = x[threadIdx.x];
        for (int by = 1; by < blockDim.x; by *= 2) {
            __syncthreads();
            const int other = threadIdx.x >= by ? sums[threadIdx.x - by] : 0;
            __syncthreads(), sums[threadIdx.x] += other;
        }
        y[threadIdx.x] = sums[threadIdx.x];
    }"""
    x = cp.arange(1000, dtype=np.int32)
    y = cp.empty_like(x)
    run(code, 1, 1000, x, y, shared=4000)
    assert (y == x.cumsum()).all()
    with pytest.raises(RuntimeError, match="wrote byte 3996 of 3996"):
        run(code, 1, 1000, x, y, shared=3996)


@pytest.mark.parametrize("where", ["shared", "global"])
def test_matrix_product(cp, run, rng, where):
    """A through ldmatrix from shared memory, brought there by asynchronous copies, or straight from the rows."""
    load = {
        "shared": """__shared__ __align__(16) signed char tile[16 * 32];
            copy_async16(tile + 16 * lane, a + 16 * lane), copy_async_commit(), copy_async_wait<0>(), __syncwarp();
            load_matrix(r, tile + lane % 16 * 32 + lane / 16 * 16);""",
        "global": """const unsigned* words = reinterpret_cast<const unsigned*>(a);
            for (int k = 0; k < 4; k++) r[k] = words[(lane / 4 + k % 2 * 8) * 8 + k / 2 * 4 + lane % 4];""",
    }[where]
    code = f"""(const signed char* a, const signed char* b, int* c) {{
        const int lane = threadIdx.x;
        unsigned r[4];
        {load}
        const unsigned* columns = reinterpret_cast<const unsigned*>(b + lane / 4 * 32);
        int sums[4] = {{1, 1, 1, 1}};
        mma_s8(sums, r[0], r[1], r[2], r[3], columns[lane % 4], columns[lane % 4 + 4]);
        for (int k = 0; k < 4; k++) c[(lane / 4 + k / 2 * 8) * 8 + lane % 4 * 2 + k % 2] = sums[k];
    }}"""
    a, b = rng.integers(-128, 128, (16, 32)).astype(np.int8), rng.integers(-128, 128, (8, 32)).astype(np.int8)
    c = cp.empty((16, 8), np.int32)
    run(code, 1, 32, cp.asarray(a), cp.asarray(b), c)
    np.testing.assert_array_equal(c.get(), a.astype(np.int32) @ b.T.astype(np.int32) + 1)


def test_copies_are_not_done_before_they_are_waited_for(cp, run):
    code = """(const unsigned char* x, unsigned char* y) {
        __shared__ __align__(16) unsigned char tile[32];
        for (int k = 0; k < 2; k++) copy_async16(tile + 16 * k, x), copy_async_commit();
        copy_async_wait<1>();
        y[0] = tile[0], y[1] = tile[16];
    }"""
    y = cp.empty(2, np.uint8)
    run(code, 1, 1, cp.ones(16, np.uint8), y)
    assert y.tolist() == [1, 0xA5]


def test_threads_may_return_before_a_barrier(cp, run):
    code = """(int* y) {
        __shared__ int seen;
        if (threadIdx.x == 0) seen = 0;
        __syncthreads();
        if (threadIdx.x >= 40) return;
        const unsigned all = __ballot_sync(threadIdx.x < 32 ? 0xffffffff : 0xff, threadIdx.x % 2);
        atomicAdd(&seen, __popc(all) * (threadIdx.x % 32 == 0));
        __syncthreads();
        y[threadIdx.x] = seen;
    }"""
    y = cp.empty(40, np.int32)
    run(code, 3, 100, y)
    assert y.tolist() == [20] * 40


def test_maxima_of_a_warp_and_votes_of_a_block(cp, run):
    code = """(const unsigned* x, unsigned* most, int* any) {
        most[threadIdx.x] = __reduce_max_sync(0xffffffff, x[threadIdx.x]);
        any[2 * threadIdx.x] = __syncthreads_or(x[threadIdx.x] == 7);
        any[2 * threadIdx.x + 1] = __syncthreads_or(x[threadIdx.x] == 200);
    }"""
    x, most, votes = cp.arange(96, dtype=np.uint32), cp.empty(96, np.uint32), cp.empty((96, 2), np.int32)
    run(code, 1, 96, x, most, votes)
    np.testing.assert_array_equal(most.get(), np.repeat([31, 63, 95], 32))
    np.testing.assert_array_equal(votes.get() != 0, [[True, False]] * 96)


def test_pinned_memory_is_that_of_the_host(cp, run):
    held = cp.cuda.PinnedMemory(400)
    memory = cp.cuda.UnownedMemory(held.ptr, held.size, held, 0)
    x = cp.ndarray((100,), np.float32, cp.cuda.MemoryPointer(memory, 0))
    x.fill(1)
    run("(float* x) { x[threadIdx.x] += threadIdx.x; }", 1, 100, x)
    np.testing.assert_array_equal(x.get(), np.arange(1, 101))


def test_struct_by_value(cp, run):
    record = np.dtype([("rows", np.int64), ("scale", np.float32), ("address", np.uint64)], align=True)
    x = cp.ones(5, np.float32)
    module = "struct View { long long rows; float scale; float* address; };\n"
    module += 'extern "C" __global__ void grow(View v) { for (int i = 0; i < v.rows; i++) v.address[i] *= v.scale; }'
    grow = cp.RawModule(code=module).get_function("grow")
    grow((1,), (1,), (np.array([(5, 2, x.data.ptr)], record),))
    assert x.tolist() == [2] * 5
    with pytest.raises(RuntimeError, match="kernel grow wrote before or behind an array"):
        grow((1,), (1,), (np.array([(6, 2, x.data.ptr)], record),))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x % 2) __syncthreads(); else __shfl_sync(~0u, 1, 0);", "deadlock: in warp 0 lane 0 waits at"),
        ("if (threadIdx.x % 2) __any_sync(~0u, 1); else __shfl_sync(~0u, 1, 0);", "__shfl_sync .* at __any_sync"),
        ("if (threadIdx.x < 9) __syncwarp(0xff);", "mask 0x000000ff, which does not name it"),
        ("x[0] = reinterpret_cast<uint4*>(x + 1)->x;", "misaligned"),
        (
            "__shared__ int y[4]; y[threadIdx.x] = 0;",
            r"an index lies outside .*thread \(4, 0, 0\), in block",
        ),
        ("x[0] = 1 << (32 + x[0]);", "a shift by more"),
        ("x[0] = (x[0] + 1) * 3e9f;", "a float was converted"),
        ("x[64 + threadIdx.x] = 0;", "wrote before or behind argument 0"),
    ],
)
def test_faults_are_reported(cp, run, body, message):
    with pytest.raises(RuntimeError, match=f"kernel broken:.*{message}|kernel broken {message}"):
        run(f"(int* x) {{ {body} }}", 1, 64, cp.zeros(64, np.int32), name="broken")


@pytest.mark.parametrize("flush", [False, True])
def test_conversions_keep_subnormals(cp, run, monkeypatch, flush):
    code = """(const float* x, const unsigned short* h, double* wide, float* back, float* halves, float* halved) {
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        wide[i] = exact64(x[i]), back[i] = narrow(wide[i] * (1 + 0x1p-30));
        halves[i] = half_to_float(h[i]), halved[i] = x[i] * 0.5f;
    }"""
    patterns = np.concatenate(
        [np.arange(0, 2**32, 2**16, dtype=np.uint32)[:65280:2], np.arange(2**22 - 64, 2**22 + 64)]
    )
    x = patterns.astype(np.uint32)[: 128 * 255].view(np.float32)
    x = x[np.isfinite(x)][: 128 * 250]
    h = np.arange(len(x)).astype(np.uint16)
    wide, (back, halves, halved) = cp.empty(len(x)), (cp.empty(len(x), np.float32) for _ in range(3))
    monkeypatch.setattr(cp.emulator, "flush", flush)
    run(code, 250, 128, cp.asarray(x), cp.asarray(h), wide, back, halves, halved)
    np.testing.assert_array_equal(wide.get(), x.astype(np.float64))
    np.testing.assert_array_equal(back.get(), (x.astype(np.float64) * (1 + 2.0**-30)).astype(np.float32))
    np.testing.assert_array_equal(halves.get(), h.view(np.float16).astype(np.float32))
    small = (x != 0) & (np.abs(x) < 2.0**-126)
    assert (halved.get()[small] == (0 if flush else x[small] * np.float32(0.5))).all()


def test_arrays_do_not_mix_with_numpy(cp):
    x = cp.arange(3)
    for mix in (
        np.asarray,
        lambda x: np.arange(3) + x,
        lambda x: x + np.arange(3),
        lambda x: cp.minimum(x, np.ones(3)),
    ):
        with pytest.raises(TypeError):
            mix(x)
    with pytest.raises(TypeError, match="unexpected keyword"):
        cp.unpackbits(cp.zeros(1, np.uint8), count=3)
    assert isinstance(x.sum(), cp.ndarray)
    assert (x[1:] + 2 * x[0] == cp.asarray([1, 2])).all().item()
    first, x[0] = x[0], 5
    assert first.item() == 5
    assert cp.from_dlpack(cp.ones(3, ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16
    assert cp.from_dlpack(x).data.ptr == cp.asarray(x).data.ptr == x.data.ptr


def test_memory_is_limited(cp):
    pool = cp.get_default_memory_pool()
    before = pool.used_bytes()
    pool.set_limit(size=before + 4096)
    try:
        with pytest.raises(cp.cuda.memory.OutOfMemoryError):
            cp.empty(4097, np.uint8)
        kept = cp.empty(4096, np.uint8)[::2]
        assert pool.used_bytes() == before + 4096
        del kept
        assert pool.used_bytes() == before
    finally:
        pool.set_limit(size=0)
