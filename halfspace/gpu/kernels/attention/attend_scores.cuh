// The filter of attention where scores have been bracketed: each warp goes over the upper ends of its own tiles and lists
// the rows that any of the block's query heads may keep.
#pragma once

#include "attention/attend_codes.cuh"

// The least upper ends of what heads keep, as the halves of words: those of an even head, and of an odd one, are upper
// halves of int32, so that they compare as what follows them in a word does not matter.
struct Limits {
    int heads[SET];

    // Of lane h, the position up to which keys of head h are left out.
    __device__ __forceinline__ explicit Limits(int limit) {
#pragma unroll
        for (int h = 0; h < SET; h++)
            heads[h] = (int)((unsigned)(min(max(__shfl_sync(FULL, limit, h), BELOW - 1), ABOVE - 1) + 1) << 16);
    }

    // Whether any head may keep a row with these upper ends.
    __device__ __forceinline__ bool keep(uint2 ends) const {
        return (int)(ends.x << 16) >= heads[0] || (int)ends.x >= heads[1] || (int)(ends.y << 16) >= heads[2] ||
               (int)ends.y >= heads[3];
    }
};

// List what may be kept by upper ends of scores, which are there for all keys, until there are no more, or the list is full.
// A lane has a tile copied into the warp's ring, as many as there is room for, and then sees to its own row of each.
__device__ __forceinline__ void filter_scores(const Space& space, Shared& shared, const short* uppers, const Limits& limits,
                                              Walk& walk) {
    constexpr int BYTES = ROWS * SET * 2, AT_ONCE = RING / BYTES < WARP ? RING / BYTES : WARP;
    static_assert(SEGMENT >= ROWS && SET == 4, "a list has room for a tile; ends of a row are two words");
    const int warp = threadIdx.x / WARP, lane = lane_number();
    const int first = walk.at, last = min(walk.total, first + 0x10000 / ROWS);
    int found = 0;
#pragma unroll 1
    while (walk.at < last && found + ROWS <= SEGMENT) {
        const int tiles = min(AT_ONCE, last - walk.at);
        __syncwarp();  // all have read what was there
        tile_begin(walk.barriers, BYTES * tiles);
        const long long own_tile = tile_of(space, walk.at + lane, warp);
        if (lane < tiles) lane_copy(walk.ring + BYTES * lane, uppers + own_tile * (ROWS * SET), BYTES, walk.barriers);
        copy_async_commit();
        copy_async_wait<0>();
        tile_wait(walk.barriers, walk.parity & 1);
        walk.parity ^= 1;
        const uint2* own = reinterpret_cast<const uint2*>(walk.ring) + lane;
#pragma unroll 4
        for (int k = 0; k < tiles && found + ROWS <= SEGMENT; k++, walk.at++) {
            const int row = tile_of(space, walk.at, warp) * ROWS + lane;
            add_rows(shared.list[warp], found, row < space.rows && (limits.keep(own[k * ROWS]) || is_forced(space, row)),
                     (walk.at - first) * ROWS + lane);
        }
    }
    if (lane == 0) shared.found[warp] = found, shared.first[warp] = first, shared.going[warp] = walk.at < walk.total;
}
