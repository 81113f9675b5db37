// Cells: every vector is a ball of its own, whose centre lies on a lattice. Twin of halfspace/cpu/filters/cells.py.
#include "filters/coding.cuh"
#include "formats.cuh"
#include "rounding.cuh"
#include "rows.cuh"
#include "runtime/records.cuh"

constexpr int TEAM = 256;             // threads of a block of `weigh`

// The largest norm among each 1,024 rows: norms (spaces, n), peaks (spaces, chunks). A warp for a chunk.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    peaks_of_chunks(const float* __restrict__ norms, float* peaks, long long spaces, long long rows) {
    const long long chunks = (rows + CHUNK - 1) / CHUNK;
    const long long chunk = static_cast<long long>(blockIdx.x) * WARPS + warp_of_block();
    if (chunk >= spaces * chunks) return;
    const long long first = chunk % chunks * CHUNK, last = first + CHUNK < rows ? first + CHUNK : rows;
    const float* own = norms + chunk / chunks * rows;
    unsigned most = 0;  // norms are not negative: the order of their bits is theirs
    for (long long row = first + lane_of_warp(); row < last; row += 32) most = max(most, __float_as_uint(own[row]));
    for (int distance = 16; distance > 0; distance /= 2) most = max(most, __shfl_xor_sync(ALL, most, distance));
    if (lane_of_warp() == 0) peaks[chunk] = __uint_as_float(most);
}

// The largest of what the threads of a block of `weigh` have.
__device__ inline double largest_of_block(double value, double (&parts)[TEAM]) {
    parts[threadIdx.x] = value;
    __syncthreads();
    for (int distance = TEAM / 2; distance > 0; distance /= 2) {
        if (threadIdx.x < distance) parts[threadIdx.x] = fmax(parts[threadIdx.x], parts[threadIdx.x + distance]);
        __syncthreads();
    }
    const double most = parts[0];
    __syncthreads();
    return most;
}

// Weights of dimensions (spaces, d), at most 1 and of 8 significant bits: spreads to the power 3/4. Where the largest
// of all peaks is not moderate, they are 1. A block for a space. Twin of `_weigh`.
// sums (spaces, parts, 2, d), see `sum_spreads`, over `count` rows; spreads : scratch (spaces, d)
extern "C" __global__ void __launch_bounds__(TEAM)
    weigh(const double* __restrict__ sums, const float* __restrict__ peaks, double* spreads, float* weights,
          long long dim, long long count, long long parts, long long all_peaks) {
    __shared__ double shared[TEAM];
    const long long space = blockIdx.x;
    double peak = 0.0;
    for (long long i = threadIdx.x; i < all_peaks; i += TEAM) peak = fmax(peak, exact64(peaks[i]));
    peak = largest_of_block(peak, shared);
    const bool moderate = is_moderate(peak);
    double most = 0.0;
    for (long long j = threadIdx.x; j < dim; j += TEAM) {
        double total = 0.0, squares = 0.0;
#pragma unroll 8
        for (long long part = 0; part < parts; ++part) {
            const double* own = sums + (space * parts + part) * 2 * dim + j;
            total += own[0];
            squares += own[dim];
        }
        const double mean = total / static_cast<double>(count);
        const double spread = sqrt(fmax(0.0, squares / static_cast<double>(count) - mean * mean));
        spreads[space * dim + j] = spread;
        most = fmax(most, spread);
    }
    most = largest_of_block(most, shared);
    for (long long j = threadIdx.x; j < dim; j += TEAM) {
        float weight = 1.0f;
        if (moderate && most > 0.0) {
            weight = weight_of(spreads[space * dim + j] / most);
        }
        weights[space * dim + j] = weight;
    }
}

// What a warp knows of the dimensions of a slab: the centre, the weight, and one over it.
struct Frame {
    double base[SLAB], weight[SLAB], inverse[SLAB];
};

__device__ inline void stage_frame(const float* centre, const float* weights, long long first, int count,
                                   Frame& frame) {
    const int lane = lane_of_warp();
    if (lane < count) {
        frame.base[lane] = exact64(centre[first + lane]);
        frame.weight[lane] = exact64(weights[first + lane]);
        frame.inverse[lane] = 1.0 / frame.weight[lane];
    }
    __syncwarp();
}

// Where cells are put: the twin of the record ENCODED in halfspace/gpu/filters/cells.py. All fields have 8 bytes.
struct Encoded {
    unsigned char* high;     // (spaces, blocks, words, 16, 4)
    unsigned char* low;      // (spaces, 4 * (16 blocks words + 16))
    unsigned short* scales;  // (spaces, 16 blocks)
    unsigned short* radii;   // (spaces, 2, 16 blocks)
    unsigned* longest;       // (spaces, 2)
    long long spaces;
    long long rows;
    long long dim;
    long long blocks;
};

