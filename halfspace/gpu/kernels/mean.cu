// Means of stored vectors, in a fixed order of summation. Twin of `mean` in halfspace/cpu/codes.py.
#include "formats.cuh"
#include "rows.cuh"

constexpr int TEAM = 8;  // warps of a block, which share its columns, a lane for each, and take turns at rows

// Add up what the warps have, warp after warp; the result is that of the first one.
__device__ inline double added(double total, double (&parts)[TEAM][32]) {
    parts[warp_of_block()][lane_of_warp()] = total;
    __syncthreads();
    total = 0.0;
    for (int warp = 0; warp < TEAM; ++warp) total += parts[warp][lane_of_warp()];
    __syncthreads();
    return total;
}

// Where a block is: its columns, its part of the rows, its space. Blocks are numbered in this order.
struct Patch {
    long long column, part, space;
};

__device__ inline Patch patch_of_block(long long dim, long long parts) {
    const long long tiles = (dim + 31) / 32;
    const long long block = blockIdx.x, rest = block / tiles;
    return {block % tiles * 32 + lane_of_warp(), rest % parts, rest / parts};
}

// Sum the rows of vectors (spaces, n, d), `per_part` at a time, into sums (spaces, parts, d). Blocks of TEAM warps:
// spaces * parts * ceil(d / 32) of them.
extern "C" __global__ void __launch_bounds__(32 * TEAM)
    sum_rows(const stored_t* __restrict__ vectors, double* sums, long long rows, long long dim, long long per_part,
             long long parts) {
    __shared__ double shared[TEAM][32];
    const Patch at = patch_of_block(dim, parts);
    const long long first = at.part * per_part;
    const long long last = first + per_part < rows ? first + per_part : rows;
    double total = 0.0;
    if (at.column < dim) {
        const stored_t* own = vectors + at.space * rows * dim + at.column;
#pragma unroll 8
        for (long long row = first + warp_of_block(); row < last; row += TEAM) total += widen64(own[row * dim]);
    }
    total = added(total, shared);
    if (warp_of_block() == 0 && at.column < dim) sums[(at.space * parts + at.part) * dim + at.column] = total;
}

// Add up sums (spaces, parts, d), and divide them by the number of rows. Blocks of TEAM warps: spaces * ceil(d / 32).
extern "C" __global__ void __launch_bounds__(32 * TEAM)
    mean_of_sums(const double* __restrict__ sums, float* means, long long rows, long long dim, long long parts) {
    __shared__ double shared[TEAM][32];
    const Patch at = patch_of_block(dim, 1);
    double total = 0.0;
    if (at.column < dim) {
        const double* own = sums + at.space * parts * dim + at.column;
#pragma unroll 8
        for (long long part = warp_of_block(); part < parts; part += TEAM) total += own[part * dim];
    }
    total = added(total, shared);
    if (warp_of_block() == 0 && at.column < dim) {
        means[at.space * dim + at.column] = narrow(total / static_cast<double>(rows));
    }
}

// Over `count` rows of each space, from the first to the last at even distances, sum offsets from the centre (spaces,
// d), and their squares, into sums (spaces, parts, 2, d), `per_part` at a time. Blocks as those of `sum_rows`.
extern "C" __global__ void __launch_bounds__(32 * TEAM)
    sum_spreads(const stored_t* __restrict__ vectors, const float* __restrict__ centre, double* sums, long long rows,
                long long dim, long long count, long long per_part, long long parts) {
    __shared__ double shared[TEAM][32];
    const Patch at = patch_of_block(dim, parts);
    const long long first = at.part * per_part;
    const long long last = first + per_part < count ? first + per_part : count;
    double total = 0.0, squares = 0.0;
    if (at.column < dim) {
        const stored_t* own = vectors + at.space * rows * dim + at.column;
        const double middle = exact64(centre[at.space * dim + at.column]);
#pragma unroll 4
        for (long long k = first + warp_of_block(); k < last; k += TEAM) {
            const long long row = count > 1 ? k * (rows - 1) / (count - 1) : 0;
            const double offset = widen64(own[row * dim]) - middle;
            total += offset;
            squares += offset * offset;
        }
    }
    total = added(total, shared);
    squares = added(squares, shared);
    if (warp_of_block() == 0 && at.column < dim) {
        double* own = sums + (at.space * parts + at.part) * 2 * dim + at.column;
        own[0] = total;
        own[dim] = squares;
    }
}
