// What a filter leaves of a warp's rows: hits for certain are held at once, unless their scores are wanted; other rows
// are listed as candidates.
#pragma once

#include "emit.cuh"

// own : whether the lane has a row that is not excluded; sure : whether that is a hit
__device__ __forceinline__ void leave(const Call& call, const Segment& segment, long long direction, long long chunk,
                                      bool own, bool sure, long long row) {
    const bool hit = own && sure && call.wanted != SCORES;
    if (call.wanted == COUNT) {  // no place has to be known: one lane counts for all
        const unsigned lanes = __ballot_sync(FULL, hit);
        if (lanes != 0 && lane_number() == 0)
            atomicAdd(call.counts + direction * call.chunks + chunk, (unsigned long long)__popc(lanes));
    } else if (hit) {
        mark_hit(call, segment, direction, row);
    }
    list_pairs(call, own && !hit, pair_of(direction, chunk, (int)(row & (CHUNK - 1))));
}
