// Thresholds as they are seen from a segment's centre m: the twin of halfspace/cpu/filters/lifts.py.
#pragma once

#include "formats.cuh"
#include "rounding.cuh"
#include "runtime/records.cuh"

#define SHARE 0x1p-21      // lengths of rows lack a share of 2^-22 at most
#define SMALLEST 0x1p-124  // numbers of float32 below 2^-126 are kept as 0, or as 2^-126
#define WIDER (1.0 + 0x1p-50)  // pays for rounding factors of radii

// What was summed of a direction and a centre.
struct Seen {
    double base;     // <q, m>
    double squares;  // |m|^2, or |q - m|^2 where distances are asked
};

#if METRIC == IP
// Fill in thresholds and factors of a view, in which `norm` bounds that of what is coded of the direction.
__device__ void see(const Segment& segment, const Plan& plan, const Seen& seen, long long dim, View& view) {
    double below = plan.tau, above = plan.tau;
    if (fabs(plan.tau) < INFINITY) {
        const double error = plan.slope * norm_bound(seen.squares, dim) + plan.intercept;
        const double margin = threshold_margin(plan.tau, seen.base, error);
        below = (plan.tau - seen.base) - margin;
        above = (plan.tau - seen.base) + margin;
    }
    view.below = below;
    view.above = above;
    view.lift_below = view.lift_above = 0.0;
    view.factor = view.factor_above = radius_factor(view.norm);
    view.widest = INFINITY;
}
#else
__device__ void see(const Segment& segment, const Plan& plan, const Seen& seen, long long dim, View& view) {
    const bool grouped = segment.kind == GROUPS;
    view.below = view.above = plan.tau;
    view.lift_below = view.lift_above = 0.0;
    view.factor = view.factor_above = radius_factor(view.norm);
    view.widest = INFINITY;
    const bool finite = fabs(plan.tau) < INFINITY;
#if METRIC == COSINE
    if (!finite) return;
    const double error = plan.slope * norm_bound(seen.squares, dim) + plan.intercept;
    const double level = plan.tau * plan.norm;
    const double margin = threshold_margin(0.0, seen.base, error) + fabs(level) * SMALLEST;
    view.lift_below = level - fabs(level) * SHARE;
    view.lift_above = level + fabs(level) * SHARE;
    view.below = -seen.base - margin - (level < 0.0 ? segment.slack : 0.0);
    view.above = -seen.base + margin + segment.slack;
    if (grouped) {  // the longest vector of a ball is at most twice its radius longer than the shortest
        view.factor -= 2.0 * fmin(view.lift_below, 0.0) * WIDER;
        view.factor_above += 2.0 * fmax(view.lift_above, 0.0) * WIDER;
    }
#else
    if (grouped) {
        view.widest = -plan.tau;
        view.factor = view.factor_above = plan.tau < 0.0 ? radius_factor(-plan.tau) : 0.0;
    }
    if (!finite) return;
    const double square = plan.tau * plan.tau, level = 0.5 * (seen.squares - square);
    const double margin = square_margin(seen.squares, square, dim) + SMALLEST;
    view.below = level - margin;
    view.above = level + margin + segment.slack;
    view.lift_below = 1.0;
    view.lift_above = grouped ? 1.0 : 1.0 + SHARE;  // lengths of balls, which may be negative, lack no more than `slack`
#endif
}
#endif

#define PAIR_SHARE 0x1p-20  // of levels and lifts, which may cancel: it pays for rounding them, and their products

// A float32 that is not below a number, and not flushed; NaN, which decides nothing, where there is none.
__device__ inline float upper32(double value) {
    const float rounded = round_up32(value);
    return fabs(value) < INFINITY && exact64(rounded) == INFINITY ? __uint_as_float(0x7fc00000u) : rounded;
}

// Levels or lifts of a matrix product, moved to the safe side.
__device__ inline float less32(double value) {
    return -upper32(-value * (value > 0.0 ? 1.0 - PAIR_SHARE : 1.0 + PAIR_SHARE));
}
__device__ inline float more32(double value) {
    return upper32(value * (value > 0.0 ? 1.0 + PAIR_SHARE : 1.0 - PAIR_SHARE));
}

#if METRIC != IP
// The length of a row in units of its scale, or NaN where float32 has no such number.
__device__ inline float rise_of(float length, double scale) {
    const double rise = exact64(length) / scale;
    return rise == 0.0 || (TINY <= rise && rise < 0x1p128) ? narrow(rise) : __uint_as_float(0x7fc00000u);
}
#endif

// Thresholds of a row or ball of that length.
__device__ __forceinline__ double below_of(const View& view, double below, float length) {
    return METRIC == IP ? below : below + view.lift_below * exact64(length);
}
__device__ __forceinline__ double above_of(const View& view, double above, float length) {
    return METRIC == IP ? above : above + view.lift_above * exact64(length);
}

// The length of a row or ball; there are none of inner products.
__device__ __forceinline__ float length_of(const float* lengths, long long at) {
    return METRIC == IP ? 0.0f : lengths[at];
}
