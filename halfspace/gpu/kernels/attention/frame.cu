// The frame of a cache, chosen from its keys: their mean, and weights that follow the spread of each dimension.
#include "attention/encode.cuh"

#define TEAM 8     // warps of a block that sums
#define EACH ((HEAD_DIM + WARP - 1) / WARP)  // columns of a lane

// Sum the keys of a space and their squares, less its first key. Grid: x parts, which take turns at rows; y spaces.
//
// sums : (spaces, parts, 2, d)
extern "C" __global__ void __launch_bounds__(WARP * TEAM) sum_keys(Cache cache, double* sums, long long parts) {
    __shared__ double shared[TEAM][2][WARP];
    const long long space = blockIdx.y, part = blockIdx.x, length = cache.lengths[space / cache.heads];
    const int dim = HEAD_DIM, lane = lane_number(), warp = threadIdx.x / WARP;
    const stored_t* keys = cache.keys + space * cache.capacity * dim;
    double first[EACH], totals[EACH] = {}, squares[EACH] = {};
#pragma unroll
    for (int k = 0; k < EACH; k++) first[k] = length > 0 && WARP * k + lane < dim ? widen64(keys[WARP * k + lane]) : 0.0;
    for (long long row = part * TEAM + warp; row < length; row += parts * TEAM) {
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            if (WARP * k + lane >= dim) continue;
            const double value = widen64(keys[row * dim + WARP * k + lane]) - first[k];
            totals[k] += value;
            squares[k] += value * value;
        }
    }
    double* own = sums + (space * parts + part) * 2 * dim;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        __syncthreads();
        shared[warp][0][lane] = totals[k];
        shared[warp][1][lane] = squares[k];
        __syncthreads();
        if (warp >= 2 || WARP * k + lane >= dim) continue;
        double total = 0.0;
        for (int other = 0; other < TEAM; other++) total += shared[other][warp][lane];
        own[warp * dim + WARP * k + lane] = total;
    }
}

// Centre and weights from `sum_keys`; those of a space without keys are 0 and 1. A block for a space.
extern "C" __global__ void __launch_bounds__(THREADS) choose_frame(Cache cache, const double* sums, long long parts) {
    __shared__ double shared[THREADS];
    const long long space = blockIdx.x, length = cache.lengths[space / cache.heads], dim = HEAD_DIM;
    const long long chunks = (cache.capacity + CHUNK - 1) / CHUNK;
    double peak = 0.0;
    for (long long chunk = 0; chunk < (length + CHUNK - 1) / CHUNK; chunk++)
        peak = fmax(peak, exact64(cache.peaks[space * chunks + chunk]));
    const bool moderate = is_moderate(peak);
    const long long j = threadIdx.x;  // d is at most THREADS
    double spread = 0.0;
    if (j < dim) {
        double total = 0.0, squares = 0.0;
        for (long long part = 0; part < parts; part++) {
            total += sums[(space * parts + part) * 2 * dim + j];
            squares += sums[(space * parts + part) * 2 * dim + dim + j];
        }
        const double count = length > 0 ? (double)length : 1.0, mean = total / count;
        const double first = length > 0 ? widen64(cache.keys[space * cache.capacity * dim + j]) : 0.0;
        spread = sqrt(fmax(0.0, squares / count - mean * mean));
        cache.centre[space * dim + j] = narrow(first + mean);
    }
    shared[threadIdx.x] = spread;
    __syncthreads();
    double most = 0.0;
    for (int k = 0; k < THREADS; k++) most = fmax(most, shared[k]);
    if (j < dim) cache.weights[space * dim + j] = moderate && most > 0.0 ? weight_of(spread / most) : 1.0f;
}

// Code all keys of a cache in the frame that is there. Grid: x strides over rows, a warp for each; y spaces.
extern "C" __global__ void __launch_bounds__(WARP * TEAM) encode_keys(Cache cache) {
    const long long space = blockIdx.y, length = cache.lengths[space / cache.heads];
    const stored_t* keys = cache.keys + space * cache.capacity * HEAD_DIM;
    const Frame frame = load_frame(cache, space);
    for (long long row = (long long)blockIdx.x * TEAM + threadIdx.x / WARP; row < length; row += (long long)gridDim.x * TEAM)
        encode_key(cache, space, row, load_vector(keys + row * HEAD_DIM), frame);
}
