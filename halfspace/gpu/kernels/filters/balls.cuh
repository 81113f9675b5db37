// The test of a ball with a coded centre. See halfspace/cpu/codes.py.
#pragma once

#include "formats.cuh"
#include "runtime/records.cuh"

// Product of the code of a ball with both digits of a direction, by LANES lanes that follow one another and all get it.
//
// codes : (blocks, steps, 16, 4); digits : the high ones, at a multiple of 16 bytes, and `stride` behind them the low
// ones; there are digits for whole sets of 16 dimensions
template <int LANES>
__device__ __forceinline__ double multiply(const unsigned char* codes, long long ball, long long steps,
                                           const signed char* digits, long long stride) {
    const unsigned* words = reinterpret_cast<const unsigned*>(codes) + ball / BLOCK * steps * BLOCK + ball % BLOCK;
    int high = 0, low = 0;
    for (long long first = 4 * (lane_number() % LANES); first < steps; first += 4 * LANES) {
        const uint4 highs = *reinterpret_cast<const uint4*>(digits + 4 * first);
        const uint4 lows = *reinterpret_cast<const uint4*>(digits + stride + 4 * first);
        const unsigned high_words[4] = {highs.x, highs.y, highs.z, highs.w};
        const unsigned low_words[4] = {lows.x, lows.y, lows.z, lows.w};
        unsigned own[4];
#pragma unroll
        for (int i = 0; i < 4; i++) own[i] = first + i < steps ? words[(first + i) * BLOCK] : 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {  // beyond the last step all digits are 0
            const int code = (int)(own[i] ^ 0x80808080u);
            high = __dp4a(code, (int)high_words[i], high);
            low = __dp4a(code, (int)low_words[i], low);
        }
    }
    for (int step = LANES / 2; step > 0; step /= 2) {
        high += __shfl_xor_sync(FULL, high, step);
        low += __shfl_xor_sync(FULL, low, step);
    }
    return (double)high * 256.0 + (double)low;
}
