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
        const T sum = warp_prefix<1>(values[k]);
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
    double ratio;   // from a weight to the next, where these are `even`

    __device__ __forceinline__ double exponent(int depth) const {  // of what is so many positions above that end
        return cap > 0.0 ? bend(origin + depth * nats, cap) - bend(origin, cap) : depth * nats;
    }

    // Whether weights are in a row, and none is too heavy.
    __device__ __forceinline__ bool even() const { return nats < 0.125 && !(cap > 0.0); }
};

// The weight of a position so far above that end. Functions that are not inlined take and return copies, which stay in
// registers: what is passed by reference lies in memory.
__device__ __noinline__ double weight_at(Weights weights, int depth) { return power(fmin(weights.exponent(depth), HEAVIEST)); }

// The bins of a thread.
struct Bins {
    const unsigned long long* own;  // counts of upper ends, times 2^32, and of lower ones
    int first;
    int depth;      // of the first
    double lowest;  // the weight of the position below

    __device__ __forceinline__ unsigned upper(int i) const { return (unsigned)(own[i] >> 32); }
    __device__ __forceinline__ unsigned lower(int i) const { return (unsigned)own[i]; }
};

// Counts of a thread's bins, and what they weigh: of upper ends, and of lower ones.
struct Sums {
    unsigned totals[2];
    double masses[2];
};

// Sum them.
__device__ __noinline__ Sums weigh_bins(Bins bins, Weights weights) {
    Sums sums{};
    if (weights.even()) {
#pragma unroll 4
        for (int i = OWN_BINS - 1; i >= 0; i--) {
            sums.totals[0] += bins.upper(i), sums.totals[1] += bins.lower(i);
            sums.masses[0] = (sums.masses[0] + bins.upper(i)) * weights.ratio;
            sums.masses[1] = (sums.masses[1] + bins.lower(i)) * weights.ratio;
        }
        sums.masses[0] *= bins.lowest, sums.masses[1] *= bins.lowest;
        return sums;
    }
#pragma unroll 1
    for (int i = 0; i < OWN_BINS; i++) {
        const double weight = weight_at(weights, bins.depth + i);
        sums.totals[0] += bins.upper(i), sums.totals[1] += bins.lower(i);
        sums.masses[0] += bins.upper(i) * weight, sums.masses[1] += bins.lower(i) * weight;
    }
    return sums;
}

// What is known of thresholds, bin by bin.
struct Search {
    double length;  // keys
    double sure;    // a share of weights that is there for certain
    double kept;    // what lower ends from here on weigh, at least
    double under;   // what the upper ends below weigh, at most
    double upper, lower;  // how many ends are below
    int best = -1;  // the highest bin that will do
    double bound = 0.0, whole = 1.0;  // what lies below it weighs at most this, if all together do that
    double left = 0.0;  // rows that it leaves

    // Take a bin if it will do as threshold: its upper ends are below, its lower ends are not.
    __device__ __forceinline__ void look(const Choose& call, const Bins& bins, int i, double weight, bool known) {
        const double more = upper + bins.upper(i);
        under += bins.upper(i) * weight;
        const double most = (under + weight * (lower - more)) * (1.0 + 0x1p-30) + 0x1p-1000, all = most + fmax(kept, 0.0);
        const bool good = call.eps >= 0.0 ? most <= call.eps * all : length - 0.5 * (more + lower) >= call.keep * length;
        if (bins.first + i < BINS - 1 && known && good)
            best = bins.first + i, bound = most, whole = all, left = length - upper;
        upper = more, lower += bins.lower(i), kept -= bins.lower(i) * weight * sure;
    }
};

// Go over the bins of a thread; returns how far the search has come.
__device__ __noinline__ Search search_bins(const Choose& call, Bins bins, Weights weights, Search search) {
    double weight = bins.lowest;
    if (weights.even()) {
#pragma unroll 4
        for (int i = 0; i < OWN_BINS; i++) {
            weight *= weights.ratio;
            search.look(call, bins, i, weight, true);
        }
        return search;
    }
#pragma unroll 1
    for (int i = 0; i < OWN_BINS; i++) {
        const int depth = bins.depth + i;
        search.look(call, bins, i, weight_at(weights, depth), weights.exponent(depth) < HEAVIEST);
    }
    return search;
}

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
    const double nats = rate.rate > 0.0 ? call.scale / rate.rate : 0.0;  // of a position
    const int depth = own_bin - (BINS - HEADROOM);  // above the largest lower end of the sample
    const double origin = call.scale * rate.base + (bottom + BINS - HEADROOM) * nats;
    const Weights weights{nats, origin, call.cap, power(nats)};
    const Bins bins{room + (OWN_BINS + 1) * threadIdx.x, own_bin, depth, weight_at(weights, depth - 1)};
    // capping never widens a gap, so that logits are in doubt by no more than the base is, at either end of one
    const double doubt =
        rate.rate > 0.0 ? 2.0 * call.scale * (rate.base_error + 16.0 * UNIT * (fabs(rate.base) + ABOVE / rate.rate)) : 0.0;
    const double sure = call.cap > 0.0 ? power(-doubt - 0x1p-48 * call.cap) : 1.0;
    Sums sums = weigh_bins(bins, weights), all;
    scan_team(sums.totals, all.totals, cuts.totals);
    scan_team(sums.masses, all.masses, cuts.masses);
    // Upper ends that are in no bin lie at the first position or below it. A share of 2^-30 pays for what sums of less than
    // 2^12 terms, exp, powers of it, and its argument (below 2^10 where a weight counts) round off, 2^-1000 for weights
    // that vanish.
    const double low = (double)(length - all.totals[0]);
    Search search{(double)length, sure * (1.0 - 0x1p-30)};
    search.kept = search.sure * (all.masses[1] * (1.0 - 0x1p-36) - sums.masses[1]);  // both sums may be off
    search.under = sums.masses[0] + low * weight_at(weights, HEADROOM - BINS);
    search.upper = low + sums.totals[0], search.lower = (double)(length - all.totals[1]) + sums.totals[1];
    search = search_bins(call, bins, weights, search);
    const int best = search.best;
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
            cuts.left[which] = (float)search.left;
            call.limits[first + which] = bottom + best - 1;
            call.tau[first + which] = tau - margin;
            call.dropped[first + which] = fmin(call.eps >= 0.0 ? call.eps : 1.0, search.bound / search.whole * (1.0 + 0x1p-30));
        } else {
            keep_all(call, first + which);
        }
    }
}

// Tell how much there is to do for a set of so many rows, given how many of them may be kept by each of its heads, and what
// share of these together is different rows.
__device__ __forceinline__ float work_of(const Choose& call, long long length, const float (&left)[SET], float apart) {
    float most = 0.0f, sum = 0.0f;
#pragma unroll
    for (int k = 0; k < SET; k++) most = fmaxf(most, left[k]), sum += left[k];
    const float listed = GATHERED * fmaxf(most, apart * sum) + STREAMED * (float)length, whole = (float)length;
    return listed > whole && call.whole != 0 ? -(whole + BEGINNING) : listed + BEGINNING;
}
