// A key of a cache, measured and coded by a warp: the same numbers whether it comes alone, in a prefill, or again.
// What is coded and how is in coding.cuh; sums go over lanes that hold four dimensions each, or four of each 128.
#pragma once

#include "attention/cache.cuh"
#include "filters/coding.cuh"
#include "runtime/records.cuh"

#define OWN 4              // dimensions of a lane, of each
#define SPAN (OWN * WARP)  // so many
#define SPANS ((HEAD_DIM + SPAN - 1) / SPAN)
#define WORDS (HEAD_DIM / 8)

// The first dimension of a lane in a span; HEAD_DIM is a multiple of 8, so that it has the other three as well or none.
__device__ __forceinline__ int dimension_of(int span) { return SPAN * span + OWN * lane_number(); }

// A lane's dimensions of the frame of a space.
struct Frame {
    float4 centre[SPANS], weight[SPANS];
};

// A lane's dimensions of a vector.
struct alignas(OWN * sizeof(stored_t)) Quad {
    stored_t own[OWN];
};
struct Vector {
    Quad quads[SPANS];
};

__device__ __forceinline__ Frame load_frame(const Cache& cache, long long space) {
    Frame frame;
#pragma unroll
    for (int span = 0; span < SPANS; span++) {
        const int j = dimension_of(span);
        const bool inside = j < HEAD_DIM;
        const float4* centre = reinterpret_cast<const float4*>(cache.centre + space * HEAD_DIM + j);
        const float4* weight = reinterpret_cast<const float4*>(cache.weights + space * HEAD_DIM + j);
        frame.centre[span] = inside ? *centre : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        frame.weight[span] = inside ? *weight : make_float4(1.0f, 1.0f, 1.0f, 1.0f);
    }
    return frame;
}

__device__ __forceinline__ double number_of(const float4& four, int k) {
    return exact64(k == 0 ? four.x : k == 1 ? four.y : k == 2 ? four.z : four.w);
}

// Read a vector (d,) that may begin anywhere.
__device__ __forceinline__ Vector load_vector(const stored_t* vector) {
    Vector held = {};
    const bool aligned = reinterpret_cast<unsigned long long>(vector) % sizeof(Quad) == 0;
#pragma unroll
    for (int span = 0; span < SPANS; span++) {
        const int j = dimension_of(span);
        if (j >= HEAD_DIM) continue;
        if (aligned) {
            held.quads[span] = *reinterpret_cast<const Quad*>(vector + j);
        } else {
#pragma unroll
            for (int k = 0; k < OWN; k++) held.quads[span].own[k] = vector[j + k];
        }
    }
    return held;
}

// Write a vector (d,) to its row in a cache.
__device__ __forceinline__ void store_vector(stored_t* row, const Vector& held) {
#pragma unroll
    for (int span = 0; span < SPANS; span++)
        if (dimension_of(span) < HEAD_DIM) *reinterpret_cast<Quad*>(row + dimension_of(span)) = held.quads[span];
}

// Whether all that a lane has is finite.
__device__ __forceinline__ bool all_finite(const Vector& held) {
    bool good = true;
#pragma unroll
    for (int span = 0; span < SPANS; span++) {
#pragma unroll
        for (int k = 0; k < OWN; k++) good = good && finite(held.quads[span].own[k]);
    }
    return good;
}

// The largest of numbers that are not negative, by a warp, whose lanes all get it: the order of their bits is theirs.
__device__ __forceinline__ double largest_of_warp(double value) {
    const unsigned long long bits = (unsigned long long)__double_as_longlong(value);
    const unsigned upper = __reduce_max_sync(FULL, (unsigned)(bits >> 32));
    const unsigned lower = __reduce_max_sync(FULL, (unsigned)(bits >> 32) == upper ? (unsigned)bits : 0u);
    return __longlong_as_double((long long)((unsigned long long)upper << 32 | lower));
}

