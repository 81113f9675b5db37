// Ordering and choosing by float32 scores: the best hits of each row, and the score at a rank of a sample. Scores are
// compared as integers: subnormals, which are flushed here, keep their places.
#include "runtime/ptx.cuh"
#include "runtime/records.cuh"

#define SIGN 0x80000000u

// An integer in the order of scores; both zeros are one.
__device__ __forceinline__ unsigned order_of(float score) {
    const unsigned bits = __float_as_uint(score);
    return bits < SIGN ? SIGN + bits : 0u - bits;
}

// The score whose integer that is.
__device__ __forceinline__ float score_of(unsigned order) {
    return __uint_as_float(order >= SIGN ? order - SIGN : 0u - order);
}

// Sum over a block of how many hits are kept of the rows before one; all threads get it.
__device__ long long kept_before(const long long* offsets, long long row, long long limit) {
    __shared__ long long total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    long long kept = 0;
    for (long long other = threadIdx.x; other < row; other += THREADS) {
        kept += min(offsets[other + 1] - offsets[other], limit);
    }
    kept = warp_sum(kept);
    if (lane_number() == 0 && kept != 0) atomicAdd((unsigned long long*)&total, (unsigned long long)kept);
    __syncthreads();
    return total;
}

// Put the first `limit` hits of each row by descending score, and then by place, in that order. Each finds its rank by
// comparing itself with all of its row. A grid of (rows, parts), in blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS) rank_hits(
    const long long* offsets, const long long* ids, const float* scores, long long limit, long long* kept_offsets,
    long long* kept_ids, float* kept_scores
) {
    const long long row = blockIdx.x, first = offsets[row], last = offsets[row + 1];
    const long long out = kept_before(offsets, row, limit);
    if (blockIdx.y == 0 && threadIdx.x == 0) {
        if (row == 0) kept_offsets[0] = 0;
        kept_offsets[row + 1] = out + min(last - first, limit);
    }
    const long long step = (long long)gridDim.y * THREADS;
    for (long long i = first + (long long)blockIdx.y * THREADS + threadIdx.x; i < last; i += step) {
        const unsigned own = order_of(scores[i]);
        long long rank = 0;
        for (long long other = first; other < last; other++) {
            const unsigned theirs = order_of(scores[other]);
            rank += theirs > own || (theirs == own && other < i);
        }
        if (rank >= limit) continue;
        kept_ids[out + rank] = ids[i];
        kept_scores[out + rank] = scores[i];
    }
}

// Of each row (m, size), the score that so many reach, or the floor where that is higher or the score is not a number;
// the floors are (m,), or one for all. Digit by digit, from the highest: how many have which. One row a block.
extern "C" __global__ void __launch_bounds__(THREADS) score_at_rank(
    const float* scores, long long size, long long rank, const double* floors, double floor, double* found
) {
    __shared__ int counts[256];
    __shared__ unsigned known;  // the digits found, and of the scores that share them, how many are to be reached
    __shared__ int left;
    const float* own = scores + blockIdx.x * size;
    if (threadIdx.x == 0) {
        known = 0;
        left = (int)rank;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int digit = threadIdx.x; digit < 256; digit += THREADS) counts[digit] = 0;
        __syncthreads();
        const unsigned above = shift == 24 ? 0 : ~0u << (shift + 8);
        for (long long i = threadIdx.x; i < size; i += THREADS) {
            const unsigned place = order_of(own[i]);
            if ((place & above) == known) atomicAdd(&counts[place >> shift & 255], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = 255;
            for (; digit > 0 && counts[digit] < left; digit--) left -= counts[digit];
            known |= (unsigned)digit << shift;
        }
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    found[blockIdx.x] = fmax(exact64(score_of(known)), floors == nullptr ? floor : floors[blockIdx.x]);
}
