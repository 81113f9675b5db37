// Thresholds read off a sample of the keys: what they keep is estimated, nothing is certified.
#include "rounding.cuh"
#include "attention/heads.cuh"

#define WARPS (THREADS / WARP)
#define EACH (RESERVOIR / THREADS)
#define AT_ONCE 8  // keys that a warp reads at once
#define LANE_DIMS ((HEAD_DIM + WARP - 1) / WARP)

enum Estimator : long long { BUDGET, MAXIMUM, GAP };  // as in ESTIMATORS in halfspace/model/kv_cache.py

// A question and its answer: the twin of the record ESTIMATE in halfspace/gpu/attention/threshold.py.
// All fields have 8 bytes.
struct Estimate {
    const void* queries;  // (batch, query heads, d), stored bits, or float32 where they are `wide`
    long long wide;
    long long group;      // query heads of a head
    double keep;
    long long estimator;
    long long slots;      // how many slots "max" looks at
    float* scores;        // (batch, query heads, RESERVOIR)
    unsigned* tickets;    // (batch, query heads), 0 between calls
    double* tau;          // (batch, query heads)
};

// The largest over a block; all threads get it.
__device__ float largest_of_block(float value, float* room) {
    for (int step = WARP / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(FULL, value, step));
    __syncthreads();
    if (lane_number() == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    value = room[0];
    for (int warp = 1; warp < WARPS; warp++) value = fmaxf(value, room[warp]);
    return value;
}

// Keep the larger of two numbers or the smaller one, as the place of `own` asks for, where steps of the network are `step`.
__device__ __forceinline__ float kept_of(float own, float other, int place, int step, int size) {
    return ((place & step) == 0) == ((place & size) == 0) ? fmaxf(own, other) : fminf(own, other);
}

// Sort the scores of a sample in descending order (Batcher's bitonic network). A thread holds every THREADS-th of them, so
// that it finds what it compares in itself, in its warp, or, at three distances, in shared memory.
__device__ void sort_scores(float (&scores)[RESERVOIR]) {
    const int thread = threadIdx.x;
    float own[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) own[k] = scores[THREADS * k + thread];
#pragma unroll 1
    for (int size = 2; size <= RESERVOIR; size *= 2) {
#pragma unroll
        for (int step = RESERVOIR / 2; step >= THREADS; step /= 2) {
            if (step >= size) continue;
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                const int far = k ^ (step / THREADS);
                if (far < k) continue;
                const float one = own[k], two = own[far];
                own[k] = kept_of(one, two, THREADS * k + thread, step, size);
                own[far] = kept_of(two, one, THREADS * far + thread, step, size);
            }
        }
#pragma unroll
        for (int step = THREADS / 2; step >= WARP; step /= 2) {
            if (step >= size) continue;
            __syncthreads();
#pragma unroll
            for (int k = 0; k < EACH; k++) scores[THREADS * k + thread] = own[k];
            __syncthreads();
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                const int place = THREADS * k + thread;
                own[k] = kept_of(own[k], scores[place ^ step], place, step, size);
            }
        }
#pragma unroll
        for (int step = WARP / 2; step > 0; step /= 2) {
            if (step >= size) continue;
#pragma unroll
            for (int k = 0; k < EACH; k++)
                own[k] = kept_of(own[k], __shfl_xor_sync(FULL, own[k], step), THREADS * k + thread, step, size);
        }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EACH; k++) scores[THREADS * k + thread] = own[k];
    __syncthreads();
}

