// Rounding numbers to a stored format, nearest, ties to even. Twin of `store` in halfspace/cpu/formats.py.
#include "formats.cuh"

struct float16 {
    unsigned short bits;
};
struct bfloat16 {
    unsigned short bits;
};

__device__ inline double wide64(double value) { return value; }
__device__ inline double wide64(float value) { return exact64(value); }
__device__ inline double wide64(float16 value) { return exact64(half_to_float(value.bits)); }
__device__ inline double wide64(bfloat16 value) {
    return exact64(__uint_as_float(static_cast<unsigned>(value.bits) << 16));
}

// Integers, so that rounding the result rounds them as if at once: long ones keep a sticky last bit.
__device__ inline double wide64(long long value) {
    if (value <= 1LL << 53 && value >= -(1LL << 53)) return static_cast<double>(value);
    const long long kept = value >> 11;
    return static_cast<double>(kept | ((value & 0x7FF) != 0 ? 1 : 0)) * 2048.0;
}
__device__ inline double wide64(unsigned long long value) {
    if (value <= 1ULL << 53) return static_cast<double>(value);
    const unsigned long long kept = value >> 11;
    return static_cast<double>(kept | ((value & 0x7FF) != 0 ? 1 : 0)) * 2048.0;
}

// Round a float64 to the stored format; what is not finite does not become so.
__device__ inline stored_t stored_of(double value) {
#if FORMAT == 0
    return narrow(value);
#else
    const long long bits = __double_as_longlong(value);
    const int field = static_cast<int>((bits >> 52) & 0x7FF);
    const long long fraction = bits & 0xFFFFFFFFFFFFFLL;
    const long long mantissa = field == 0 ? fraction : fraction | 0x10000000000000LL;
    const int exponent = field == 0 ? -1074 : field - 1075;
#if FORMAT == 1
    const long long pattern = round_to_format(mantissa, exponent, false, 11, -24, 15);
#else
    const long long pattern = round_to_format(mantissa, exponent, false, 8, -133, 127);
#endif
    return static_cast<stored_t>(pattern | (bits < 0 ? 0x8000 : 0));
#endif
}

// Round `size` values into `out`; `bad`, all ones at first, gets the least position of one that is NaN or infinite in
// the format. A thread takes steps of the whole grid, and tells of its first bad value alone.
template <class Source>
__device__ inline void round_into(const Source* values, stored_t* out, long long size, unsigned long long* bad) {
    const long long threads = static_cast<long long>(gridDim.x) * blockDim.x;
    unsigned long long first = ~0ULL;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += threads) {
        const double value = wide64(values[i]);
        const stored_t stored = stored_of(value);
        out[i] = stored;
        if (first == ~0ULL && !(finite(stored) && value == value)) first = static_cast<unsigned long long>(i);
    }
    if (first != ~0ULL) atomicMin(bad, first);
}

// One kernel for each kind of number that comes in. Any grid of any blocks.
extern "C" __global__ void store_float64(const double* values, stored_t* out, long long size, unsigned long long* bad) {
    round_into(values, out, size, bad);
}
extern "C" __global__ void store_float32(const float* values, stored_t* out, long long size, unsigned long long* bad) {
    round_into(values, out, size, bad);
}
extern "C" __global__ void store_float16(const unsigned short* values, stored_t* out, long long size,
                                         unsigned long long* bad) {
    round_into(reinterpret_cast<const float16*>(values), out, size, bad);
}
extern "C" __global__ void store_bfloat16(const short* values, stored_t* out, long long size, unsigned long long* bad) {
    round_into(reinterpret_cast<const bfloat16*>(values), out, size, bad);
}
extern "C" __global__ void store_int64(const long long* values, stored_t* out, long long size,
                                       unsigned long long* bad) {
    round_into(values, out, size, bad);
}
extern "C" __global__ void store_uint64(const unsigned long long* values, stored_t* out, long long size,
                                        unsigned long long* bad) {
    round_into(values, out, size, bad);
}
