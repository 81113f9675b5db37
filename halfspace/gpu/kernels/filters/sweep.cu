// The sweep down the lists of all subspaces at once, in step: which balls it collects. The twin of
// halfspace/cpu/filters/sweep.py.
//
// Lists are not sorted. A ball lies so far down its list as there are balls with larger bounds; these are counted in
// BINS ranges of bounds, from the largest of the subspace down to its gate. Gates are as far below the largest bounds
// in every subspace: by what these sum to above `below`. A cut is any bound v_s in each subspace, and safe where
//
//     sum_s v_s  <  below
//
// since a row that no list has collected has upper bounds that are less than these, each. The cuts in step are those
// below which equally many balls lie above, to a range; or one list is taken whole, to its gate, and no other is
// needed.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "filters/gates.cuh"

#define BINS 1024
#define ROWS_PER_WORD 32

// Whether a list can be counted in ranges: otherwise all rows are candidates, or none.
__device__ __forceinline__ bool countable(const Sums& level) {
    return level.slack > 0x1p-500 && level.slack < 0x1p500;
}

// Count the balls that pass their gates. Grid: x strides over the groups, y over directions and subspaces. Blocks of
// THREADS.
//
// falls : (count, subspaces, BINS), from 0 on
extern "C" __global__ void __launch_bounds__(THREADS)
    count_falls(Call call, long long which, const float* bounds, const Sums* levels, const Gate* gates,
                unsigned* falls) {
    __shared__ unsigned own[BINS];
    const long long subspaces = call.segments[which].subspaces, groups = call.segments[which].groups;
    for (long long item = blockIdx.y; item < call.count * subspaces; item += gridDim.y) {
        const long long k = item / subspaces;
        if (call.plans[k].bad != 0.0 || !countable(levels[k])) continue;
        const double per_fall = BINS / levels[k].slack;
        const Gate gate = gates[item];
        __syncthreads();
        for (int bin = threadIdx.x; bin < BINS; bin += THREADS) own[bin] = 0;
        __syncthreads();
        const float2* all = reinterpret_cast<const float2*>(bounds) + item * groups;
        for (long long ball = (long long)blockIdx.x * THREADS + threadIdx.x; ball < groups;
             ball += (long long)gridDim.x * THREADS) {
            const double upper = exact64(all[ball].y);
            if (!(upper < gate.least)) atomicAdd(own + (int)fmin((gate.most - upper) * per_fall, BINS - 1.0), 1u);
        }
        __syncthreads();
        for (int bin = threadIdx.x; bin < BINS; bin += THREADS)
            if (own[bin] != 0) atomicAdd(falls + item * BINS + bin, own[bin]);
    }
}

// To the count of each range add those of all before it, by a warp; returns the sum of all.
__device__ unsigned add_up(unsigned* counts) {
    unsigned own[BINS / WARP], before = 0;
#pragma unroll
    for (int i = 0; i < BINS / WARP; i++) own[i] = counts[WARP * i + lane_number()];
#pragma unroll
    for (int i = 0; i < BINS / WARP; i++) {
        const unsigned upto = warp_prefix(own[i]);
        counts[WARP * i + lane_number()] = before + upto;
        before += __shfl_sync(FULL, upto, WARP - 1);
    }
    return before;
}

