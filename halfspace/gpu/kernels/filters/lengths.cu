// Lengths of rows and of balls, which lift the thresholds of cosines and distances: the twin of
// halfspace/cpu/filters/lengths.py.
#include "formats.cuh"
#include "rounding.cuh"
#include "rows.cuh"
#include "runtime/records.cuh"

// Largest normal float32 (or zero, or minus infinity) that is at most the float64 `value`.
__device__ inline float round_down32(double value) { return 0.0f - round_up32(-value); }

// Half the squared distances of vectors (spaces, n, d) from centres (spaces, d), rounded down: lengths (spaces, pitch). A
// thread for a row, blocks of WARPS warps, warps space by space.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    half_squares(const stored_t* __restrict__ vectors, const float* __restrict__ centre, float* lengths,
                 long long spaces, long long rows, long long dim, long long pitch) {
    __shared__ float slabs[WARPS][32][PITCH];
    auto& slab = slabs[warp_of_block()];
    const Place place = place_of_thread(spaces, rows);
    if (!place.any) return;
    const float* base = centre + place.space * dim;
    double total = 0.0;
    for (long long first = 0; first < dim; first += SLAB) {
        const int count = slab_width(dim, first);
        stage(vectors + place.space * rows * dim, dim, place.row, first, count, slab);
        if (place.row < 0) continue;
        for (int k = 0; k < count; ++k) {
            const double offset = exact64(slab[lane_of_warp()][k]) - exact64(base[first + k]);
            total += offset * offset;
        }
    }
    if (place.row >= 0) lengths[place.space * pitch + place.row] = round_down32(half_square(total, dim));
}

// The least of each `size` norms (spaces, n) that follow one another: lengths (spaces, pitch); infinite ones count as the
// largest float32. A warp for each.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    least_norms(const float* __restrict__ norms, float* lengths, long long spaces, long long rows, long long size,
                long long pitch) {
    const long long balls = (rows + size - 1) / size;
    const long long ball = static_cast<long long>(blockIdx.x) * WARPS + warp_of_block();
    if (ball >= spaces * balls) return;
    const long long first = ball % balls * size, last = first + size < rows ? first + size : rows;
    const float* own = norms + ball / balls * rows;
    unsigned least = 0x7F7FFFFFu;  // norms are not negative: the order of their bits is theirs
    for (long long row = first + lane_of_warp(); row < last; row += 32) least = min(least, __float_as_uint(own[row]));
    for (int distance = 16; distance > 0; distance /= 2) least = min(least, __shfl_xor_sync(ALL, least, distance));
    if (lane_of_warp() == 0) lengths[ball / balls * pitch + ball % balls] = __uint_as_float(least);
}

// Balls of one level, and what they are coded around: the twin of the record MEASURED in halfspace/gpu/filters/lengths.py.
// All fields have 8 bytes.
struct Measured {
    const double* centre;         // (spaces, d)
    const double* bases;          // (spaces, bases, d): ball i is coded around base i / per_base
    const double* extents;        // (spaces, bases), sums of the norms of the computed centres that they consist of
    const unsigned char* codes;   // (spaces, blocks, steps, 16, 4)
    const float* scales;          // (spaces, 16 blocks)
    const float* radii;           // (spaces, 16 blocks)
    float* lengths;               // (spaces, 16 blocks)
    unsigned long long* lacks;    // (spaces,), bits of a float64: the most that lengths may lack, 0 at first
    long long spaces;
    long long balls;
    long long dim;
    long long count;              // of bases in each space
    long long per_base;
    long long blocks;
    long long steps;
};

// Fill in the lengths of balls. A thread for each, blocks of WARPS warps, warps space by space. Twin of `_measure`.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT) lengths_of_balls(Measured level) {
    const Place place = place_of_thread(level.spaces, level.balls);
    if (!place.any || place.row < 0) return;
    const long long dim = level.dim, pitch = BLOCK * level.blocks, at = place.space * pitch + place.row;
    const long long base = place.space * level.count + place.row / level.per_base;
    const double* centre = level.centre + place.space * dim;
    const double* middle = level.bases + base * dim;
    const unsigned* words = reinterpret_cast<const unsigned*>(level.codes) +
                            (place.space * level.blocks + place.row / BLOCK) * level.steps * BLOCK + place.row % BLOCK;
    const double scale = exact64(level.scales[at]), radius = exact64(level.radii[at]);
    double total = 0.0, own = 0.0;
    for (long long first = 0; first < dim; first += 4) {
        const unsigned word = words[first / 4 * BLOCK];
        for (int b = 0; b < 4 && first + b < dim; ++b) {
            const double point = middle[first + b] + scale * (static_cast<double>(word >> 8 * b & 255) - 128.0);
            const double offset = point - centre[first + b];
            total += offset * offset;
            own += point * point;
        }
    }
    const double doubt = ball_doubt(norm_bound(total, dim), radius, level.extents[base] + norm_bound(own, dim), dim);
    const double length = 0.5 * (total - radius * radius);
    const float rounded = round_down32(length - doubt);
    level.lengths[at] = rounded;
    const double lack = (length + doubt - exact64(rounded)) * (1.0 + 0x1p-40);
    if (lack > 0.0) atomicMax(level.lacks + place.space, static_cast<unsigned long long>(__double_as_longlong(lack)));
}
