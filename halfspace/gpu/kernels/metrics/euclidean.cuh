// Euclidean distances: the twin of halfspace/cpu/metrics/euclidean.py.
#pragma once

#include "naturals.cuh"
#include "metrics/item.cuh"

// What is summed in float64 over the dimensions: the squares of differences.
struct Sums {
    double squares;

    __device__ __forceinline__ void add(double own, double value) {
        const double apart = value - own;
        squares = fma(apart, apart, squares);
    }

    __device__ __forceinline__ void join(int step) { squares += __shfl_xor_sync(FULL, squares, step); }

    __device__ __forceinline__ Sums of_lane(int lane) const { return Sums{__shfl_sync(FULL, squares, lane)}; }
};

// Decide a vector by its sums: the distance is compared with the radius, -tau.
__device__ __forceinline__ Decision decide(const Call& call, const Item& item, const Sums& sums) {
    const Plan& plan = call.plans[item.direction];
    const double distance = sqrt(sums.squares), error = distance_slope(call.dim) * distance;
    bool hit = plan.tau < 0.0, missed = !hit;
    if (fabs(plan.tau) < INFINITY) {
        const double both = plan.norm + exact64(item.segment->norms[item.row]);
        if (both <= distance_exact_below(plan.grain, item.segment->grain)) {
            // the sum has no error, and the square of the radius has none in two parts
            const double square = plan.tau * plan.tau, rest = fma(plan.tau, plan.tau, -square);
            hit = sums.squares < square || (sums.squares == square && rest >= 0.0);
            missed = !hit;
        } else {
            const double gap = -plan.tau - distance;
            hit = gap >= error;
            missed = gap < -error;
        }
    }
    const bool certain = missed || (hit && (call.wanted != SCORES || rounds_once(distance, error)));
    return Decision{hit, certain, narrow(0.0 - distance)};
}

// Decide a vector that float64 leaves a doubt of; by a warp, whose lanes all get whether it is a hit, and the score.
__device__ __noinline__ bool decide_hairline(const Segment& segment, long long row, const float* direction, const Plan& plan,
                                             long long dim, bool scored, float& score) {
    __shared__ Root roots[THREADS / WARP];
    Root& root = roots[threadIdx.x / WARP];
    const stored_t* vector = static_cast<const stored_t*>(segment.vectors) + row * dim;
    const double tau = plan.tau;
    Register sum = {};
    for (long long j = lane_number(); j < dim; j += WARP) {
        const float own = direction[j], value = widen(vector[j]);
        sum.add_product(own, own);
        sum.add_product(value, value);
        sum.add_product(own, value, 1, true);
    }
    sum.join();
    put(root.square, sum);
    put(root.unit, 1.0, 0);
    if (lane_number() == 0) root.places = LOWEST / 2;
    __syncwarp();
    const bool hit = fabs(tau) < INFINITY ? compare(root, -tau) <= 0 : tau < 0.0;
    score = 0.0f;
    if (!hit || !scored) return hit;
    const unsigned bits = __float_as_uint(nearest_root(root, sqrt(about(root.square, -LOWEST))));
    score = __uint_as_float(bits == 0 ? 0 : bits | 0x80000000u);
    return true;
}
