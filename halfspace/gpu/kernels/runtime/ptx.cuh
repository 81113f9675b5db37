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

// Add the product of a 16 x 16 matrix of float16 and a 16 x 8 one to a 16 x 8 one of float32. With g = lane / 4 and t =
// lane % 4, a0 and a1 hold columns 2 t and 2 t + 1 of rows g and g + 8, a2 and a3 columns 2 t + 8 and 2 t + 9; b0 and b1
// hold these rows of column g; c holds columns 2 t and 2 t + 1 of row g, then of row g + 8.
__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of bfloat16.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Load four matrices of 8 rows of 16 bytes; lane i says where row i % 8 of matrix i / 8 lies, in shared memory.
// Register k gets 4 bytes of matrix k, from 4 (lane % 4) on in row lane / 4.
__device__ __forceinline__ void load_matrix(unsigned (&r)[4], const void* shared) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(place));
}

// Load four matrices, each turned over: register k gets rows 2 (lane % 4) and the next of matrix k, of column lane / 4.
__device__ __forceinline__ void load_matrix_turned(unsigned (&r)[4], const void* shared) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
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

// Begin to copy 16 bytes, or write zeros if there are none.
__device__ __forceinline__ void copy_async16_if(bool there, void* shared, const void* global) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(global), "r"(there ? 16 : 0)
                 : "memory");
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
// The same, by each lane that calls it for itself.
__device__ __forceinline__ void lane_copy(void* shared, const void* global, unsigned bytes, unsigned long long* barrier) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const unsigned counter = static_cast<unsigned>(__cvta_generic_to_shared(barrier));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(place),
                 "l"(global), "r"(bytes), "r"(counter) : "memory");
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
__device__ __forceinline__ void lane_copy(void* shared, const void* global, unsigned bytes, unsigned long long*) {
    for (unsigned at = 0; at < bytes; at += 16)
        copy_async16(static_cast<char*>(shared) + at, static_cast<const char*>(global) + at);
}
__device__ __forceinline__ void tile_wait(unsigned long long*, unsigned) { __syncwarp(); }
__device__ __forceinline__ void make_barrier(unsigned long long*) {}
__device__ __forceinline__ void before_copies() {}
#endif

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// What warps of a block wait for: a barrier that `count` arrivals open, time after time, and bytes that are on their way.
__device__ __forceinline__ void make_gate(unsigned long long* gate, unsigned count) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(gate));
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;" ::"r"(place), "r"(count)
                 : "memory");
}
__device__ __forceinline__ void arrive_at(unsigned long long* gate) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(gate));
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(place) : "memory");
}
// Wait until it has opened once more; `parity` says whether it has opened an odd number of times before.
__device__ __forceinline__ void wait_at(unsigned long long* gate, unsigned parity) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(gate));
    asm volatile("{\n.reg .pred done;\nagain_%=:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again_%=;\n}" ::"r"(place), "r"(parity) : "memory");
}

// Arrive at a gate, and begin to copy a multiple of 16 bytes, which it waits for, too.
__device__ __forceinline__ void fetch_to(void* shared, const void* global, unsigned bytes, unsigned long long* gate) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const unsigned counter = static_cast<unsigned>(__cvta_generic_to_shared(gate));
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(counter), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(place),
                 "l"(global), "r"(bytes), "r"(counter) : "memory");
}

// Where an operand of `multiply_group` lies: rows of 128 bytes, swizzled, in eights of 1,024 bytes.
__device__ __forceinline__ unsigned long long operand_at(const void* shared) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    return 1ull << 62 | 64ull << 32 | 1ull << 16 | (place & 0x3ffff) >> 4;
}

// Begin to add the product of 64 rows and 128 columns of 32 int8 to int32 sums; by four warps together, the first of a
// number that is a multiple of 4. Of n-th eight columns, with g = lane / 4 and t = lane % 4, c[4 n] and c[4 n + 1] are
// columns 2 t and 2 t + 1 of row 16 (warp % 4) + g, c[4 n + 2] and c[4 n + 3] of the row eight further on.
__device__ __forceinline__ void multiply_group(int (&c)[64], const void* rows, const void* columns) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, 1;"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]), "+r"(c[4]), "+r"(c[5]), "+r"(c[6]),
          "+r"(c[7]), "+r"(c[8]), "+r"(c[9]), "+r"(c[10]), "+r"(c[11]), "+r"(c[12]), "+r"(c[13]),
          "+r"(c[14]), "+r"(c[15]), "+r"(c[16]), "+r"(c[17]), "+r"(c[18]), "+r"(c[19]), "+r"(c[20]),
          "+r"(c[21]), "+r"(c[22]), "+r"(c[23]), "+r"(c[24]), "+r"(c[25]), "+r"(c[26]), "+r"(c[27]),
          "+r"(c[28]), "+r"(c[29]), "+r"(c[30]), "+r"(c[31]), "+r"(c[32]), "+r"(c[33]), "+r"(c[34]),
          "+r"(c[35]), "+r"(c[36]), "+r"(c[37]), "+r"(c[38]), "+r"(c[39]), "+r"(c[40]), "+r"(c[41]),
          "+r"(c[42]), "+r"(c[43]), "+r"(c[44]), "+r"(c[45]), "+r"(c[46]), "+r"(c[47]), "+r"(c[48]),
          "+r"(c[49]), "+r"(c[50]), "+r"(c[51]), "+r"(c[52]), "+r"(c[53]), "+r"(c[54]), "+r"(c[55]),
          "+r"(c[56]), "+r"(c[57]), "+r"(c[58]), "+r"(c[59]), "+r"(c[60]), "+r"(c[61]), "+r"(c[62]),
          "+r"(c[63])
        : "l"(operand_at(rows)), "l"(operand_at(columns)));
}

// Let products come after what this thread has written into sums.
__device__ __forceinline__ void before_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Close a group of products.
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Wait until all but the last PENDING groups of products are done.
template <int PENDING>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Give registers of all threads of a warp group back, or take more: a multiple of 8.
template <int COUNT>
__device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// Keep the compiler from reading sums before they were waited for.
__device__ __forceinline__ void products_done(int (&c)[64]) {
#pragma unroll
    for (int i = 0; i < 64; i++) asm volatile("" : "+r"(c[i])::"memory");
}
#endif
