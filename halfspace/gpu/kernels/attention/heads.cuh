// Query heads in the frame of a cache: a warp measures one and codes it in digits, inside any kernel of attention.
// Bounds are those of prepare.cu, in float64; what tests in float32 need on top of them is here.
#pragma once

#include "attention/cache.cuh"
#include "digits.cuh"

#define HIGH_SPAN HIGH_MIDDLE  // a high code, less its middle, and a code, less 128, are within these
#define LOW_SPAN 127.0
#define V32 0x1p-24  // the unit roundoff of float32

// A query head, as all keys of a space see it.
struct Head {
    double norm;        // upper bound of |q|
    double grain;       // a power of two of which every component is a multiple
    double base;        // <q, centre>, but for an error of at most `base_error`
    double base_error;
    double factor;      // of a radius
    double unit;        // what a digit is worth: a power of two
    double digit_sum;   // sum of A_j
    double digit_size;  // sum of |A_j|
    double high_slack;  // bounds of what coding the head costs, per unit of scale: of high codes, and of whole ones
    double low_slack;
    double bad;         // 0, or 1 where a component is not finite
};

// Read a component of a query: stored bits, or float32 where they are `wide`.
__device__ __forceinline__ float query_component(const void* queries, bool wide, long long at) {
    return wide ? static_cast<const float*>(queries)[at] : widen(static_cast<const stored_t*>(queries)[at]);
}

// What the components of a query head come to.
struct Measured {
    double squares;
    double base;      // the dot product with the centre
    double centre;    // squares of the centre
    double largest;   // the largest w_j q_j
    int lowest;       // exponent of the lowest bit, or BAD where a component is not finite
};

#define BAD (-10000)

// Measure a head; by a warp, whose lanes all get the result. `component(j, k)` returns q_j, m_j and w_j of the space in
// one float4; j is lane + 32 k.
template <typename Component>
__device__ __forceinline__ Measured measure_components(Component component, int dim) {
    Measured own = {0.0, 0.0, 0.0, 0.0, 1000};
#pragma unroll
    for (int k = 0; k < (dim + WARP - 1) / WARP; k++) {
        const int j = lane_number() + WARP * k;
        if (j < dim) {
            const float4 four = component(j, k);
            const double value = exact64(four.x), middle = exact64(four.y);
            own.squares += value * value;
            own.base += value * middle;
            own.centre += middle * middle;
            own.largest = fmax(own.largest, fabs(value * exact64(four.z)));
            const bool bad = (__float_as_uint(four.x) & 0x7f800000u) == 0x7f800000u;
            own.lowest = min(own.lowest, bad ? BAD : lowest_exponent(four.x));
        }
    }
#pragma unroll 1
    for (int step = WARP / 2; step > 0; step /= 2) {
        own.squares += __shfl_xor_sync(FULL, own.squares, step);
        own.base += __shfl_xor_sync(FULL, own.base, step);
        own.centre += __shfl_xor_sync(FULL, own.centre, step);
        own.largest = fmax(own.largest, __shfl_xor_sync(FULL, own.largest, step));
        own.lowest = min(own.lowest, __shfl_xor_sync(FULL, own.lowest, step));
    }
    return own;
}

// Code a head that has been measured; by a warp, whose lanes all get what is known of it then.
//
// digits : int8 (2, stride), the high digits and the low ones, zero beyond d; stride is a multiple of 32
template <typename Component>
__device__ __forceinline__ Head code_components(Component component, const Measured& own, int dim, int stride,
                                                signed char* digits) {
    const int lane = lane_number();
    Head head;
    head.bad = own.lowest == BAD ? 1.0 : 0.0;
    head.unit = own.lowest == BAD ? 1.0 : digit_unit(own.largest);
    const double inverse = __longlong_as_double(0x7fe0000000000000ll - __double_as_longlong(head.unit));  // exact
    double squares = 0.0;     // of what coding leaves
    int total = 0, size = 0;  // of digits, at most 2^15 in magnitude, and of their magnitudes
#pragma unroll
    for (int k = 0; k < stride / WARP; k++) {
        const int j = lane + WARP * k;
        int digit = 0;
        if (j < dim && own.lowest != BAD) {
            const float4 four = component(j, k);
            const double value = exact64(four.x) * exact64(four.z);
            digit = (int)rint(value * inverse);
            const double error = value - digit * head.unit;
            squares += error * error;
            total += digit;
            size += abs(digit);
        }
        const int high = high_digit(digit);
        digits[j] = (signed char)high;
        digits[stride + j] = (signed char)(digit - 256 * high);
    }
#pragma unroll 1
    for (int step = WARP / 2; step > 0; step /= 2) {
        squares += __shfl_xor_sync(FULL, squares, step);
        total += __shfl_xor_sync(FULL, total, step);
        size += __shfl_xor_sync(FULL, size, step);
    }
    const double wide = sqrt((double)dim) * (1.0 + 8.0 * UNIT);
    const double rest = norm_bound(squares, dim);
    head.norm = norm_bound(own.squares, dim);
    head.grain = grain_of(own.lowest);
    head.base = own.base;
    head.base_error = dot_slope(dim, head.norm) * norm_bound(own.centre, dim) + dot_intercept(dim, head.norm);
    head.factor = radius_factor(head.norm);
    head.digit_sum = total;
    head.digit_size = size;
    head.high_slack = reach(head.unit, rest, head.norm, HIGH_SPAN * wide, dim);
    head.low_slack = reach(head.unit, rest, head.norm, LOW_SPAN * wide, dim);
    return head;
}

