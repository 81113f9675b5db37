// A thread for a row, which it goes over in order of dimensions, so that its sums are the CPU's; and a warp that reads.
//
// Threads that read a row each would touch 32 lines of memory at a time. So the warp reads its 32 rows slab by slab,
// a row at a time, into shared memory, where each thread finds its own.
#pragma once

#include "formats.cuh"

constexpr int SLAB = 32;     // dimensions of a slab: one for each lane
constexpr int PITCH = 33;    // one more, so that 32 threads in 32 rows use 32 banks
constexpr int WARPS = 4;     // in a block
constexpr int RESIDENT = 7;  // blocks of a multiprocessor: enough, and few enough to leave threads their registers
constexpr int AT_ONCE = 16;  // rows that a warp asks for before it waits for the first
constexpr unsigned ALL = 0xFFFFFFFFu;

__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x & 31); }

__device__ inline int warp_of_block() { return static_cast<int>(threadIdx.x >> 5); }

// What a slab holds of a component, and what that stands for.
__device__ inline float as_staged(stored_t value) { return widen(value); }
__device__ inline double as_staged(double value) { return value; }
__device__ inline double staged64(float value) { return exact64(value); }
__device__ inline double staged64(double value) { return value; }

// Where a warp's 32 rows lie: warps are numbered space by space, and the last rows of a space may leave threads idle.
struct Place {
    long long space, row;  // of this thread; its row is -1 if it has none
    bool any;              // whether this warp has rows at all
};

__device__ inline Place place_of_thread(long long spaces, long long rows) {
    const long long warps = (rows + 31) / 32;
    const long long warp = static_cast<long long>(blockIdx.x) * WARPS + warp_of_block();
    const long long row = warp % warps * 32 + lane_of_warp();
    return {warp / warps, row < rows ? row : -1, warp < spaces * warps};
}

// Read `count` dimensions from `first` on of the 32 rows of a warp. `row` is this thread's row, -1 if it has none, and
// begins at values[row * stride].
template <class Value, class Staged>
__device__ inline void stage(const Value* values, long long stride, long long row, long long first, int count,
                             Staged (&slab)[32][PITCH]) {
    const int lane = lane_of_warp();
    const long long begin = row < 0 ? -1 : row * stride + first;
    values += lane;
    __syncwarp();
#pragma unroll 1
    for (int r = 0; r < 32; r += AT_ONCE) {
        Staged read[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            const long long own = __shfl_sync(ALL, begin, r + k);
            read[k] = own >= 0 && lane < count ? as_staged(values[own]) : Staged(0);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) slab[r + k][lane] = read[k];
    }
    __syncwarp();
}

// How many dimensions the slab that begins at `first` has.
__device__ inline int slab_width(long long dim, long long first) {
    return static_cast<int>(dim - first < SLAB ? dim - first : SLAB);
}
