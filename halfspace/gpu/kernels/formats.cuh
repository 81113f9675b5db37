// Number formats: what an index stores, how values are rounded into it, how it widens back.
// Twin of halfspace/cpu/formats.py.
//
// FORMAT: 0 float32, 1 float16 (its bits in uint16), 2 bfloat16 (its bits in int16). Modules are compiled with
// -ftz=true, so no float32 arithmetic here: floats are moved, taken apart as bits, or converted by `exact64` and
// `narrow`, which keep subnormals.
#pragma once

#include "runtime/ptx.cuh"

#ifndef FORMAT
#define FORMAT 0
#endif

#if FORMAT == 0
typedef float stored_t;
#elif FORMAT == 1
typedef unsigned short stored_t;
#else
typedef short stored_t;
#endif

// Widen one stored value to the float32 that it stands for (exact, but a subnormal float32 stays one).
__device__ inline float widen(stored_t value) {
#if FORMAT == 0
    return value;
#elif FORMAT == 1
    return half_to_float(value);
#else
    return __uint_as_float(static_cast<unsigned>(static_cast<unsigned short>(value)) << 16);
#endif
}

// Widen one stored value to float64, exactly.
__device__ inline double widen64(stored_t value) { return exact64(widen(value)); }

// Whether a stored value is a finite number.
__device__ inline bool finite(stored_t value) { return (__float_as_uint(widen(value)) & 0x7F800000u) != 0x7F800000u; }

// Exponent of the lowest set bit of a float32, 1000 for 0.
__device__ inline int lowest_exponent(float value) {
    const int bits = __float_as_int(value) & 0x7FFFFFFF;
    const int field = bits >> 23;
    const int mantissa = (bits & 0x7FFFFF) | (field > 0 ? 0x800000 : 0);
    return mantissa == 0 ? 1000 : max(field, 1) - 150 + (__ffs(mantissa) - 1);
}

// Power of two with this `lowest_exponent`, infinite where there is none.
__device__ inline double grain_of(int exponent) {
    return __longlong_as_double((exponent < 1000 ? exponent + 1023LL : 0x7FFLL) << 52);
}

// Largest power of two that is at most the positive normal float64 `value`.
__device__ inline double leading_bit(double value) {
    return __longlong_as_double(__double_as_longlong(value) & 0x7FF0000000000000LL);
}

// Smallest normal float32 (or zero, or an infinity) that is at least the float64 `value`; NaN stays NaN, whose bits are
// chosen so that `round_up16` keeps it.
__device__ inline float round_up32(double value) {
    if (value != value) return __uint_as_float(0x7FC00000u);
    if (fabs(value) <= 0x1p-126) return value > 0.0 ? 0x1p-126f : 0.0f;
    const float rounded = narrow(value);
    if (exact64(rounded) >= value) return rounded;
    return __int_as_float(__float_as_int(rounded) + (value > 0.0 ? 1 : -1));
}

// Widen a finite float32, subnormals too, by shifts and a product: a GPU converts few numbers at once, and this shares the
// work. The bits of a float32 are those of a float64 that is 2^-896 times as large, but for three more bits of exponent.
__device__ __forceinline__ double widen_by_shifts(float value) {
    const int bits = __float_as_int(value);
    const unsigned long long high = (unsigned)(bits >> 3) & 0x8fffffffu, low = (unsigned)bits << 29;
    return __longlong_as_double((long long)(high << 32 | low)) * 0x1p896;
}

// Bits of the smallest normal bfloat16 (or zero, or infinity) that is at least a float64 that is >= 0.
__device__ inline unsigned short round_up16(double value) {
    return static_cast<unsigned short>((__float_as_uint(round_up32(value)) + 0xFFFFu) >> 16);
}

// Widen the bits of a bfloat16 that is not subnormal to float64.
__device__ inline double widen16(unsigned short bits) {
    return exact64(__uint_as_float(static_cast<unsigned>(bits) << 16));
}

// Round mantissa * 2^exponent to the nearest number of a binary format, ties to even. The mantissa is below 2^62;
// `sticky` says that the true magnitude lies strictly between it and the next. `precision` counts the significant bits,
// the hidden one included; `lowest` is the exponent of the smallest subnormal, `highest` that of the largest binade.
// Returns the magnitude's bit pattern in the format's own encoding; that of infinity on overflow.
__device__ inline long long round_to_format(long long mantissa, int exponent, bool sticky, int precision, int lowest,
                                            int highest) {
    const int length = 64 - __clzll(mantissa);
    int unit = max(exponent + length - precision, lowest);  // exponent of the result's last place
    const int drop = unit - exponent;
    long long kept = 0;
    if (drop <= 0) {
        kept = mantissa << -drop;
    } else if (drop <= 62) {
        kept = mantissa >> drop;
        const long long rest = mantissa & ((1LL << drop) - 1);
        const long long half = 1LL << (drop - 1);
        if (rest > half || (rest == half && (sticky || (kept & 1) == 1))) kept += 1;
    }
    if (kept >= 1LL << precision) {
        kept >>= 1;
        unit += 1;
    }
    if (kept == 0) return 0;
    if (unit + precision - 1 > highest) {
        return static_cast<long long>(highest - lowest - precision + 3) << (precision - 1);
    }
    if (kept < 1LL << (precision - 1)) return kept;
    return (static_cast<long long>(unit - lowest) << (precision - 1)) + kept;
}
