// The floating-point contract on the device: twins of the functions of halfspace/model/rounding.py, which holds the proof of
// each under the same name. Operations and their order are the same, so that results are the same to the bit.
#pragma once

constexpr double UNIT = 0x1p-53;   // u
constexpr double TINY = 0x1p-126;  // t

// Upper bound of |x| from the float64 sum of its `dim` squares.
__device__ inline double norm_bound(double sum_of_squares, long long dim) {
    return sqrt(sum_of_squares) * (1.0 + static_cast<double>(dim + 4) * UNIT);
}

// First half of the bound slope * |x| + intercept on the error of a float64 dot product; `norm` is |q|.
__device__ inline double dot_slope(long long dim, double norm) {
    return static_cast<double>(dim + 8) * UNIT * norm + 1.0001 * TINY * sqrt(static_cast<double>(dim));
}

// Second half of it.
__device__ inline double dot_intercept(long long dim, double norm) {
    return 1.0001 * TINY * sqrt(static_cast<double>(dim)) * norm;
}

// Bound on |q| |x| below which a float64 dot product has no error at all.
__device__ inline double exact_below(double direction_grain, double vector_grain) {
    if (direction_grain < TINY || vector_grain < TINY) return 0.0;
    return 0x1p52 * (direction_grain * vector_grain);
}

// Relative error of tau |q| |x| in float64, and of a product that is divided by |q| |x|.
__device__ inline double cosine_spread(long long dim) { return static_cast<double>(2 * dim + 16) * UNIT; }

// Relative error of a float64 distance; nothing is flushed here.
__device__ inline double distance_slope(long long dim) { return (0.5 * static_cast<double>(dim) + 8.0) * UNIT; }

// Bound on |q| + |x| below which a float64 sum of squares of x_j - q_j has no error at all.
__device__ inline double distance_exact_below(double direction_grain, double vector_grain) {
    if (direction_grain < TINY || vector_grain < TINY) return 0.0;
    return 0x1p26 * fmin(direction_grain, vector_grain);
}

// Radius of a cell: upper bound of |x - c - scale * code| from the `norm_bound` of that residual as computed.
__device__ inline double residual_bound(double norm, double scale, double extent, long long dim) {
    return norm + 0x1p-45 * scale * sqrt(static_cast<double>(dim)) + 2.0 * UNIT * extent;
}

// Bound k with |<q, s c> - s a (A c)| <= s k: what a direction's own coding costs, per unit of a code's scale.
__device__ inline double reach(double digit_scale, double residual, double norm, double span, long long dim) {
    return residual * span * (1.0 + 32.0 * UNIT) +
           128.0 * sqrt(static_cast<double>(dim)) * (32.0 * UNIT) * (norm + residual + digit_scale);
}

// |q| rounded up, so that factor * radius may be rounded, and added to, in float64.
__device__ inline double radius_factor(double norm) { return norm * (1.0 + 16.0 * UNIT); }

// Slack, in units of an integer dot product, of a test in float32.
__device__ inline double pair_margin(double digit_sum, double ratio, long long dim) {
    const double wide = static_cast<double>(dim);
    return 4.0 + 0x1p-18 * (256.0 * digit_sum + 128.0 * wide + ratio * sqrt(wide));
}

// Slack of a bound in float32, for each unit of a row's scale, of an integer product that is at most so large.
__device__ inline double glance_margin(double unit, double most, double slack) {
    return 0x1p-20 * (unit * (most + 1.0) + slack);
}

// What such a bound may lack besides, where numbers are flushed to 0.
__device__ inline double glance_loss(double unit, double most, double slack, double factor) {
    return 0x1p-124 * (unit * most + slack + factor + 1.0);
}

// Upper bound of |q| |x| from upper bounds of both, its own rounding included.
__device__ inline double longest_product(double norm, double peak) { return norm * peak * (1.0 + 8.0 * UNIT); }

// Slack of tau - base, the threshold seen from a centre, where base = <q, m> errs by at most `base_error`.
__device__ inline double threshold_margin(double tau, double base, double base_error) {
    return base_error * (1.0 + 8.0 * UNIT) + 16.0 * UNIT * (fabs(tau) + fabs(base));
}

// Slack of a threshold for sums of at most `terms` bounds whose magnitudes sum to at most `total`.
__device__ inline double sum_margin(double tau, double total, long long terms) {
    return static_cast<double>(terms + 8) * UNIT * (fabs(tau) + total);
}

// Lower bound of |x - m|^2 / 2, from the float64 sum of the squares of its `dim` differences.
__device__ inline double half_square(double sum_of_squares, long long dim) {
    return 0.5 * sum_of_squares * (1.0 - static_cast<double>(dim + 32) * UNIT);
}

// Slack of (square - other) / 2, of a float64 sum of `dim` squares of rounded differences and of a square.
__device__ inline double square_margin(double square, double other, long long dim) {
    return static_cast<double>(dim + 64) * UNIT * (square + other);
}

// Bound on the error of (|C - m|^2 - radius^2) / 2 for the centre C of a ball, as computed in float64.
__device__ inline double ball_doubt(double length, double radius, double extent, long long dim) {
    const double off = 2.0 * UNIT * extent;
    return static_cast<double>(dim + 64) * UNIT * (length * length + radius * radius) + off * (2.0 * length + off);
}