// Bound the norm of a value, all finite, as row `row` of a space; by a warp.
__device__ inline void bound_value(const Cache& cache, long long space, long long row, const Vector& value) {
    double squares = 0.0;
#pragma unroll
    for (int span = 0; span < SPANS; span++) {
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            const double own = widen64(value.quads[span].own[k]);
            squares += own * own;
        }
    }
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) squares += __shfl_xor_sync(FULL, squares, step);
    if (lane_number() != 0) return;
    const long long chunks = (cache.capacity + CHUNK - 1) / CHUNK;
    // norms are not negative: the order of their bits is theirs
    atomicMax(reinterpret_cast<unsigned*>(cache.value_peaks) + space * chunks + row / CHUNK,
              __float_as_uint(round_up32(norm_bound(squares, HEAD_DIM))));
}

// Code a key, all finite, as row `row` of a space, and bound its norm; by a warp.
__device__ inline void encode_key(const Cache& cache, long long space, long long row, const Vector& key, const Frame& frame) {
    const int lane = lane_number();
    const long long blocks = cache.capacity / BLOCK;
    double offset[SPANS][OWN], inverse[SPANS][OWN];
    double largest = 0.0, sums[3] = {0.0, 0.0, 0.0};  // squares of what whole codes leave, of what high ones do, of the key
#pragma unroll
    for (int span = 0; span < SPANS; span++) {
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            const double value = widen64(key.quads[span].own[k]);
            offset[span][k] = value - number_of(frame.centre[span], k);
            inverse[span][k] = 1.0 / number_of(frame.weight[span], k);
            largest = fmax(largest, fabs(offset[span][k]) * inverse[span][k]);
            sums[2] += value * value;
        }
    }
    const Lattice lattice = lattice_of(largest_of_warp(largest));

    unsigned* high = reinterpret_cast<unsigned*>(cache.high) + (space * blocks + row / BLOCK) * WORDS * BLOCK + row % BLOCK;
    unsigned* low = reinterpret_cast<unsigned*>(cache.low) + space * (cache.capacity * WORDS + 16) + row * WORDS;
#pragma unroll
    for (int span = 0; span < SPANS; span++) {
        const bool inside = dimension_of(span) < HEAD_DIM;
        unsigned highs = 0, lows = 0;
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            const Component own = code_component(offset[span][k], number_of(frame.weight[span], k), inverse[span][k], lattice);
            if (inside) {
                sums[0] += own.rest * own.rest;
                sums[1] += own.coarse * own.coarse;
            }
            highs |= (own.code >> 4) << (8 * k);
            lows |= (own.code & 15u) << (8 * k);
        }
        // two lanes have the halves of a word: the one with the lower dimensions holds the lower bits
        highs |= __shfl_down_sync(FULL, highs, 1) << 4;
        lows |= __shfl_down_sync(FULL, lows, 1) << 4;
        if (inside && lane % 2 == 0) {
            high[dimension_of(span) / 8 * BLOCK] = highs;
            low[dimension_of(span) / 8] = lows;
        }
    }
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
#pragma unroll
        for (int k = 0; k < 3; k++) sums[k] += __shfl_xor_sync(FULL, sums[k], step);
    }
    // a lane for each of the three: they take the same steps
    const long long rows = space * cache.capacity, chunks = (cache.capacity + CHUNK - 1) / CHUNK;
    double length = norm_bound(lane == 0 ? sums[0] : lane == 1 ? sums[1] : sums[2], HEAD_DIM);
    if (lane < 2) length = residual_bound(length, lattice.scale, 0.0, HEAD_DIM);
    const unsigned bound = __float_as_uint(round_up32(length));
    if (lane < 2) {
        cache.radii[2 * rows + (1 - lane) * cache.capacity + row] = (unsigned short)((bound + 0xFFFFu) >> 16);
    } else if (lane == 2) {
        cache.norms[rows + row] = __uint_as_float(bound);
        // norms are not negative: the order of their bits is theirs
        atomicMax(reinterpret_cast<unsigned*>(cache.peaks) + space * chunks + row / CHUNK, bound);
    } else if (lane == 3) {
        cache.scales[rows + row] = lattice.bits;
    }
}
