// Cosines: the twin of halfspace/cpu/metrics/cosine.py.
#pragma once

#include "naturals.cuh"
#include "metrics/item.cuh"

// What is summed in float64 over the dimensions: the product, and the squares of the vector.
struct Sums {
    double product;
    double squares;

    __device__ __forceinline__ void add(double own, double value) {
        product = fma(own, value, product);
        squares = fma(value, value, squares);
    }

    __device__ __forceinline__ void join(int step) {
        product += __shfl_xor_sync(FULL, product, step);
        squares += __shfl_xor_sync(FULL, squares, step);
    }

    __device__ __forceinline__ Sums of_lane(int lane) const {
        return Sums{__shfl_sync(FULL, product, lane), __shfl_sync(FULL, squares, lane)};
    }
};

// Decide a vector by its sums: <q, x> is compared with tau |q| |x|.
__device__ __forceinline__ Decision decide(const Call& call, const Item& item, const Sums& sums) {
    const Plan& plan = call.plans[item.direction];
    const double norm = exact64(item.segment->norms[item.row]);
    const bool exact = plan.norm * norm <= exact_below(plan.grain, item.segment->grain);
    const double error = exact ? 0.0 : plan.slope * norm + plan.intercept;
    const double lengths = plan.norm * sqrt(sums.squares), share = cosine_spread(call.dim);
    const double value = sums.product / lengths;
    bool hit = plan.tau < 0.0, missed = !hit;
    if (fabs(plan.tau) < INFINITY) {
        const double level = plan.tau * lengths, doubt = error + share * fabs(level);
        hit = sums.product - level >= doubt;
        missed = sums.product - level < -doubt;
    }
    const double spread = 1.0001 * (error / lengths) + share * fabs(value);
    return Decision{hit, missed || (hit && (call.wanted != SCORES || rounds_once(value, spread))), narrow(value + 0.0)};
}

// Decide a vector that float64 leaves a doubt of; by a warp, whose lanes all get whether it is a hit, and the score.
//
// The square of the cosine is <q, x>^2 / (|q|^2 |x|^2), of three natural numbers, |x|^2 and the others.
__device__ __noinline__ bool decide_hairline(const Segment& segment, long long row, const float* direction, const Plan& plan,
                                             long long dim, bool scored, float& score) {
    __shared__ Root roots[THREADS / WARP];
    Root& root = roots[threadIdx.x / WARP];
    const stored_t* vector = static_cast<const stored_t*>(segment.vectors) + row * dim;
    const double tau = plan.tau;
    Register sum = {};
    for (long long j = lane_number(); j < dim; j += WARP) sum.add_product(direction[j], widen(vector[j]));
    sum.join();
    const bool negative = put(root.work[0], sum);
    multiply(root.work[0], root.work[0], root.square);
    sum = {};
    for (long long j = lane_number(); j < dim; j += WARP) sum.add_product(direction[j], direction[j]);
    sum.join();
    put(root.work[0], sum);
    sum = {};
    for (long long j = lane_number(); j < dim; j += WARP) sum.add_product(widen(vector[j]), widen(vector[j]));
    sum.join();
    put(root.work[1], sum);
    multiply(root.work[0], root.work[1], root.unit);
    if (lane_number() == 0) root.places = 0;
    __syncwarp();
    bool hit = tau < 0.0;
    if (fabs(tau) < INFINITY) {
        hit = !negative;
        if (tau != 0.0 && negative == (tau < 0.0)) {
            const int above = compare(root, fabs(tau));
            hit = negative ? above <= 0 : above >= 0;
        }
    }
    score = 0.0f;
    if (!hit || !scored) return hit;
    const int units = -2 * LOWEST;
    const float size = nearest_root(root, sqrt(about(root.square, units)) / sqrt(about(root.unit, units)));
    score = __uint_as_float(__float_as_uint(size) | (negative ? 0x80000000u : 0));
    return true;
}