// How many ranges of a list hold at most `depth` balls; upto : (BINS,), balls in each range and those above.
__device__ int ranges_of(const unsigned* upto, unsigned depth) {
    int low = 0, high = BINS;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (upto[middle] <= depth) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Find the cuts of each direction. Grid: x directions. Blocks of THREADS.
//
// falls : as above; gets, for each range, the balls in it and in those above
// cuts : (count, subspaces), gets the bounds from which on balls are collected
// swept : (count,), gets 0 where the cuts would collect as many members as there are rows, so that all are candidates
// size : rows in a ball
extern "C" __global__ void __launch_bounds__(THREADS)
    find_cuts(Call call, long long which, const Sums* levels, const Gate* gates, unsigned* falls, double* cuts,
              int* swept, long long size) {
    __shared__ unsigned long long best;  // of the lists taken whole: their balls and, below, their number
    __shared__ int shallowest;
    const long long k = blockIdx.x, rows = call.segments[which].rows;
    const int subspaces = (int)call.segments[which].subspaces;
    const Sums level = levels[k];
    const Gate* own = gates + k * subspaces;
    double* cut = cuts + k * subspaces;
    unsigned* lists = falls + k * subspaces * BINS;
    if (call.plans[k].bad != 0.0) return;
    if (!countable(level)) {  // a threshold that no row can reach collects none
        for (int s = threadIdx.x; s < subspaces; s += THREADS) cut[s] = INFINITY;
        if (threadIdx.x == 0) swept[k] = level.slack < 0.0;
        return;
    }
    if (threadIdx.x == 0) best = ~0ull;
    __syncthreads();
    for (int s = threadIdx.x / WARP; s < subspaces; s += THREADS / WARP) {
        const unsigned upto = add_up(lists + (long long)s * BINS);
        if (lane_number() == 0) atomicMin(&best, (unsigned long long)upto << 32 | (unsigned)s);
    }
    __syncthreads();
    // What a list bounds if so many balls of it are collected. The margin pays for sums of magnitudes that bounds have,
    // so no cut may have a larger one.
    const auto bound_at = [&](int s, unsigned depth) {
        const int ranges = ranges_of(lists + (long long)s * BINS, depth);
        const double bound = own[s].most - level.slack / BINS * ranges;
        return ranges == BINS ? (double)-INFINITY : fmax(bound, -own[s].largest);
    };
    int low = -1, high = (int)(best >> 32);  // in step, the shortest list ends the sweep
    while (high - low > 1) {
        const int step = (high - low + THREADS - 1) / THREADS;
        const long long depth = low + (threadIdx.x + 1ll) * step;
        __syncthreads();
        if (threadIdx.x == 0) shallowest = high;
        __syncthreads();
        if (depth < high) {
            double total = 0.0;
            for (int s = 0; s < subspaces; s++) total += bound_at(s, (unsigned)depth);
            if (total < level.below) atomicMin(&shallowest, (int)depth);
        }
        __syncthreads();
        low = max(low, shallowest - step);
        high = shallowest;
    }
    unsigned long long balls = 0;  // collected in step
    for (int s = 0; s < subspaces; s++) {
        const int ranges = ranges_of(lists + (long long)s * BINS, high);
        balls += ranges == 0 ? 0 : lists[(long long)s * BINS + ranges - 1];
    }
    const bool whole = best >> 32 < balls;
    if (whole) balls = best >> 32;
    for (int s = threadIdx.x; s < subspaces; s += THREADS) {
        if (whole) {
            cut[s] = s == (int)(best & 0xffffffffu) ? own[s].least : (double)INFINITY;
        } else {
            cut[s] = fmax(bound_at(s, high), own[s].least);
        }
    }
    if (threadIdx.x != 0) return;
    swept[k] = balls * size < (unsigned long long)rows;
    const long long read = 16 * subspaces * call.segments[which].groups + 8ll * BINS * subspaces;
    count_work(call, SWEEP_STAGE, BYTES, read + (swept[k] != 0 ? 4 * balls * size : 0));
}

// Mark the members of the balls that the sweep collects. Grid: x strides over the groups, y over directions and
// subspaces. Blocks of THREADS.
//
// members : (spaces, subspaces, rows); candidates : a bit for each row (count, ceil(rows / 32)), from 0 on
extern "C" __global__ void __launch_bounds__(THREADS)
    collect_rows(Call call, long long which, const float* bounds, const double* cuts, const int* swept,
                 const int* members, long long size, unsigned* candidates) {
    const long long subspaces = call.segments[which].subspaces, groups = call.segments[which].groups;
    const long long rows = call.segments[which].rows, words = (rows + ROWS_PER_WORD - 1) / ROWS_PER_WORD;
    for (long long item = blockIdx.y; item < call.count * subspaces; item += gridDim.y) {
        const long long k = item / subspaces, s = item % subspaces;
        if (call.plans[k].bad != 0.0 || swept[k] == 0) continue;
        const float2* all = reinterpret_cast<const float2*>(bounds) + item * groups;
        const int* own = members + (k / call.batch * subspaces + s) * rows;
        for (long long ball = (long long)blockIdx.x * THREADS + threadIdx.x; ball < groups;
             ball += (long long)gridDim.x * THREADS) {
            if (!(exact64(all[ball].y) >= cuts[item])) continue;
            for (long long at = ball * size; at < min((ball + 1) * size, rows); at++) {
                const int row = own[at];
                if (row < 0 || row >= rows) continue;  // a file was damaged, and mapped
                atomicOr(candidates + k * words + row / ROWS_PER_WORD, 1u << row % ROWS_PER_WORD);
            }
        }
    }
}
