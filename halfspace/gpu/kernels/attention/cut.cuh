// The threshold of each head of a set, from how many brackets end where: what may lie below it is weighed against what there
// is for certain.
#pragma once

#include "attention/choose.cuh"

#define TEAM (THREADS / SET)   // threads of a head
#define OWN_BINS (BINS / TEAM)     // bins of a thread
#define TEAM_WARPS (TEAM / WARP)

// What the threads of a block tell each other, and what is known of the heads of its set.
struct Cuts {
    Rate rates[SET];
    int bottoms[SET];  // the position of the first bin
    double masses[2][WARPS];
    unsigned totals[2][WARPS];
    int best[WARPS];
    float left[SET];  // rows of each head that are not left out
};

// Sums over the threads of a team before this one, and over all; a pair of them.
template <typename T>
__device__ __forceinline__ void scan_team(T (&values)[2], T (&totals)[2], T (*room)[WARPS]) {
    const int lane = lane_number(), warp = threadIdx.x / WARP, first = warp / TEAM_WARPS * TEAM_WARPS;
    T before[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        T sum = values[k];
        for (int step = 1; step < WARP; step *= 2) {
            const T other = __shfl_up_sync(FULL, sum, step);
            if (lane >= step) sum += other;
        }
        if (lane == WARP - 1) room[k][warp] = sum;
        before[k] = __shfl_up_sync(FULL, sum, 1);
        if (lane == 0) before[k] = T(0);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 2; k++) {
        totals[k] = T(0);
        for (int other = first; other < first + TEAM_WARPS; other++) {
            if (other == warp) before[k] += totals[k];
            totals[k] += room[k][other];
        }
        values[k] = before[k];
    }
}

#define HEAVIEST 600.0  // the largest exponent of a weight that is known

__device__ __noinline__ double power(double exponent) { return exp(exponent); }  // once: code that is new takes its time
__device__ __noinline__ double bend(double logit, double cap) { return cap * tanh(logit / cap); }

// How positions become weights, relative to that of the largest lower end of the sample.
struct Weights {
    double nats;    // of a position
    double origin;  // the logit of that end
    double cap;
    double ratio;   // from a weight to the next, where these are in a row

    __device__ __forceinline__ double exponent(int depth) const {  // of what is so many positions above that end
        return cap > 0.0 ? bend(origin + depth * nats, cap) - bend(origin, cap) : depth * nats;
    }

    __device__ __forceinline__ double at(int depth) const { return power(fmin(exponent(depth), HEAVIEST)); }

    // Given the weight of the position below.
    __device__ __forceinline__ double after(double before, int depth) const {
        return nats < 0.125 && !(cap > 0.0) ? before * ratio : at(depth);
    }
};

// What a head keeps where nothing can be left out.
__device__ __forceinline__ void keep_all(const Choose& call, long long query) {
    call.limits[query] = ALL;
    call.tau[query] = -INFINITY;
    call.dropped[query] = 0.0;
}

