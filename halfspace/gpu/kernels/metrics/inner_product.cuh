// Inner products: the twin of halfspace/cpu/metrics/inner_product.py.
#pragma once

#include "exact.cuh"
#include "metrics/item.cuh"

// What is summed in float64 over the dimensions.
struct Sums {
    double product;

    __device__ __forceinline__ void add(double own, double value) { product = fma(own, value, product); }

    __device__ __forceinline__ void join(int step) { product += __shfl_xor_sync(FULL, product, step); }

    __device__ __forceinline__ Sums of_lane(int lane) const { return Sums{__shfl_sync(FULL, product, lane)}; }
};

// Decide a vector by its sums.
__device__ __forceinline__ Decision decide(const Call& call, const Item& item, const Sums& sums) {
    const Plan& plan = call.plans[item.direction];
    const double norm = exact64(item.segment->norms[item.row]);
    const double size = plan.norm * norm;
    const bool exact = size <= exact_below(plan.grain, item.segment->grain) || size == 0.0;
    const double error = exact ? 0.0 : plan.slope * norm + plan.intercept;
    const double gap = sums.product - plan.tau;
    const bool hit = gap >= error;
    const bool certain = gap < -error || (hit && (call.wanted != SCORES || rounds_once(sums.product, error)));
    return Decision{hit, certain, narrow(sums.product + 0.0)};
}

// Decide a vector whose float64 product is too close to tau or to a rounding boundary; by a warp, whose lanes all get
// whether it is a hit, and the score.
__device__ __noinline__ bool decide_hairline(const Segment& segment, long long row, const float* direction, const Plan& plan,
                                             long long dim, bool scored, float& score) {
    const stored_t* vector = static_cast<const stored_t*>(segment.vectors) + row * dim;
    const Parts parts = compare_parts(vector, segment.norms[row], segment.grain, direction, dim, plan);
    if (parts.known) {
        score = 0.0f;
        if (!parts.hit || !scored) return parts.hit;
        double remainder;
        const double value = two_sum(parts.high, parts.low, remainder);
        double spread = fabs(remainder) + parts.bound;
        if (spread > 0.0)  // large enough to show in value - spread, which float64 rounds too
            spread = 2.0 * spread + 0x1p-52 * fabs(value);
        if (rounds_once(value, spread)) {
            score = narrow(value + 0.0);
            return true;
        }
    }
    return compare_exactly(vector, direction, dim, plan.tau, score);
}
