// Dot products without error, by a warp, for the cases that lie within rounding of the threshold. The twin of
// halfspace/cpu/exact.py.
#pragma once

#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "rounding.cuh"
#include "runtime/records.cuh"

#define LOWEST 298  // the register counts in units of 2^-298, the smallest product of two float32
#define LIMBS 22    // limbs of 32 bits: they hold the sum of any dot product, and any tau below 2^320

__device__ __forceinline__ void split32(float value, unsigned long long& mantissa, int& shift) {
    const unsigned bits = __float_as_uint(value);
    const int field = bits >> 23 & 0xff;
    mantissa = (bits & 0x7fffff) | (field > 0 ? 0x800000 : 0);
    shift = field > 0 ? field - 1 : 0;
}

// An integer in signed limbs, each of which takes many additions before it is carried (Kulisch's long accumulator).
struct Register {
    long long limbs[LIMBS];

    // Add a mantissa, below 2^53, times 2^shift.
    __device__ void add(bool negative, unsigned long long mantissa, int shift) {
        const int limb = shift >> 5, within = shift & 31;
        const unsigned long long mask = 0xffffffffull;
        const unsigned long long lower = (mantissa & mask) << within, upper = (mantissa >> 32) << within;
        const long long sign = negative ? -1 : 1;
        limbs[limb] += sign * (long long)(lower & mask);
        limbs[limb + 1] += sign * (long long)((lower >> 32) + (upper & mask));
        limbs[limb + 2] += sign * (long long)(upper >> 32);
    }

    // Add the product of two float32, times 2^power; or take it away.
    __device__ __forceinline__ void add_product(float one, float other, int power = 0, bool less = false) {
        unsigned long long a, b;
        int shift_a, shift_b;
        split32(one, a, shift_a);
        split32(other, b, shift_b);
        add(((__float_as_int(one) ^ __float_as_int(other)) < 0) != less, a * b, shift_a + shift_b + power);
    }

    // Sum over a warp, whose lanes all get it.
    __device__ __forceinline__ void join() {
        for (int k = 0; k < LIMBS; k++) limbs[k] = warp_sum(limbs[k]);
    }

    // Normalise the limbs to [0, 2^32), the sign left to the last one; returns whether the whole is negative.
    __device__ bool carry() {
        long long over = 0;
        for (int k = 0; k < LIMBS - 1; k++) {
            const long long value = limbs[k] + over;
            limbs[k] = value & 0xffffffffll;
            over = value >> 32;
        }
        limbs[LIMBS - 1] += over;
        return limbs[LIMBS - 1] < 0;
    }

    // Round to the nearest float32, ties to even; destroys the register.
    __device__ float rounded() {
        const bool negative = carry();
        if (negative) {
            for (int k = 0; k < LIMBS; k++) limbs[k] = -limbs[k];
            carry();
        }
        int top = LIMBS - 1;
        while (top > 0 && limbs[top] == 0) top--;
        long long mantissa = limbs[0];
        int exponent = -LOWEST;
        bool sticky = false;
        if (top > 0) {  // the two highest limbs, kept to 62 bits, and whether anything lies below
            const bool fits = limbs[top] < (1ll << 29);
            mantissa = fits ? limbs[top] << 32 | limbs[top - 1] : limbs[top] << 29 | limbs[top - 1] >> 3;
            exponent += 32 * (top - 1) + (fits ? 0 : 3);
            sticky = !fits && (limbs[top - 1] & 7) != 0;
            for (int k = 0; k < top - 1; k++) sticky = sticky || limbs[k] != 0;
        }
        const unsigned pattern = (unsigned)round_to_format(mantissa, exponent, sticky, 24, -149, 127);
        return __uint_as_float(pattern | (negative ? 0x80000000u : 0u));
    }
};

// Whether <q, x> >= tau in real arithmetic, and <q, x> rounded once; by a warp, whose lanes all get both.
__device__ __noinline__ bool compare_exactly(const stored_t* row, const float* direction, long long dim, double tau,
                                             float& score) {
    Register sum = {};
    for (long long j = lane_number(); j < dim; j += WARP) sum.add_product(direction[j], widen(row[j]));
    sum.join();
    Register copy = sum;
    score = copy.rounded();
    if (tau >= 0x1p320 || tau <= -0x1p320) return tau < 0.0;
    const long long bits = __double_as_longlong(tau);
    const int field = (int)(bits >> 52 & 0x7ff);
    unsigned long long mantissa = (bits & 0xfffffffffffffll) | (field > 0 ? 1ll << 52 : 0);
    int shift = (field > 0 ? field : 1) - 1075 + LOWEST;
    if (shift < 0) {  // round tau up to a multiple of the register's unit: products are multiples of it too
        const int drop = min(-shift, 62);
        const unsigned long long whole = mantissa >> drop;
        mantissa = whole + (bits >= 0 && whole << drop != mantissa ? 1 : 0);
        shift = 0;
    }
    sum.add(bits >= 0, mantissa, shift);
    return !sum.carry();
}

// Whether every real number within `error` of `value` has the same nearest float32, and that is not subnormal.
__device__ __forceinline__ bool rounds_once(double value, double error) {
    const bool settled = __float_as_uint(narrow(value - error)) == __float_as_uint(narrow(value + error));
    return settled && (fabs(value) >= 0x1p-125 || (value == 0.0 && error == 0.0));
}

// Add without error: a + b = total + error (Knuth).
__device__ __forceinline__ double two_sum(double a, double b, double& error) {
    const double total = a + b, shadow = total - a;
    error = (a - (total - shadow)) + (b - shadow);
    return total;
}

// A dot product as high + low, which errs by at most `bound`: what `compare_parts` finds.
struct Parts {
    double high, low, bound;
    bool known;  // whether it tells on which side of tau the product is
    bool hit;
};

// Compare a dot product with tau in float64; by a warp, whose lanes all get the same. Every product is cut at a fixed
// place, so that the upper parts sum without error, and mostly the lower ones too (Rump, Ogita and Oishi, Accurate
// floating-point summation part I, 2008).
__device__ __forceinline__ Parts compare_parts(const stored_t* row, float norm, double row_grain, const float* direction,
                                               long long dim, const Plan& plan) {
    Parts parts = {0.0, 0.0, 0.0, false, false};
    const double size = plan.norm * exact64(norm);
    if (!(0.0 < size && size < 0x1p500)) return parts;
    const double sigma = 8.0 * leading_bit(size);
    for (long long j = lane_number(); j < dim; j += WARP) {
        const double product = exact64(direction[j]) * widen64(row[j]);
        const double part = (product + sigma) - sigma;
        parts.high += part;
        parts.low += product - part;
    }
    parts.high = warp_sum(parts.high);
    parts.low = warp_sum(parts.low);
    const double total = dim * 0x1p-53 * sigma;
    parts.bound = total <= 0x1p52 * (plan.grain * row_grain) ? 0.0 : 1.01 * dim * 0x1p-53 * total;
    double rest, tail, inner;
    double gap = two_sum(parts.high, -plan.tau, rest);
    rest = two_sum(rest, parts.low, tail);
    gap = two_sum(gap, rest, inner);
    const double doubt = 2.0 * (fabs(inner) + fabs(tail) + parts.bound);
    parts.known = fabs(gap) > doubt || doubt == 0.0;
    parts.hit = gap >= 0.0;
    return parts;
}
