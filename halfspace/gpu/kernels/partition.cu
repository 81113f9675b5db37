// Balanced splits along principal axes, all sets of a level at once. Twin of halfspace/cpu/partition.py.
#include "formats.cuh"
#include "rows.cuh"

// Sets of rows in several parts, the dimensions columns[part] to columns[part + 1] - 1. The twin of the record SPLIT in
// halfspace/gpu/partition.py. All fields have 8 bytes.
struct Split {
    long long parts;
    long long rows;
    long long dim;
    long long sets;
    long long width;  // dimensions of the widest part
    long long size;   // sets of so many rows or fewer are not split
};

constexpr int AXIS_ROWS = 128;  // rows of a set that its principal axis is taken from, and threads of a block, at most
constexpr int ROUNDS = 4;    // power iterations

// The largest of what the threads of a block have, and the least index that comes with it.
struct Best {
    double value;
    long long index;
};

__device__ inline Best best_of_block(Best own, Best (&all)[AXIS_ROWS]) {
    __syncthreads();
    all[threadIdx.x] = own;
    __syncthreads();
    for (int distance = static_cast<int>(blockDim.x) / 2; distance > 0; distance /= 2) {
        if (threadIdx.x < distance) {
            Best& mine = all[threadIdx.x];
            const Best other = all[threadIdx.x + distance];
            if (other.value > mine.value || (other.value == mine.value && other.index < mine.index)) mine = other;
        }
        __syncthreads();
    }
    return all[0];
}

// Find the principal axis of each set of rows, order[part, firsts[set]] to order[part, firsts[set + 1] - 1], in the
// dimensions of its part. A block of 32 or AXIS_ROWS threads for a set of a part, set by set.
// order : (parts, rows); axes : (2, parts, sets, width), means and then axes, of float32: any centre and any axis
// will do
// scales : (parts, sets), one over the longest projection of the sample; 0 where a set is not to be split, having
// `size` rows or fewer, or where all rows of the sample are alike
extern "C" __global__ void __launch_bounds__(AXIS_ROWS)
    principal_axes(const stored_t* __restrict__ vectors, const int* __restrict__ order,
                   const long long* __restrict__ firsts, const long long* __restrict__ columns, float* axes,
                   double* scales, Split split) {
    __shared__ int sample[AXIS_ROWS];
    __shared__ double along[AXIS_ROWS];
    __shared__ Best all[AXIS_ROWS];
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const long long rows = split.rows, dim = split.dim, size = split.size;
    const long long set = blockIdx.x % split.sets, part = blockIdx.x / split.sets;
    const long long first = firsts[set], length = firsts[set + 1] - first;
    const long long columns_here = columns[part + 1] - columns[part];
    float* mean = axes + blockIdx.x * split.width;
    float* axis = mean + split.parts * split.sets * split.width;
    if (thread == 0) scales[blockIdx.x] = 0.0;
    if (length <= size) return;
    const long long step = (length + AXIS_ROWS - 1) / AXIS_ROWS;
    const int count = static_cast<int>((length + step - 1) / step);
    for (int i = thread; i < count; i += threads) sample[i] = order[part * rows + first + i * step];
    __syncthreads();

    const stored_t* own = vectors + columns[part];
    Best widest = {0.0, 0};
    for (long long j = thread; j < columns_here; j += threads) {
        double total = 0.0, spread = 0.0;
        for (int i = 0; i < count; ++i) total += widen64(own[sample[i] * dim + j]);
        const float middle = narrow(total / count);
        for (int i = 0; i < count; ++i) {
            const double offset = widen64(own[sample[i] * dim + j]) - exact64(middle);
            spread += offset * offset;
        }
        mean[j] = middle;
        if (spread > widest.value) widest = {spread, j};
    }
    widest = best_of_block(widest, all);
    if (widest.value == 0.0) return;
    for (long long j = thread; j < columns_here; j += threads) axis[j] = j == widest.index ? 1.0f : 0.0f;
    for (int round = 0;; ++round) {
        __syncthreads();
        Best longest = {0.0, 0};
        for (int i = thread; i < count; i += threads) {
            double total = 0.0;
            for (long long j = 0; j < columns_here; ++j) {
                total += (widen64(own[sample[i] * dim + j]) - exact64(mean[j])) * exact64(axis[j]);
            }
            along[i] = total;
            longest.value = fmax(longest.value, fabs(total));
        }
        longest = best_of_block(longest, all);
        if (round == ROUNDS || columns_here == 1) {
            if (thread == 0 && longest.value > 0.0) scales[blockIdx.x] = 1.0 / longest.value;
            return;
        }
        Best largest = {0.0, 0};
        for (int pass = 0; pass < 2; ++pass) {  // find the largest component, then divide by it
            for (long long j = thread; j < columns_here; j += threads) {
                const double middle = exact64(mean[j]);
                double image = 0.0;
                for (int i = 0; i < count; ++i) image += along[i] * (widen64(own[sample[i] * dim + j]) - middle);
                if (pass == 0) largest.value = fmax(largest.value, fabs(image));
                if (pass == 1 && largest.value > 0.0) axis[j] = narrow(image / largest.value);
            }
            if (pass == 0) largest = best_of_block(largest, all);
        }
    }
}

// Keys (parts, rows) that sort positions of `order` by part and set, and within a set by the projection of their row on
// the set's axis; see `principal_axes`. A thread for a position, blocks of WARPS warps, warps part by part.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    project(const stored_t* __restrict__ vectors, const int* __restrict__ order, const long long* __restrict__ firsts,
            const long long* __restrict__ columns, const float* __restrict__ axes, const double* __restrict__ scales,
            unsigned long long* keys, Split split) {
    __shared__ float slabs[WARPS][32][PITCH];
    auto& slab = slabs[warp_of_block()];
    const long long rows = split.rows, dim = split.dim, sets = split.sets;
    const Place place = place_of_thread(split.parts, rows);
    if (!place.any) return;
    const bool live = place.row >= 0;
    const long long position = live ? place.row : 0;
    long long set = 0, beyond = sets;  // firsts[set] <= position < firsts[beyond]
    while (beyond - set > 1) {
        const long long middle = (set + beyond) / 2;
        if (firsts[middle] <= position) set = middle; else beyond = middle;
    }
    set += place.space * sets;
    const double scale = scales[set];
    const long long row = live ? order[place.space * rows + position] : -1;
    const long long low = columns[place.space], columns_here = columns[place.space + 1] - low;
    double total = 0.0;
    for (long long first = 0; first < columns_here; first += SLAB) {
        const int count = slab_width(columns_here, first);
        stage(vectors + low, dim, row, first, count, slab);
        if (!live || scale == 0.0) continue;
        const float* mean = axes + set * split.width + first;
        const float* axis = mean + split.parts * sets * split.width;
        for (int k = 0; k < count; ++k) {
            total += exact64(axis[k]) * (exact64(slab[lane_of_warp()][k]) - exact64(mean[k]));
        }
    }
    if (!live) return;
    const unsigned bits = __float_as_uint(narrow(total * scale));
    const unsigned ascending = bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);  // as unsigned, in the order of floats
    keys[place.space * rows + position] = static_cast<unsigned long long>(set) << 32 | ascending;
}
