// Sums over a block of threads, thresholds, and directions as digits: what all that codes a direction shares. See
// code_in_digits in halfspace/cpu/directions.py and reachable in halfspace/cpu/exact.py.
#pragma once

#include "formats.cuh"
#include "runtime/records.cuh"

#define DIGIT_LIMIT (127 * 256 + 127)  // the largest digit pair: two signed digits of 8 bits, the high one within 127

struct Sum {
    __device__ double operator()(double a, double b) const { return a + b; }
};

struct Largest {
    __device__ double operator()(double a, double b) const { return fmax(a, b); }
};

// Combine a value of each thread; all get the result. `room` holds a value of each warp.
template <typename Combine>
__device__ double over_block(double value, double* room, Combine combine) {
    for (int step = WARP / 2; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(FULL, value, step));
    __syncthreads();
    if (lane_number() == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    value = room[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP; warp++) value = combine(value, room[warp]);
    return value;
}

// A power of two a, such that components up to `largest` are two digits.
__device__ inline double digit_unit(double largest) {
    if (largest == 0.0) return 1.0;
    const double unit = leading_bit(largest) * 0x1p-14;
    return unit * DIGIT_LIMIT < largest ? 2.0 * unit : unit;
}

// The high digit of a number of two, rounded so that the low one, which is what is left, has 8 bits with its sign.
__device__ inline int high_digit(int digits) { return (digits + 128) >> 8; }

// Bring a threshold to where scores are, which changes no answer: dot products are multiples of 2^-298, cosines that are
// not 0 are above 2^-600, and distances have a smallest and a largest.
__device__ inline double reachable(double tau) {
    const long long bits = __double_as_longlong(tau);
    const long long magnitude = bits & 0x7fffffffffffffffll;
#if METRIC == L2
    if (bits > 0) return INFINITY;
    if (magnitude < __double_as_longlong(0x1p-149)) return 0.0;
    return tau <= -0x1p200 ? -INFINITY : tau;
#else
    if (METRIC == COSINE && (tau > 1.0 || tau <= -1.0)) return tau > 0.0 ? INFINITY : -INFINITY;
    const double least = METRIC == COSINE ? 0x1p-600 : 0x1p-298;
    if (magnitude == 0 || magnitude >= __double_as_longlong(least)) return tau;
    return bits > 0 ? least : 0.0;
#endif
}