// Score some slots of the sample, by a warp, AT_ONCE at a time; slots without a key have the score -inf.
__device__ void score_slots(const Cache& cache, const Estimate& call, long long space, long long query, long long length,
                            int first, int last) {
    const int lane = lane_number();
    const stored_t* keys = cache.keys + space * cache.capacity * HEAD_DIM;
    const long long* sample = cache.sample + space / cache.heads * RESERVOIR;
    float own[LANE_DIMS];
#pragma unroll
    for (int k = 0; k < LANE_DIMS; k++) {
        const int j = WARP * k + lane;
        own[k] = j < HEAD_DIM ? query_component(call.queries, call.wide != 0, query * HEAD_DIM + j) : 0.0f;
    }
    for (int slot = first; slot < last; slot += AT_ONCE) {
        const long long place = sample[slot + lane % AT_ONCE], row = place < length ? place : -1;
        stored_t read[AT_ONCE][LANE_DIMS];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const long long which = __shfl_sync(FULL, row, i);
#pragma unroll
            for (int k = 0; k < LANE_DIMS; k++) {
                const int j = WARP * k + lane;
                read[i][k] = which >= 0 && j < HEAD_DIM ? keys[which * HEAD_DIM + j] : stored_t(0);
            }
        }
        float score = -INFINITY;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < LANE_DIMS; k++) sum = fmaf(own[k], widen(read[i][k]), sum);
#pragma unroll
            for (int step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(FULL, sum, step);
            if (lane == i && row >= 0) score = sum;
        }
        if (lane < AT_ONCE) call.scores[query * RESERVOIR + slot + lane] = score;
    }
}

// Read a threshold off the scores of `members` keys; to all threads.
__device__ double read_off(const Estimate& call, long long members, float (&scores)[RESERVOIR], float* room, int& place) {
    if (call.estimator == MAXIMUM) {
        float most = -INFINITY;
        for (long long slot = threadIdx.x; slot < members; slot += THREADS)  // evenly spread: early slots hold early keys
            if ((slot * call.slots + members / 2) % members < call.slots) most = fmaxf(most, scores[slot]);
        return exact64(largest_of_block(most, room));
    }
    sort_scores(scores);
    const double asked = call.keep * (double)members;
    if (call.estimator == BUDGET) return exact64(scores[max(1ll, min((long long)ceil(asked), members)) - 1]);
    const long long first = max(1ll, min((long long)floor(0.5 * asked), members));  // ranks, from 1 on
    const long long last = min(max((long long)ceil(2.0 * asked), first + 1), members);
    float own = -1.0f;
    int rank = RESERVOIR;
    for (long long k = first + threadIdx.x; k < last; k += THREADS) {
        const float gap = scores[k - 1] - scores[k];
        if (gap > own) own = gap, rank = (int)k;
    }
    const float widest = largest_of_block(own, room);
    if (own == widest) atomicMin(&place, rank);
    __syncthreads();
    if (first == last) return exact64(scores[first - 1]);
    return 0.5 * (exact64(scores[place - 1]) + exact64(scores[place]));
}

// Grid: x parts of the sample, a divisor of RESERVOIR / (WARPS * AT_ONCE); y query heads of all sequences. Blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS) estimate_thresholds(Cache cache, Estimate call) {
    __shared__ float scores[RESERVOIR];
    __shared__ float room[WARPS];
    __shared__ int place;
    __shared__ bool last;
    wait_for_previous();
    const long long query = blockIdx.y, space = query / call.group, length = cache.lengths[space / cache.heads];
    const int each = RESERVOIR / (int)(gridDim.x * WARPS), first = (int)(blockIdx.x * WARPS + threadIdx.x / WARP) * each;
    score_slots(cache, call, space, query, length, first, first + each);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(call.tickets + query, 1u) == gridDim.x - 1;
        place = RESERVOIR;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int slot = threadIdx.x; slot < RESERVOIR; slot += THREADS)
        scores[slot] = *const_cast<volatile float*>(call.scores + query * RESERVOIR + slot);  // other blocks wrote it
    __syncthreads();
    const long long members = min(length, (long long)RESERVOIR);
    const double tau = members > 0 ? read_off(call, members, scores, room, place) : -INFINITY;
    if (threadIdx.x != 0) return;
    call.tau[query] = tau;
    call.tickets[query] = 0;
}