// Find the highest thresholds that will do, for the heads of a set of `length` keys, a team of threads for each, from the
// counts of all keys. A key may lie below a threshold if its lower end does, and then weighs no more than at the
// threshold, nor than at its upper end. What lies above the bins counts as if it lay in the last one.
//
// Code that is new to a multiprocessor takes its time: loops are not unrolled.
//
// first : the set's first query head; room : for a count of each bin, and of one more of OWN_BINS
__device__ void cut_set(const Choose& call, long long first, int count, long long set, long long length, Cuts& cuts,
                        unsigned long long* room) {
    if (threadIdx.x < SET) cuts.left[threadIdx.x] = threadIdx.x < count ? (float)length : 0.0f;
    uint4* counts = reinterpret_cast<uint4*>(call.counts + set * SET * BINS);
#pragma unroll
    for (int i = threadIdx.x; i < SET * BINS / 2; i += THREADS) {
        const float4 read = reload128(counts + i);  // other blocks wrote it
        unsigned long long* place = room + 2 * i + 2 * i / OWN_BINS;  // lanes side by side read different banks
        place[0] = (unsigned long long)__float_as_uint(read.y) << 32 | __float_as_uint(read.x);
        place[1] = (unsigned long long)__float_as_uint(read.w) << 32 | __float_as_uint(read.z);
        counts[i] = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
    const int which = threadIdx.x / TEAM, own_bin = OWN_BINS * (threadIdx.x % TEAM);
    const Rate rate = cuts.rates[min(which, count - 1)];
    const int bottom = cuts.bottoms[min(which, count - 1)];
    const bool known = which < count && rate.rate > 0.0 && bottom > BELOW;
    const unsigned long long* own = room + (OWN_BINS + 1) * threadIdx.x;
    const double nats = rate.rate > 0.0 ? call.scale / rate.rate : 0.0;  // of a position
    const int depth = own_bin - (BINS - HEADROOM);  // above the largest lower end of the sample
    const double origin = call.scale * rate.base + (bottom + BINS - HEADROOM) * nats;
    const Weights weights{nats, origin, call.cap, power(nats)};
    const double lowest = weights.at(depth - 1);
    // capping never widens a gap, so that logits are in doubt by no more than the base is, at either end of one
    const double doubt =
        rate.rate > 0.0 ? 2.0 * call.scale * (rate.base_error + 16.0 * UNIT * (fabs(rate.base) + ABOVE / rate.rate)) : 0.0;
    const double sure = call.cap > 0.0 ? power(-doubt - 0x1p-48 * call.cap) : 1.0;
    double masses[2] = {0.0, 0.0}, mass[2], weight = lowest;
    unsigned totals[2] = {0, 0}, all[2];
#pragma unroll 1
    for (int i = 0; i < OWN_BINS; i++) {
        weight = weights.after(weight, depth + i);
        const unsigned upper = (unsigned)(own[i] >> 32), lower = (unsigned)own[i];
        totals[0] += upper, totals[1] += lower;
        masses[0] += upper * weight, masses[1] += lower * weight;
    }
    scan_team(totals, all, cuts.totals);
    scan_team(masses, mass, cuts.masses);
    // Upper ends that are in no bin lie at the first position or below it. A share of 2^-30 pays for what sums of less than
    // 2^12 terms, exp, powers of it, and its argument (below 2^10 where a weight counts) round off, 2^-1000 for weights
    // that vanish.
    const double low = (double)(length - all[0]);
    const double whole = mass[1] * sure * (1.0 - 0x1p-30);
    double under = masses[0] + low * weights.at(HEADROOM - BINS);
    double upper_count = low + totals[0], lower_count = (double)(length - all[1]) + totals[1];
    int best = -1;
    double bound = 0.0, left = 0.0;
    weight = lowest;
#pragma unroll 1
    for (int i = 0; i < OWN_BINS; i++) {
        const int bin = own_bin + i;  // the threshold: its upper ends are below, its lower ends are not
        const unsigned upper = (unsigned)(own[i] >> 32), lower = (unsigned)own[i];
        weight = weights.after(weight, depth + i);
        under += upper * weight;
        upper_count += upper;
        const double most = (under + weight * (lower_count - upper_count)) * (1.0 + 0x1p-30) + 0x1p-1000;
        const bool good = call.eps >= 0.0 ? most <= call.eps * whole
                                          : length - 0.5 * (upper_count + lower_count) >= call.keep * (double)length;
        if (bin < BINS - 1 && weights.exponent(depth + i) < HEAVIEST && good)
            best = bin, bound = most, left = length - (upper_count - upper);
        lower_count += lower;
    }
    int highest = best;
    for (int step = WARP / 2; step > 0; step /= 2) highest = max(highest, __shfl_xor_sync(FULL, highest, step));
    if (lane_number() == 0) cuts.best[threadIdx.x / WARP] = highest;
    __syncthreads();
    if (which >= count) return;  // no thread waits for another from here on
    for (int warp = which * TEAM_WARPS; warp < (which + 1) * TEAM_WARPS; warp++) highest = max(highest, cuts.best[warp]);
    if (!known || highest < 0) {
        if (threadIdx.x % TEAM == 0) keep_all(call, first + which);
    } else if (best == highest) {
        const double level = (bottom + best) / rate.rate, tau = rate.base + level;
        const double margin = threshold_margin(tau, rate.base, rate.base_error) + 16.0 * UNIT * fabs(level);
        if (margin * rate.rate < 0.25) {  // what lies a position below this cannot reach the threshold
            cuts.left[which] = (float)left;
            call.limits[first + which] = bottom + best - 1;
            call.tau[first + which] = tau - margin;
            const double share = bound / whole * (1.0 + 0x1p-30);
            call.dropped[first + which] = fmin(call.eps >= 0.0 ? call.eps : 1.0, share);
        } else {
            keep_all(call, first + which);
        }
    }
}

// Tell how much there is to do for a set of so many rows, given how many of them may be kept by each of its heads.
__device__ __forceinline__ float work_of(const Choose& call, long long length, const float (&left)[SET]) {
    float most = 0.0f, sum = 0.0f;
#pragma unroll
    for (int k = 0; k < SET; k++) most = fmaxf(most, left[k]), sum += left[k];
    const float apart = GATHERED * fmaxf(most, APART * sum) + STREAMED * (float)length, whole = (float)length;
    return apart > whole && call.dense_share <= 1.0 ? -(whole + BEGINNING) : apart + BEGINNING;
}
