// Balls with lattice-coded centres, and rows coded the same way. Twin of the build half of halfspace/cpu/codes.py.
#include "formats.cuh"
#include "rounding.cuh"
#include "rows.cuh"
#include "runtime/records.cuh"

// Rows of vectors (spaces, n, d), `size` of them to a ball in the dimensions from `low` on, and where the codes of
// those balls lie. The twin of the record CODING in halfspace/gpu/codes.py. All fields have 8 bytes.
struct Coding {
    long long spaces;
    long long rows;
    long long dim;
    long long low;
    long long width;
    long long size;
    long long balls;     // in each space
    long long bases;     // in each space: ball i is coded around base i / per_base
    long long per_base;
    long long blocks;    // of codes, in each space
    long long steps;     // of 4 dimensions
};

// Widen centres to float64. A thread for each component.
extern "C" __global__ void widen_centre(const float* centre, double* wide, long long size) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < size) wide[i] = exact64(centre[i]);
}

// The mean of the rows of each ball: middles (spaces, balls, width). members : null, or (spaces, n), the rows ball
// after ball. A thread for each component.
extern "C" __global__ void average_balls(const stored_t* __restrict__ vectors, const int* __restrict__ members,
                                         double* middles, Coding coding) {
    const long long rows = coding.rows, dim = coding.dim, width = coding.width, size = coding.size;
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long balls = coding.balls;
    if (i >= coding.spaces * balls * width) return;
    const long long ball = i / width % balls, space = i / width / balls;
    const long long first = ball * size, last = first + size < rows ? first + size : rows;
    const stored_t* own = vectors + space * rows * dim + coding.low + i % width;
    double total = 0.0;
#pragma unroll 8
    for (long long at = first; at < last; ++at) {
        const long long row = members == nullptr ? at : members[space * rows + at];
        total += widen64(own[row * dim]);
    }
    middles[i] = total / static_cast<double>(last - first);
}

// What coding a point leaves.
struct Coded {
    float scale;
    double norm;    // of the point's offset from what its code stands for
    double extent;  // the norm of the latter, if it was asked for
};

// Write back what `stage` has read.
__device__ inline void unstage(double* values, long long stride, long long row, long long first, int count,
                               const double (&slab)[32][PITCH]) {
    const int lane = lane_of_warp();
    __syncwarp();
    for (int r = 0; r < 32; ++r) {
        const long long own = __shfl_sync(ALL, row, r);
        if (own >= 0 && lane < count) values[own * stride + first + lane] = slab[r][lane];
    }
}

// Code the points of a warp, points[row * dim] on, each around its base (dim), into its words, which are 16 apart. A
// thread for a point, as in `stage`. If REPLACE, points are replaced by what their codes stand for. Twin of `put`.
template <bool REPLACE, class Point, class Staged>
__device__ inline Coded put(Point* points, long long row, long long dim, const double* base, unsigned* words,
                            Staged (&slab)[32][PITCH]) {
    const int lane = lane_of_warp();
    double largest = 0.0;
    for (long long first = 0; first < dim; first += SLAB) {
        const int count = slab_width(dim, first);
        stage(points, dim, row, first, count, slab);
        if (row < 0) continue;
        for (int k = 0; k < count; ++k) largest = fmax(largest, fabs(staged64(slab[lane][k]) - base[first + k]));
    }
    const float scale = round_up32(largest / 127.0);
    const double wide = exact64(scale);
    const double inverse = scale > 0.0f ? 1.0 / wide : 0.0;
    double total = 0.0, squares = 0.0;
    for (long long first = 0; first < dim; first += SLAB) {
        const int count = slab_width(dim, first);
        if (dim > SLAB) stage(points, dim, row, first, count, slab);  // else it is all there
        for (int step = 0; row >= 0 && 4 * step < count; ++step) {
            unsigned word = 0;
#pragma unroll
            for (int b = 0; b < 4; ++b) {
                const int k = 4 * step + b;
                if (k >= count) break;
                const double middle = base[first + k];
                const double offset = staged64(slab[lane][k]) - middle;
                const double code = fmin(fmax(rint(offset * inverse), -127.0), 127.0);
                const double rest = offset - wide * code;
                total += rest * rest;
                word |= static_cast<unsigned>(static_cast<int>(code) + 128) << (8 * b);
                if constexpr (REPLACE) {
                    const double coded = middle + wide * code;
                    squares += coded * coded;
                    slab[lane][k] = coded;
                }
            }
            words[(first / 4 + step) * 16] = word;
        }
        if constexpr (REPLACE) unstage(points, dim, row, first, count, slab);
    }
    return {scale, norm_bound(total, dim), norm_bound(squares, dim)};
}

