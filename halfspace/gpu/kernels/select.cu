// Ordering and choosing by float32 scores: the score at a rank of a sample, the best hits of each row, rows in order.
// Scores are compared as integers: subnormals, which are flushed here, keep their places.
#include "runtime/ptx.cuh"
#include "runtime/records.cuh"

#define ROW_THREADS 1024  // threads of a block that goes through a row alone
#define AHEAD 4    // scores that a thread reads before it looks at them
#define SIGN 0x80000000u

// An integer above 0 in the order of scores; both zeros are one.
__device__ __forceinline__ unsigned order_of(float score) {
    const unsigned bits = __float_as_uint(score);
    return bits < SIGN ? SIGN + bits : 0u - bits;
}

// The score whose integer that is.
__device__ __forceinline__ float score_of(unsigned order) {
    return __uint_as_float(order >= SIGN ? order - SIGN : 0u - order);
}

// What is found of a row, by a block: the integer of the score at a rank, and how many of those that share it are among
// the first so many.
struct Cut {
    unsigned order;
    int ties;
};

// Find the score that `rank` of so many reach, digit by digit from the highest: how many have which. All threads get it.
__device__ Cut cut_at(const float* scores, long long size, long long rank) {
    __shared__ int counts[256];
    __shared__ Cut cut;
    if (threadIdx.x == 0) cut = {0u, (int)rank};
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int digit = threadIdx.x; digit < 256; digit += blockDim.x) counts[digit] = 0;
        __syncthreads();
        const unsigned above = shift == 24 ? 0u : ~0u << (shift + 8);
        for (long long first = threadIdx.x; first < size; first += AHEAD * blockDim.x) {
            unsigned orders[AHEAD];
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                const long long i = first + k * blockDim.x;
                orders[k] = i < size ? order_of(scores[i]) : 0u;
            }
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                if (orders[k] != 0 && (orders[k] & above) == cut.order) atomicAdd(&counts[orders[k] >> shift & 255], 1);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = 255;
            for (; digit > 0 && counts[digit] < cut.ties; digit--) cut.ties -= counts[digit];
            cut.order |= (unsigned)digit << shift;
        }
        __syncthreads();
    }
    return cut;
}

// Of each row (m, size), the score that so many reach, or the floor where that is higher or the score is not a number;
// the floors are (m,), or one for all. One row a block.
extern "C" __global__ void __launch_bounds__(ROW_THREADS) score_at_rank(
    const float* scores, long long size, long long rank, const double* floors, double floor, double* found
) {
    const Cut cut = cut_at(scores + blockIdx.x * size, size, rank);
    if (threadIdx.x != 0) return;
    found[blockIdx.x] = fmax(exact64(score_of(cut.order)), floors == nullptr ? floor : floors[blockIdx.x]);
}

// Sum over a block of how many are kept of the rows before one; all threads get it.
__device__ long long kept_before(const long long* offsets, long long row, long long limit) {
    __shared__ unsigned long long total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    long long kept = 0;
    for (long long other = threadIdx.x; other < row; other += blockDim.x) {
        kept += min(offsets[other + 1] - offsets[other], limit);
    }
    kept = warp_sum(kept);
    if (lane_number() == 0 && kept != 0) atomicAdd(&total, (unsigned long long)kept);
    __syncthreads();
    return (long long)total;
}

// Count over a block the threads before this one that say yes, and all that do.
__device__ int yes_before(bool yes, int& all) {
    __shared__ int counts[ROW_THREADS / WARP];
    const unsigned warp = __ballot_sync(FULL, yes);
    __syncthreads();
    if (lane_number() == 0) counts[threadIdx.x / WARP] = __popc(warp);
    __syncthreads();
    int before = __popc(warp & lanes_below());
    all = 0;
    for (int other = 0; other < blockDim.x / WARP; other++) {
        if (other < threadIdx.x / WARP) before += counts[other];
        all += counts[other];
    }
    return before;
}

// Keep of each row the `limit` hits with the largest scores, the first of those that share the last; places stay in
// order. One row a block.
extern "C" __global__ void __launch_bounds__(ROW_THREADS) keep_hits(
    const long long* offsets, const long long* ids, const float* scores, long long limit, long long* kept_offsets,
    long long* kept_ids, float* kept_scores
) {
    const long long row = blockIdx.x, first = offsets[row], size = offsets[row + 1] - first;
    long long out = kept_before(offsets, row, limit);
    if (threadIdx.x == 0) {
        if (row == 0) kept_offsets[0] = 0;
        kept_offsets[row + 1] = out + min(size, limit);
    }
    if (limit == 0) return;
    const Cut cut = size > limit ? cut_at(scores + first, size, limit) : Cut{0u, 0};
    int ties = 0;
    for (long long base = 0; base < size; base += blockDim.x) {
        const long long i = first + base + threadIdx.x;
        const unsigned order = base + threadIdx.x < size ? order_of(scores[i]) : 0u;
        int tied, kept;
        const int earlier = ties + yes_before(order == cut.order && order != 0, tied);
        const bool keep = order > cut.order || (order == cut.order && order != 0 && earlier < cut.ties);
        const long long place = out + yes_before(keep, kept);
        if (keep) {
            kept_ids[place] = ids[i];
            kept_scores[place] = scores[i];
        }
        ties += tied;
        out += kept;
    }
}

// Put the hits of each row by descending score, and then by place. Each finds its place by comparing itself with all of
// its row. A grid of (rows, parts), in blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS) rank_hits(
    const long long* offsets, const long long* ids, const float* scores, long long* ranked_ids, float* ranked_scores
) {
    __shared__ unsigned orders[THREADS];
    const long long first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
    const long long step = (long long)gridDim.y * THREADS;
    for (long long base = first + (long long)blockIdx.y * THREADS; base < last; base += step) {
        const long long i = base + threadIdx.x;
        const unsigned own = i < last ? order_of(scores[i]) : 0u;
        long long out = first;
        for (long long tile = first; tile < last; tile += THREADS) {
            const long long other = tile + threadIdx.x;
            __syncthreads();
            orders[threadIdx.x] = other < last ? order_of(scores[other]) : 0u;
            __syncthreads();
            int before = 0;
            const long long upto = i - tile;  // those before this one are before it if they are as good
#pragma unroll 16
            for (int k = 0; k < THREADS; k++) before += orders[k] + (k < upto) > own;
            out += before;
        }
        if (i >= last) continue;
        ranked_ids[out] = ids[i];
        ranked_scores[out] = scores[i];
    }
}
