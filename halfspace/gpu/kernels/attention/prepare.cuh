// Query heads in attention: what codes, and rows, are compared with; by a warp for each head.
#pragma once

#include "attention/attend_rows.cuh"

// What a lane reads to prepare a query head.
struct Asked {
    float4 components[STEPS];  // see `measure_components`
    double tau;
    unsigned peaks[4];         // bits of norms, of the first chunks
};

// Read it all at once; a set may have fewer heads.
__device__ __forceinline__ void read_head(const Cache& cache, const Attend& call, long long own, long long head,
                                          Asked& asked) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        const int j = lane_number() + WARP * k;
        asked.components[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (j < HEAD_DIM)
            asked.components[k] =
                make_float4(query_component(call.queries, call.wide != 0, head * HEAD_DIM + j),
                            cache.centre[own * HEAD_DIM + j], cache.weights[own * HEAD_DIM + j], 0.0f);
    }
    asked.tau = call.tau[head];
    const int chunks = (int)((cache.capacity + CHUNK - 1) / CHUNK);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int chunk = lane_number() + WARP * k;
        asked.peaks[k] = chunk < chunks ? __float_as_uint(cache.peaks[(long long)chunks * own + chunk]) : 0;
    }
}

// Find between which float32 scores a head is in doubt; by a warp.
__device__ __forceinline__ void prepare_scores(const Cache& cache, const Asked& asked, long long own, int rows,
                                               int which, bool wide, Shared& shared) {
    const int lane = lane_number();
    const double tau = reachable(asked.tau);
    const int chunks = (int)((cache.capacity + CHUNK - 1) / CHUNK), used = (rows + CHUNK - 1) / CHUNK;
    unsigned most = 0;  // norms are not negative: the order of their bits is theirs
#pragma unroll
    for (int k = 0; k < 4; k++) most = lane + WARP * k < used ? max(most, asked.peaks[k]) : most;
#pragma unroll 8
    for (int chunk = lane + 4 * WARP; chunk < used; chunk += WARP)
        most = max(most, __float_as_uint(cache.peaks[(long long)chunks * own + chunk]));
    for (int step = WARP / 2; step > 0; step /= 2) most = max(most, __shfl_xor_sync(FULL, most, step));
    const auto component = [&](int, int k) { return asked.components[k]; };
    const Measured measured = measure_components(component, HEAD_DIM);
    if (lane != 0) return;
    const double norm = norm_bound(measured.squares, HEAD_DIM), peak = exact64(__uint_as_float(most));
#if FORMAT == 0
    const double slope = tree32_slope(8 + 5, HEAD_DIM, norm);
#else
    const double slope = mma32_slope(TILES * (wide ? OPERANDS : 1), HEAD_DIM, norm);
#endif
    const double error = slope * peak + 4.0 * tree32_intercept(HEAD_DIM, norm);
    const double margin = fabs(tau) < INFINITY ? error + 4.0 * UNIT * (error + fabs(tau)) : 0.0;
    shared.sure[which] = round_up32(tau + margin);
    shared.never[which] = round_down32(tau - margin);
    shared.plans[which] = Plan{norm, grain_of(measured.lowest), 0.0, 0.0, tau, measured.lowest == BAD ? 1.0 : 0.0};
    if (which == 0) shared.peak = __uint_as_float(most), shared.wide = wide;
}

// Write a head down as operands of the tensor cores, or zeros; by a warp. Float32 is brought to where float16 has parts.
__device__ __forceinline__ void put_operands(const Asked& asked, bool there, bool wide, int which, Shared& shared) {
#if FORMAT != 0
    float raise = 1.0f, lower = 1.0f;
#if FORMAT == 1
    if (wide) {
        unsigned most = 0;  // magnitudes: the order of their bits is theirs
#pragma unroll
        for (int k = 0; k < STEPS; k++) most = max(most, __float_as_uint(asked.components[k].x) & 0x7fffffffu);
        for (int step = WARP / 2; step > 0; step /= 2) most = max(most, __shfl_xor_sync(FULL, most, step));
        const int power = min(14 - ((int)(most >> 23) - 127), 126);  // the largest is below 2^15 then
        raise = __uint_as_float((unsigned)(127 + power) << 23), lower = __uint_as_float((unsigned)(127 - power) << 23);
    }
#endif
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        const int j = lane_number() + WARP * k, tile = j / 16, place = j % 16;
        if (tile >= TILES) continue;
        float rest = there ? asked.components[k].x * raise : 0.0f;
#pragma unroll
        for (int part = 0; part < 2 * OPERANDS; part++) {  // of bfloat16 the last is not used
            const unsigned short own = to_stored(rest);
            uint2* lanes = shared.operands[part / 2][tile] + 4 * (2 * which + part % 2) + place % 8 / 2;
            reinterpret_cast<unsigned short*>(lanes)[place / 8 * 2 + place % 2] = own;
            rest -= widen((stored_t)own);
        }
    }
    if (lane_number() == 0) shared.lowered[which] = lower;
#endif
}

// Code a head, and find what codes are tested against; by a warp.
__device__ __forceinline__ void prepare_codes(const Asked& asked, int which, Shared& shared) {
    const auto component = [&](int, int k) { return asked.components[k]; };
    const Measured measured = measure_components(component, HEAD_DIM);
    const Head head = code_components(component, measured, HEAD_DIM, STRIDE, shared.digits[which][0]);
    const double below = threshold_below(head, reachable(asked.tau));
    const bool high = lane_number() == 1;  // two lanes have a test each
    const Test32 test =
        test_of(head, below, high ? 16.0 * head.unit : head.unit, (high ? 15.0 : 128.0) * head.digit_size,
                high ? HIGH_SPAN / 16.0 * head.digit_sum : 0.0, high ? head.high_slack : head.low_slack);
    if (high) shared.high[which] = test;
    if (lane_number() != 0) return;
    shared.whole[which] = test;
    shared.biases[which] = 128 * (int)head.digit_sum;
}

// Let a head that a set does not have keep nothing.
__device__ __forceinline__ void prepare_none(int which, Shared& shared) {
    for (int j = lane_number(); j < 2 * STRIDE / 4; j += WARP) reinterpret_cast<unsigned*>(shared.digits[which])[j] = 0;
    if (lane_number() != 0) return;
    shared.sure[which] = shared.never[which] = INFINITY;
    shared.whole[which] = shared.high[which] = Test32{0.0f, 0.0f, 0.0f, INFINITY};
    shared.biases[which] = 0;
}