// Measure a head and code it, from arrays: query (d,), in memory that the whole warp sees; centre, weights (d,), of the
// space.
__device__ inline Head prepare_head(const float* query, const float* centre, const float* weights, int dim, int stride,
                                    signed char* digits) {
    const auto component = [&](int j, int) { return make_float4(query[j], centre[j], weights[j], 0.0f); };
    return code_components(component, measure_components(component, dim), dim, stride, digits);
}

// The threshold seen from the centre, lowered: what cannot reach this is dropped.
__device__ inline double threshold_below(const Head& head, double tau) {
    if (!(fabs(tau) < INFINITY)) return tau;
    return (tau - head.base) - threshold_margin(tau, head.base, head.base_error);
}

// Largest normal float32 (or zero, or an infinity) that is at most the float64 `value`; NaN stays NaN.
__device__ inline float round_down32(double value) { return -round_up32(-value); }

// A test of codes in float32: a key of scale s and radius r is dropped where s (unit P + offset) + factor r < below, P
// being the integer product of its codes with the digits.
//
// With v = 2^-24: converting P errs by v |P|, the sum of unit P and the offset by v (unit |P| + |offset|), and the
// product with the radius by a share v. The last operation is monotone and costs nothing. `offset` and `factor` are
// raised by twice as much, and `below` is lowered by what flushed products lose. Where a unit is out of the range in
// which none of this overflows or is flushed, nothing is dropped.
struct Test32 {
    float unit;
    float offset;
    float factor;
    float below;
};

// What a test of codes in float32 needs.
//
// unit : what P counts in; most : upper bound of |P|; bias : the product of what codes are stored too high by
__device__ inline Test32 test_of(const Head& head, double below, double unit, double most, double bias, double slack) {
    Test32 test;
    const double offset = slack - unit * bias;
    const bool moderate = 0x1p-90 < unit && unit < 0x1p90;
    test.unit = narrow(moderate ? unit : 0.0);
    test.offset = round_up32(offset + 4.0 * V32 * (unit * most + fabs(offset)) + 0x1p-100);
    test.factor = round_up32(head.factor * (1.0 + 4.0 * V32));
    test.below = moderate ? round_down32(below - 0x1p-120) : -INFINITY;
    return test;
}

// Test the product of codes of a key: whether it may reach the threshold.
__device__ __forceinline__ bool may_reach(const Test32& test, int product, float scale, float radius) {
    const float value = fmaf(scale, fmaf((float)product, test.unit, test.offset), test.factor * radius);
    return !(value < test.below);
}

// The bound slope * |x| + intercept on the error of a float32 dot product whose sums nest at most `depth` deep, where
// it does not overflow: as dot32_slope in halfspace/model/rounding.py, of which only the summation is another (Higham,
// Accuracy and Stability of Numerical Algorithms, section 4.2). `norm` is |q|.
__device__ inline double tree32_slope(int depth, int dim, double norm) {
    return (depth + 4) * V32 / (1.0 - (depth + 4) * V32) * norm + 1.0001 * TINY * sqrt((double)dim);
}

__device__ inline double tree32_intercept(int dim, double norm) {
    return 1.0001 * TINY * (2.0 * dim + sqrt((double)dim) * norm);
}

// The same of a product of the tensor cores with a query in parts, of `steps` products of 16 numbers. A product of
// matrices adds 16 products, exact, and a sum; of each of these it is taken to lose at most 2^-22 of all magnitudes
// together, which is twice what cutting them off at the 24 bits of the largest loses. Parts lose as much of the query, or
// flush it.
__device__ inline double mma32_slope(int steps, int dim, double norm) {
    return (68.0 * steps + 32.0) * V32 * norm + 4.0004 * TINY * sqrt((double)dim);
}
