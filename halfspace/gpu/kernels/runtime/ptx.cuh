// Instructions that CUDA C++ has no name for. All inline assembly is here.
#pragma once

#ifndef INFINITY  // the runtime compiler includes no <math.h>
#define INFINITY __int_as_float(0x7f800000)
#endif

// Widen to float64, subnormals too: unlike a cast under -ftz=true, this flushes nothing.
__device__ __forceinline__ double exact64(float value) {
    double wide;
    asm("cvt.f64.f32 %0, %1;" : "=d"(wide) : "f"(value));
    return wide;
}

// Round to the nearest float32, ties to even; subnormals are kept, too large values become infinite.
__device__ __forceinline__ float narrow(double value) {
    float nearest;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(nearest) : "d"(value));
    return nearest;
}

// Widen the bits of a float16 (exact: no float16 is a subnormal float32).
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
    return wide;
}

// Bits of the nearest float16, or bfloat16, ties to even.
__device__ __forceinline__ unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
__device__ __forceinline__ unsigned short float_to_bfloat16(float value) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Read 16 bytes that will not be read again.
__device__ __forceinline__ uint4 stream128(const void* place) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(place));
    return value;
}

// Read 4 bytes that will not be read again.
__device__ __forceinline__ unsigned stream32(const void* place) {
    unsigned value;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(value) : "l"(place));
    return value;
}

// Add the product of a 16 x 32 matrix of int8 and a 32 x 8 one to a 16 x 8 one of int32. With g = lane / 4 and t = lane
// % 4, a0 and a1 hold columns 4 t to 4 t + 3 of rows g and g + 8, a2 and a3 columns 16 + 4 t to 19 + 4 t; b0 and b1
// hold these rows of column g; c holds columns 2 t and 2 t + 1 of row g, then of row g + 8.
__device__ __forceinline__ void mma_s8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                       unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The same, where the bytes of the first matrix are not signed.
__device__ __forceinline__ void mma_u8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                       unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Load four matrices of 8 rows of 16 bytes; lane i says where row i % 8 of matrix i / 8 lies, in shared memory.
// Register k gets 4 bytes of matrix k, from 4 (lane % 4) on in row lane / 4.
__device__ __forceinline__ void load_matrix(unsigned (&r)[4], const void* shared) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(place));
}

// Read 16 bytes that other blocks may have written during this launch.
__device__ __forceinline__ float4 reload128(const void* place) {
    float4 value;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w) : "l"(place) : "memory");
    return value;
}

// Add 1 to a counter, after all that this block has written, and before all that this thread will read; returns what it
// was.
__device__ __forceinline__ unsigned arrive(unsigned* counter) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

// Wait for the kernel before this one. A kernel that is launched to overlap it begins while that one ends, and touches
// nothing until it has waited.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Let the next kernel begin, when all blocks have come here or ended.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Begin to copy 4 or 16 bytes into shared memory.
__device__ __forceinline__ void copy_async4(void* shared, const void* global) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(place), "l"(global) : "memory");
}
__device__ __forceinline__ void copy_async16(void* shared, const void* global) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(global) : "memory");
}

// Close a group of copies.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until all but the last PENDING groups of this thread's copies are there.
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Copies of a whole warp into shared memory, tile by tile: all its lanes call these functions. From compute capability
// 9.0 on, one lane has the copy engine do them, which counts bytes at the barrier of the tile's stage; else each lane
// copies a part, in the group that it has open. So a lane closes a group for each tile, and waits for it before it
// waits for the tile.
#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void tile_begin(unsigned long long* barrier, unsigned bytes) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(barrier));
    if (threadIdx.x % 32 == 0)
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(place), "r"(bytes) : "memory");
}
// Copy a multiple of 16 bytes, from and to multiples of 16.
__device__ __forceinline__ void tile_copy(void* shared, const void* global, unsigned bytes,
                                          unsigned long long* barrier) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const unsigned counter = static_cast<unsigned>(__cvta_generic_to_shared(barrier));
    if (threadIdx.x % 32 == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
                     "r"(place), "l"(global), "r"(bytes), "r"(counter) : "memory");
}
// Wait until a tile is there; `parity` says whether its stage was used an odd number of times before.
__device__ __forceinline__ void tile_wait(unsigned long long* barrier, unsigned parity) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(barrier));
    asm volatile("{\n.reg .pred done;\nagain_%=:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again_%=;\n}" ::"r"(place), "r"(parity) : "memory");
    __syncwarp();
}
// Make a barrier of a stage, by one thread, before the warp is synchronised.
__device__ __forceinline__ void make_barrier(unsigned long long* barrier) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(barrier));
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(place) : "memory");
}
// Let copies come after what this thread has written, or read, in shared memory.
__device__ __forceinline__ void before_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else
__device__ __forceinline__ void tile_begin(unsigned long long*, unsigned) {}
__device__ __forceinline__ void tile_copy(void* shared, const void* global, unsigned bytes, unsigned long long*) {
    for (unsigned at = threadIdx.x % 32 * 16; at < bytes; at += 512)
        copy_async16(static_cast<char*>(shared) + at, static_cast<const char*>(global) + at);
}
__device__ __forceinline__ void tile_wait(unsigned long long*, unsigned) { __syncwarp(); }
__device__ __forceinline__ void make_barrier(unsigned long long*) {}
__device__ __forceinline__ void before_copies() {}
#endif