// The words of a ball's or row's code: codes (spaces, blocks, steps, 16, 4).
__device__ inline unsigned* words_of(unsigned char* codes, long long space, long long row, const Coding& coding) {
    const long long block = space * coding.blocks + row / BLOCK;
    return reinterpret_cast<unsigned*>(codes) + block * coding.steps * BLOCK + row % BLOCK;
}

// Code middles (spaces, balls, width) around bases (spaces, bases, width), ball i around base i / per_base, and replace
// them by what the codes stand for; extents (spaces, balls) are the sums of their norms and base_extents (spaces,
// bases). A thread for a ball, blocks of WARPS warps, warps space by space. With `average_balls` before and the two
// kernels after it, the twin of `put_ball`.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    code_balls(double* middles, const double* __restrict__ bases, const double* __restrict__ base_extents,
               double* extents, unsigned char* codes, float* scales, Coding coding) {
    __shared__ double slabs[WARPS][32][PITCH];
    const long long balls = coding.balls, width = coding.width;
    const Place place = place_of_thread(coding.spaces, balls);
    if (!place.any) return;
    const long long ball = place.row < 0 ? 0 : place.row;
    const long long base = place.space * coding.bases + ball / coding.per_base;
    const Coded coded = put<true>(middles + place.space * balls * width, place.row, width, bases + base * width,
                                  words_of(codes, place.space, ball, coding), slabs[warp_of_block()]);
    if (place.row < 0) return;
    scales[place.space * BLOCK * coding.blocks + ball] = coded.scale;
    extents[place.space * balls + ball] = base_extents[base] + coded.extent;
}

// The largest squared distance of the rows of each ball from their middle, as bits, in farthest (spaces, balls), which is
// zero at first. Rows and middles as in `average_balls`; holders : null, or (spaces, n), gets the ball of each row. A
// thread for a row, blocks of WARPS warps, warps space by space.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    reach_of_balls(const stored_t* __restrict__ vectors, const int* __restrict__ members, int* holders,
                   const double* __restrict__ middles, unsigned long long* farthest, Coding coding) {
    __shared__ float slabs[WARPS][32][PITCH];
    auto& slab = slabs[warp_of_block()];
    const long long rows = coding.rows, dim = coding.dim, width = coding.width, size = coding.size;
    const Place place = place_of_thread(coding.spaces, rows);
    if (!place.any) return;
    const bool live = place.row >= 0;
    const long long at = live ? place.row : 0;
    const long long row = live && members != nullptr ? members[place.space * rows + at] : place.row;
    const long long ball = place.space * coding.balls + at / size;
    double total = 0.0;
    for (long long first = 0; first < width; first += SLAB) {
        const int count = slab_width(width, first);
        stage(vectors + place.space * rows * dim + coding.low, dim, row, first, count, slab);
        if (!live) continue;
        const double* middle = middles + ball * width + first;
        for (int k = 0; k < count; ++k) {
            const double rest = exact64(slab[lane_of_warp()][k]) - middle[k];
            total += rest * rest;
        }
    }
    if (!live) return;
    atomicMax(farthest + ball, static_cast<unsigned long long>(__double_as_longlong(total)));  // not negative
    if (holders != nullptr) holders[place.space * rows + row] = static_cast<int>(at / size);
}

// Radii of balls (spaces, 16 blocks) from `farthest` and extents (spaces, balls). A thread for a ball.
extern "C" __global__ void radii_of_balls(const unsigned long long* farthest, const double* extents, float* radii,
                                          Coding coding) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long balls = coding.balls, width = coding.width;
    if (i >= coding.spaces * balls) return;
    const double total = __longlong_as_double(static_cast<long long>(farthest[i]));
    const double radius = residual_bound(norm_bound(total, width), 0.0, extents[i], width);
    radii[i / balls * BLOCK * coding.blocks + i % balls] = round_up32(radius);
}

// Code rows of vectors (spaces, n, d) around bases (spaces, bases, d) of these extents (spaces, bases), each a ball of
// its own. A thread for a row, blocks of WARPS warps, warps space by space.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    put_rows(const stored_t* __restrict__ vectors, const double* __restrict__ bases,
             const double* __restrict__ extents, unsigned char* codes, float* scales, float* radii, Coding coding) {
    __shared__ float slabs[WARPS][32][PITCH];
    const long long rows = coding.rows, dim = coding.dim;
    const Place place = place_of_thread(coding.spaces, rows);
    if (!place.any) return;
    const long long row = place.row < 0 ? 0 : place.row;
    const long long base = place.space * coding.bases + row / coding.per_base;
    const Coded coded = put<false>(vectors + place.space * rows * dim, place.row, dim, bases + base * dim,
                                   words_of(codes, place.space, row, coding), slabs[warp_of_block()]);
    if (place.row < 0) return;
    const long long at = place.space * BLOCK * coding.blocks + row;
    scales[at] = coded.scale;
    radii[at] = round_up32(residual_bound(coded.norm, exact64(coded.scale), extents[base], dim));
}
