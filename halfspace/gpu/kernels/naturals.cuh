// Natural numbers of any size, by a warp: their limbs lie in shared memory, and every lane works on its own ones. The
// twin of halfspace/cpu/naturals.py.
#pragma once

#include "exact.cuh"

#define MOST_LIMBS 52  // of 32 bits: a product of two registers, times the square of a float64

// The sum of limbs[k] 2^(32 (k + shift)), the highest and the lowest limb not zero; no limbs are zero.
struct Natural {
    int size;
    int shift;
    unsigned limbs[MOST_LIMBS];
};

// Put together limbs of lanes, each at `shift` plus its lane.
__device__ void put(Natural& out, unsigned limb, int shift) {
    const unsigned lanes = __ballot_sync(FULL, limb != 0);
    const int first = lanes != 0 ? __ffs((int)lanes) - 1 : 0, at = lane_number() - first;
    const int size = lanes != 0 ? WARP - __clz((int)lanes) - first : 0;
    __syncwarp();  // all have read what was there before
    if (0 <= at && at < size) out.limbs[at] = limb;
    if (lane_number() == 0) out.size = size, out.shift = shift + first;
    __syncwarp();
}

// Put the magnitude of a register, of which all lanes have the same; returns whether it is negative.
__device__ __noinline__ bool put(Natural& out, Register& sum) {
    const bool negative = sum.carry();
    if (negative) {
        for (int k = 0; k < LIMBS; k++) sum.limbs[k] = -sum.limbs[k];
        sum.carry();
    }
    put(out, lane_number() < LIMBS ? (unsigned)sum.limbs[lane_number()] : 0, 0);
    return negative;
}

// Put value * 2^exponent, a float64 that is at least 0, finite and not subnormal.
__device__ void put(Natural& out, double value, int exponent) {
    const long long bits = __double_as_longlong(value);
    const unsigned long long mantissa = value > 0.0 ? (bits & 0xfffffffffffffll) | 1ll << 52 : 0;
    const int place = (int)(bits >> 52) - 1075 + exponent, within = place & 31;
    const unsigned long long low = mantissa << within, high = within > 0 ? mantissa >> (64 - within) : 0;
    const int lane = lane_number();
    put(out, lane == 0 ? (unsigned)low : lane == 1 ? (unsigned)(low >> 32) : lane == 2 ? (unsigned)high : 0, place >> 5);
}

// Multiply; `out` is none of the factors. Each lane sums the products that belong to its limbs, in 96 bits.
__device__ __noinline__ void multiply(const Natural& a, const Natural& b, Natural& out) {
    const int size = a.size > 0 && b.size > 0 ? a.size + b.size : 0;
    unsigned long long sums[2] = {0, 0};
    unsigned over[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int at = WARP * half + lane_number();
        for (int i = max(0, at - b.size + 1); i <= min(at, a.size - 1); i++) {
            const unsigned long long product = (unsigned long long)a.limbs[i] * b.limbs[at - i];
            sums[half] += product;
            over[half] += sums[half] < product;
        }
    }
    unsigned long long carry = 0;
    unsigned own[2] = {0, 0}, last = 0;
    for (int at = 0; at < size; at++) {
        const unsigned long long low = __shfl_sync(FULL, at < WARP ? sums[0] : sums[1], at % WARP);
        const unsigned high = __shfl_sync(FULL, at < WARP ? over[0] : over[1], at % WARP) + (low + carry < low);
        last = (unsigned)(low + carry);
        if (lane_number() == at % WARP) (at < WARP ? own[0] : own[1]) = last;
        carry = (low + carry) >> 32 | (unsigned long long)high << 32;
    }
    __syncwarp();  // all have read what was there before
#pragma unroll
    for (int half = 0; half < 2; half++)
        if (WARP * half + lane_number() < size) out.limbs[WARP * half + lane_number()] = own[half];
    const int shift = a.shift + b.shift;
    if (lane_number() == 0) out.size = size - (size > 0 && last == 0 ? 1 : 0), out.shift = shift;
    __syncwarp();
}

// Compare: -1, 0 or 1.
__device__ __noinline__ int compare(const Natural& a, const Natural& b) {
    if (a.size == 0 || b.size == 0) return (a.size > 0) - (b.size > 0);
    const int top = a.size + a.shift;
    if (top != b.size + b.shift) return top > b.size + b.shift ? 1 : -1;
    for (int first = top - 1; first >= min(a.shift, b.shift); first -= WARP) {
        const int at = first - lane_number(), in_a = at - a.shift, in_b = at - b.shift;
        const unsigned one = in_a >= 0 ? a.limbs[in_a] : 0, other = in_b >= 0 ? b.limbs[in_b] : 0;
        const unsigned lanes = __ballot_sync(FULL, one != other);
        if (lanes != 0) return __shfl_sync(FULL, one > other ? 1 : -1, __ffs((int)lanes) - 1);
    }
    return 0;
}

// About the number times 2^exponent, which must lie within float64: it errs by a share of 2^-52 at most.
__device__ double about(const Natural& a, int exponent) {
    if (a.size == 0) return 0.0;
    double value = 0.0;
    for (int k = 0; k < 3; k++) value = value * 0x1p32 + (k < a.size ? (double)a.limbs[a.size - 1 - k] : 0.0);
    return value * __longlong_as_double((long long)(32 * (a.shift + a.size - 3) + exponent + 1023) << 52);
}

// A distance, or the magnitude of a cosine: the root of the quotient of two natural numbers, divided by 2^places.
struct Root {
    Natural square;
    Natural unit;
    Natural work[3];
    int places;
};

// Compare a root with a float64, as `compare` does.
__device__ __noinline__ int compare(Root& root, double value) {
    put(root.work[0], value, root.places);
    multiply(root.work[0], root.work[0], root.work[1]);
    multiply(root.work[1], root.unit, root.work[2]);
    return compare(root.square, root.work[2]);
}

// The middle between a float32 that is at least 0, given by its bits, and the next one; or where those end that round
// to finite ones.
__device__ double middle_above(int bits) {
    const int field = max(bits >> 23, 1);
    return exact64(__int_as_float(bits)) + __longlong_as_double((long long)(field - 151 + 1023) << 52);
}

// The float32 nearest to a root, ties to even; `value` is about that, by a share of 2^-48 at most.
__device__ float nearest_root(Root& root, double value) {
    const float rounded = narrow(value);
    if (rounds_once(value, 0x1p-48 * value)) return rounded;
    const int bits = __float_as_int(rounded);
    const bool even = (bits & 1) == 0;
    if (bits < 0x7f800000) {
        const int above = compare(root, middle_above(bits));
        if (above > 0 || (above == 0 && !even)) return __int_as_float(bits + 1);
    }
    if (bits > 0) {
        const int above = compare(root, middle_above(bits - 1));
        if (above < 0 || (above == 0 && !even)) return __int_as_float(bits - 1);
    }
    return rounded;
}
