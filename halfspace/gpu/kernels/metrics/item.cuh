// One vector and one direction, which are decided.
#pragma once

#include "formats.cuh"
#include "runtime/records.cuh"

struct Item {
    bool valid;
    long long direction;
    const Segment* segment;
    long long row;

    // The item that another lane has.
    __device__ __forceinline__ Item of_lane(int lane) const {
        const long long place = __shfl_sync(FULL, reinterpret_cast<long long>(segment), lane);
        return Item{valid, __shfl_sync(FULL, direction, lane), reinterpret_cast<const Segment*>(place),
                    __shfl_sync(FULL, row, lane)};
    }
};

// What was decided; the score counts for a hit alone, and where scores are wanted.
struct Decision {
    bool hit;
    bool certain;
    float score;
};