// Encode vectors (spaces, n, d): a thread for a row, blocks of WARPS warps, warps space by space. Twin of
// `encode_rows`. All that it is put into is zero at first. `longest` gets the largest of four times the squared norm of a high code,
// and of the squared norm of a whole code.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    encode_cells(const stored_t* __restrict__ vectors, const float* __restrict__ centre,
                 const float* __restrict__ weights, Encoded encoded) {
    __shared__ float slabs[WARPS][32][PITCH];
    __shared__ Frame frames[WARPS];
    auto& slab = slabs[warp_of_block()];
    Frame& frame = frames[warp_of_block()];
    const long long rows = encoded.rows, dim = encoded.dim, blocks = encoded.blocks;
    const Place place = place_of_thread(encoded.spaces, rows);
    if (!place.any) return;
    const int lane = lane_of_warp();
    const long long row = place.row, words = (dim + 7) / 8;
    vectors += place.space * rows * dim;
    centre += place.space * dim;
    weights += place.space * dim;

    double largest = 0.0;
    for (long long first = 0; first < dim; first += SLAB) {
        const int count = slab_width(dim, first);
        stage(vectors, dim, row, first, count, slab);
        stage_frame(centre, weights, first, count, frame);
        if (row < 0) continue;
        for (int k = 0; k < count; ++k) {
            largest = fmax(largest, fabs(exact64(slab[lane][k]) - frame.base[k]) * frame.inverse[k]);
        }
    }
    const Lattice lattice = lattice_of(largest);

    // the words of this thread's row: 16 apart in the blocks of the high plane, side by side in the low one
    unsigned* high_words = nullptr;
    unsigned* low_words = nullptr;
    if (row >= 0) {
        const long long block = place.space * blocks + row / BLOCK;
        high_words = reinterpret_cast<unsigned*>(encoded.high) + block * words * BLOCK + row % BLOCK;
        low_words = reinterpret_cast<unsigned*>(encoded.low) + place.space * (BLOCK * blocks * words + 16);
        low_words += row * words;
    }
    double rest = 0.0, coarse = 0.0;
    unsigned length = 0, length_high = 0;
    for (long long first = 0; first < dim; first += SLAB) {
        const int count = slab_width(dim, first);
        if (dim > SLAB) {  // else it is all there
            stage(vectors, dim, row, first, count, slab);
            stage_frame(centre, weights, first, count, frame);
        }
        if (row < 0) continue;
        unsigned lows[4] = {0, 0, 0, 0};
#pragma unroll
        for (int word = 0; word < 4; ++word) {
            if (8 * word >= count) break;
            unsigned highs = 0;
#pragma unroll
            for (int b = 0; b < 8; ++b) {
                const int k = 8 * word + b;
                if (k >= count) break;
                const double offset = exact64(slab[lane][k]) - frame.base[k];
                const Component own = code_component(offset, frame.weight[k], frame.inverse[k], lattice);
                rest += own.rest * own.rest;
                coarse += own.coarse * own.coarse;
                length += static_cast<unsigned>(own.nearest * own.nearest);
                length_high += static_cast<unsigned>(own.doubled * own.doubled);
                const int shift = 8 * (b % 4) + 4 * (b / 4);
                highs |= (own.code >> 4) << shift;
                lows[word] |= (own.code & 15u) << shift;
            }
            high_words[(first / 8 + word) * BLOCK] = highs;
        }
        if (words % 4 == 0) {
            *reinterpret_cast<uint4*>(low_words + first / 8) = {lows[0], lows[1], lows[2], lows[3]};
        } else {
#pragma unroll
            for (int word = 0; word < 4; ++word) {
                if (8 * word < count) low_words[first / 8 + word] = lows[word];
            }
        }
    }
    if (row >= 0) {
        unsigned short* own = encoded.radii + place.space * 2 * BLOCK * blocks + row;
        encoded.scales[place.space * BLOCK * blocks + row] = lattice.bits;
        own[0] = radius_of(coarse, lattice, dim);
        own[BLOCK * blocks] = radius_of(rest, lattice, dim);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        length_high = max(length_high, __shfl_xor_sync(ALL, length_high, distance));
        length = max(length, __shfl_xor_sync(ALL, length, distance));
    }
    if (lane == 0) {
        atomicMax(encoded.longest + 2 * place.space, length_high);
        atomicMax(encoded.longest + 2 * place.space + 1, length);
    }
}

// Norms of the longest codes, rounded up, from `longest` of `encode_cells`. A thread for each number.
extern "C" __global__ void spans_of_codes(const unsigned* longest, double* spans, long long count, long long dim) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) spans[i] = norm_bound((i % 2 == 0 ? 0.25 : 1.0) * static_cast<double>(longest[i]), dim);
}
