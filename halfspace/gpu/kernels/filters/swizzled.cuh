// High digits of directions as the columns of tiles, in the order in which warp groups read them from shared memory.
#pragma once

#include "runtime/records.cuh"

#define COLUMNS 128  // directions of a tile
#define DEPTH 128    // dimensions of a slab of a tile, a byte each
#define SLAB (COLUMNS * DEPTH)

// Where a byte of a row lies, in slabs whose rows have DEPTH bytes: pieces of 16 bytes change places, so that those of
// eight rows lie in different banks.
__device__ __forceinline__ int swizzled(int row, int byte) { return row * DEPTH + (byte ^ (row % 8) << 4); }

__device__ __forceinline__ long long slabs_of(const Call& call) { return (call.stride + DEPTH - 1) / DEPTH; }

// The number of a tile's first slab, where all slabs of all tiles follow one another.
__device__ __forceinline__ long long first_slab(const Call& call, long long which, long long space, long long tile) {
    const long long spaces = call.count / call.batch, tiles = (call.batch + COLUMNS - 1) / COLUMNS;
    return ((which * spaces + space) * tiles + tile) * slabs_of(call);
}
