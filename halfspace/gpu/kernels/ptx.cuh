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

// Add the product of a 16 x 32 matrix of int8 and a 32 x 8 one to a 16 x 8 one of int32. With g = lane / 4 and t = lane % 4,
// a0 and a1 hold columns 4 t to 4 t + 3 of rows g and g + 8, a2 and a3 columns 16 + 4 t to 19 + 4 t; b0 and b1 hold these
// rows of column g; c holds columns 2 t and 2 t + 1 of row g, then of row g + 8.
__device__ __forceinline__ void mma_s8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                       unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Load four matrices of 8 rows of 16 bytes; lane i says where row i % 8 of matrix i / 8 lies, in shared memory. Register k
// gets 4 bytes of matrix k, from 4 (lane % 4) on in row lane / 4.
__device__ __forceinline__ void load_matrix(unsigned (&r)[4], const void* shared) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(place));
}

// Begin to copy 16 bytes into shared memory.
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
