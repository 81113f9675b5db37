// Ordering and choosing by float32 scores: the score at a rank of a sample, the best hits of each row, rows in order.
// Scores are compared as integers: subnormals, which are flushed here, keep their places.
#include "runtime/ptx.cuh"
#include "runtime/records.cuh"

#define ROW_THREADS 1024  // threads of a block that goes through a row alone
#define RANKED 2048  // hits that such a block ranks at once
#define FEW 256       // hits that it ranks without looking for the best first: comparisons are the square of their number
#define DIGITS 256    // values of a digit; a block has as many threads, or more
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
    __shared__ int counts[DIGITS];
    __shared__ int sums[DIGITS / WARP];
    __shared__ Cut cut;
    if (threadIdx.x == 0) cut = {0u, (int)rank};
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) counts[digit] = 0;
        __syncthreads();
        const Cut before = cut;
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
                if (orders[k] != 0 && (orders[k] & above) == before.order)
                    atomicAdd(&counts[orders[k] >> shift & (DIGITS - 1)], 1);
            }
        }
        __syncthreads();
        // the first threads take a digit each, from the highest: with which of them are there as many as are wanted?
        const int digit = DIGITS - 1 - (int)threadIdx.x;
        const int own = digit >= 0 ? counts[digit] : 0;
        int upto = warp_prefix(own);
        if (digit >= 0 && lane_number() == WARP - 1) sums[threadIdx.x / WARP] = upto;
        __syncthreads();
        if (digit >= 0) {
            for (int warp = 0; warp < threadIdx.x / WARP; warp++) upto += sums[warp];
            if ((upto >= before.ties || digit == 0) && upto - own < before.ties)
                cut = {before.order | (unsigned)digit << shift, before.ties - (upto - own)};
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

// Go, by a block, through those of so many scores that a cut keeps, in order of places; returns how many there are.
// put : gets the number of each among them, its place and its integer
template <class Put>
__device__ int each_kept(const float* scores, long long size, Cut cut, Put put) {
    int ties = 0, count = 0;
    for (long long base = 0; base < size; base += blockDim.x) {
        const long long i = base + threadIdx.x;
        const unsigned order = i < size ? order_of(scores[i]) : 0u;
        int tied, kept;
        const int earlier = ties + yes_before(order == cut.order && order != 0, tied);
        const bool keep = order > cut.order || (order == cut.order && order != 0 && earlier < cut.ties);
        const int place = count + yes_before(keep, kept);
        if (keep) put(place, i, order);
        ties += tied;
        count += kept;
    }
    return count;
}

// Keep of each row the `limit` hits with the largest scores, the first of those that share the last; places stay in
// order. One row a block.
extern "C" __global__ void __launch_bounds__(ROW_THREADS) keep_hits(
    const long long* offsets, const long long* ids, const float* scores, long long limit, long long* kept_offsets,
    long long* kept_ids, float* kept_scores
) {
    const long long row = blockIdx.x, first = offsets[row], size = offsets[row + 1] - first;
    const long long out = kept_before(offsets, row, limit);
    if (threadIdx.x == 0) {
        if (row == 0) kept_offsets[0] = 0;
        kept_offsets[row + 1] = out + min(size, limit);
    }
    if (limit == 0) return;
    const Cut cut = size > limit ? cut_at(scores + first, size, limit) : Cut{0u, 0};
    each_kept(scores + first, size, cut, [&](int place, long long i, unsigned) {
        kept_ids[out + place] = ids[first + i];
        kept_scores[out + place] = scores[first + i];
    });
}

// Of each row, put the `limit` hits with the largest scores by descending score: places (rows, limit). It is clear that this
// is their order by real scores if there are so many, and no two of the best limit + 1, which are at most RANKED, share a
// score. One row a block. Behind the offsets are the numbers of the rows.
extern "C" __global__ void __launch_bounds__(ROW_THREADS) rank_best(
    const long long* offsets, const long long* ids, const float* scores, long long limit, long long* best_ids,
    float* best_scores, long long* best_offsets, bool* clear
) {
    __shared__ unsigned orders[RANKED];
    __shared__ int places[RANKED];
    const long long row = blockIdx.x, first = offsets[row], size = offsets[row + 1] - first;
    if (threadIdx.x == 0) {
        if (row == 0) best_offsets[0] = 0;
        best_offsets[row + 1] = (row + 1) * limit;
        best_offsets[gridDim.x + 1 + row] = limit;
        if (size < limit) clear[row] = false;
    }
    if (size < limit) return;
    const int wanted = (int)min(size, limit + 1);
    const Cut cut = size > max(wanted, FEW) ? cut_at(scores + first, size, wanted) : Cut{0u, 0};
    const int count = each_kept(scores + first, size, cut, [&](int place, long long i, unsigned order) {
        orders[place] = order;
        places[place] = (int)i;
    });
    __syncthreads();
    bool tied = false;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        int before = 0, equal = 0;  // those that are better, and those that are as good and come before
        for (int other = 0; other < count; other++) {
            before += orders[other] > orders[i];
            equal += orders[other] == orders[i] && other < i;
        }
        const int rank = before + equal;
        tied |= equal > 0 && rank <= limit;
        if (rank >= limit) continue;
        best_ids[row * limit + rank] = ids[first + places[i]];
        best_scores[row * limit + rank] = scores[first + places[i]];
    }
    tied = __syncthreads_or(tied);
    if (threadIdx.x == 0) clear[row] = !tied;
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
