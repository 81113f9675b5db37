// The cascade of segments with cells, for few directions: norms, high codes, low codes; each tests what the one before
// left. The twin of halfspace/cpu/filters/cascade.py.
//
// High codes are multiplied by the tensor cores: 16 vectors of 32 dimensions with 8 columns, which hold the two digits of
// up to four directions. The layout of a block (16 vectors side by side, 8 dimensions to a word) is that of a fragment: 16
// bytes of it are the operands of two products, with the nibbles apart.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "rounding.cuh"
#include "emit.cuh"
#include "filters/lifts.cuh"

#define ROWS 64          // rows of a warp: a block of threads tests half a chunk
#define PAIRS 2          // pairs of blocks of codes among them
#define LANES 4          // lanes that share the low codes of a vector
#define TAKE 512         // in an entry of a list: a hit for certain

// The entries of a warp's list: a row, plus ROWS times which of the directions, plus TAKE.
struct List {
    double* values;
    unsigned short* entries;
};

// Multiply the high codes of a warp's rows with the digits of up to four directions.
//
// sums[p][j] gets what mma_s8 makes of the blocks 2 p and 2 p + 1: with g = lane / 4, its rows g and g + 8 are the rows
// 2 j and 2 j + 1 among the four from 4 (g % 4) on of block 2 p + g / 4; its columns are high and low digits by turns.
__device__ __forceinline__ void multiply_high(const Segment& segment, long long block, long long words,
                                              const signed char* digits, int (&sums)[PAIRS][2][4]) {
    const int g = lane_number() / 4, t = lane_number() % 4;
    const unsigned char* address = segment.high + ((block + g / 4) * words * BLOCK + 4 * (g % 4)) * 4;
#pragma unroll 4
    for (long long word = t; word < (words + 3) / 4 * 4; word += 4) {
        uint4 codes[PAIRS];
#pragma unroll
        for (int p = 0; p < PAIRS; p++)
            codes[p] = word < words ? stream128(address + (2 * p * words + word) * (4 * BLOCK)) : make_uint4(0, 0, 0, 0);
        const uint2 own = digits == nullptr ? make_uint2(0, 0) : __ldg(reinterpret_cast<const uint2*>(digits + 8 * word));
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const uint4 four = codes[p];
            mma_s8(sums[p][0], four.x & NIBBLES, four.y & NIBBLES, four.x >> 4 & NIBBLES, four.y >> 4 & NIBBLES, own.x,
                   own.y);
            mma_s8(sums[p][1], four.z & NIBBLES, four.w & NIBBLES, four.z >> 4 & NIBBLES, four.w >> 4 & NIBBLES, own.x,
                   own.y);
        }
    }
}

// Product of the low codes of a vector with both digits of a direction, by LANES lanes, which all get it.
__device__ __forceinline__ double multiply_low(const unsigned char* low, long long words, const signed char* digits,
                                               long long stride) {
    int high_sum = 0, low_sum = 0;
    const auto add = [&](unsigned codes, long long word) {
        const uint2 high_digits = __ldg(reinterpret_cast<const uint2*>(digits + 8 * word));
        const uint2 low_digits = __ldg(reinterpret_cast<const uint2*>(digits + stride + 8 * word));
        const int first = (int)(codes & NIBBLES), second = (int)(codes >> 4 & NIBBLES);
        high_sum = __dp4a(second, (int)high_digits.y, __dp4a(first, (int)high_digits.x, high_sum));
        low_sum = __dp4a(second, (int)low_digits.y, __dp4a(first, (int)low_digits.x, low_sum));
    };
    const int part = lane_number() % LANES;
    if (words % 4 == 0) {
        for (long long word = 4 * part; word < words; word += 4 * LANES) {
            const uint4 four = *reinterpret_cast<const uint4*>(low + 4 * word);
            add(four.x, word);
            add(four.y, word + 1);
            add(four.z, word + 2);
            add(four.w, word + 3);
        }
    } else {
        for (long long word = part; word < words; word += LANES)
            add(*reinterpret_cast<const unsigned*>(low + 4 * word), word);
    }
    for (int step = LANES / 2; step > 0; step /= 2) {
        high_sum += __shfl_xor_sync(FULL, high_sum, step);
        low_sum += __shfl_xor_sync(FULL, low_sum, step);
    }
    return (double)high_sum * 256.0 + (double)low_sum;
}

// Test the high codes of a warp's rows; lists the rows that are left, and returns how many entries there are.
//
// alive : bits of the directions that any vector of the chunk can reach
template <int AT_ONCE>
__device__ int classify_high(const Call& call, const Segment& segment, long long first, int count, long long which,
                         unsigned alive, long long row, const List& list) {
    const int lane = lane_number(), g = lane / 4, t = lane % 4;
    const long long words = (call.dim + 7) / 8;
    const signed char* digits = nullptr;
    if (g / 2 < count)
        digits = call.digits + (2 * ((first + g / 2) * call.segment_count + which) + g % 2) * call.stride;
    const int each = AT_ONCE == 1 ? 1 : 4;  // rows of a pair that a lane tests
    unsigned short scales[PAIRS][each], radii[PAIRS][each];
    float lengths[PAIRS][each];
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
#pragma unroll
        for (int k = 0; k < each; k++) {
            const int own = (2 * p + g / 4) * BLOCK + 4 * (g % 4) + (AT_ONCE == 1 ? t : k);
            scales[p][k] = segment.scales[row + own];
            radii[p][k] = segment.high_radii[row + own];
            lengths[p][k] = length_of(segment.lengths, row + own);
        }
    }
    int sums[PAIRS][2][4] = {};
    multiply_high(segment, row / BLOCK, words, digits, sums);
    const int query = AT_ONCE == 1 ? 0 : t;
    const bool asked = query < count && (alive >> query & 1) != 0;
    const View view = call.views[(asked ? first + query : first) * call.segment_count + which];
    const double unit = 16.0 * view.unit, bias = HIGH_MIDDLE / 16.0 * view.digit_sum;
    int listed = 0, taken = 0;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
#pragma unroll
        for (int k = 0; k < each; k++) {
            int high, low, within;
            if (AT_ONCE == 1) {  // the first lane of four has the sums of all: one for each
                high = low = 0;
#pragma unroll
                for (int other = 0; other < 4; other++) {
                    const int one = __shfl_sync(FULL, sums[p][other / 2][other % 2 * 2], lane & ~3);
                    const int two = __shfl_sync(FULL, sums[p][other / 2][other % 2 * 2 + 1], lane & ~3);
                    if (t == other) high = one, low = two;
                }
                within = t;
            } else {
                high = sums[p][k / 2][k % 2 * 2];
                low = sums[p][k / 2][k % 2 * 2 + 1];
                within = k;
            }
            const int own = (2 * p + g / 4) * BLOCK + 4 * (g % 4) + within;
            bool left = asked && row + own < segment.rows, take = false;
            double value = 0.0;
            if (left) {
                const double scale = widen16(scales[p][k]);
                value = scale * (unit * ((double)high * 256.0 + (double)low - bias));
                const double width = scale * view.high_slack + view.factor * widen16(radii[p][k]);
                left = !(value + width < below_of(view, view.below, lengths[p][k]));
                take = left && value - width >= above_of(view, view.above, lengths[p][k]);
            }
            const unsigned lanes = __ballot_sync(FULL, left);
            if (left) {
                const int at = listed + __popc(lanes & lanes_below());
                list.values[at] = value;
                list.entries[at] = (unsigned short)(own + ROWS * query + (take ? TAKE : 0));
            }
            listed += __popc(lanes);
            taken += __popc(__ballot_sync(FULL, take));
        }
    }
    if (lane == 0 && call.work != nullptr) {
        const long long rows = min((long long)ROWS, segment.rows - row), tested = rows * __popc(alive);
        count_work(call, HIGH_STAGE, TESTED, tested);
        count_work(call, HIGH_STAGE, DROPPED, tested - listed);
        count_work(call, HIGH_STAGE, TAKEN, taken);
        count_work(call, HIGH_STAGE, LEFT, listed - taken);
        count_work(call, HIGH_STAGE, BYTES, rows * (4 * words + (METRIC == IP ? 4 : 8)));
    }
    __syncwarp();
    return listed;
}

// Test the low codes of the listed rows, and cut the list to those that are left; returns how many.
__device__ int classify_low(const Call& call, const Segment& segment, long long first, long long which, long long row,
                        int listed, const List& list) {
    const int lane = lane_number(), at_once = WARP / LANES;
    const long long words = (call.dim + 7) / 8;
    int kept = 0, tested = 0, dropped = 0, taken = 0;
    for (int start = 0; start < listed; start += at_once) {
        const int at = min(start + lane / LANES, listed - 1);
        const bool leads = lane % LANES == 0 && start + lane / LANES < listed;
        const int entry = list.entries[at];
        const long long own = row + entry % ROWS, seen = (first + entry / ROWS % 4) * call.segment_count + which;
        const double product = multiply_low(segment.low + 4 * words * own, words, call.digits + 2 * call.stride * seen,
                                            call.stride);
        bool left = leads, take = entry >= TAKE;
        if (leads && !take) {
            const View& view = call.views[seen];
            const double scale = widen16(segment.scales[own]);
            const double value = list.values[at] + scale * (view.unit * (product - LOW_MIDDLE * view.digit_sum));
            const double width = scale * view.low_slack + view.factor * widen16(segment.low_radii[own]);
            const float length = length_of(segment.lengths, own);
            left = !(value + width < below_of(view, view.below, length));
            take = left && value - width >= above_of(view, view.above, length);
        }
        tested += __popc(__ballot_sync(FULL, leads && entry < TAKE));
        dropped += __popc(__ballot_sync(FULL, leads && !left));
        taken += __popc(__ballot_sync(FULL, left && take && entry < TAKE));
        left = left && !is_excluded(segment, own);
        const unsigned lanes = __ballot_sync(FULL, left);
        __syncwarp();  // all have read their entries
        if (left) list.entries[kept + __popc(lanes & lanes_below())] = (unsigned short)(entry % TAKE + (take ? TAKE : 0));
        kept += __popc(lanes);
        __syncwarp();
    }
    if (lane == 0 && call.work != nullptr) {
        count_work(call, LOW_STAGE, TESTED, tested);
        count_work(call, LOW_STAGE, DROPPED, dropped);
        count_work(call, LOW_STAGE, TAKEN, taken);
        count_work(call, LOW_STAGE, LEFT, tested - dropped - taken);
        count_work(call, LOW_STAGE, BYTES, tested * (4 * words + 2));
    }
    return kept;
}

// Test half a chunk, whose segment has cells, for AT_ONCE directions at a time.
template <int AT_ONCE>
__device__ void classify_half(const Call& call, long long chunk, int half, unsigned char* room) {
    const int warp = threadIdx.x / WARP, lane = lane_number(), entries = ROWS * AT_ONCE;
    const List list = {reinterpret_cast<double*>(room) + entries * warp,
                       reinterpret_cast<unsigned short*>(room + THREADS / WARP * entries * 8) + entries * warp};
    const long long which = call.owners[chunk];
    const long long sets = (call.batch + AT_ONCE - 1) / AT_ONCE;  // of directions, in each space
    for (long long set = blockIdx.y; set < sets * (call.count / call.batch); set += gridDim.y) {
        const long long space = set / sets, first = space * call.batch + set % sets * AT_ONCE;
        const int count = (int)min((long long)AT_ONCE, (space + 1) * call.batch - first);
        const Segment& segment = call.segments[space * call.segment_count + which];
        const long long row = ((chunk - segment.first) << 10) + half * (CHUNK / 2) + ROWS * warp;
        if (row >= segment.rows) continue;
        unsigned alive = 0;
        for (int query = 0; query < count; query++) {
            const Plan& plan = call.plans[first + query];
            const double peak = exact64(segment.peaks[chunk - segment.first]);
            const bool reached = METRIC != IP || !(longest_product(plan.norm, peak) < plan.tau);
            if (plan.bad == 0.0 && reached) alive |= 1u << query;
        }
        if (lane == 0 && call.work != nullptr) {
            const long long rows = min((long long)ROWS, segment.rows - row);
            count_work(call, NORMS_STAGE, TESTED, rows * count);
            count_work(call, NORMS_STAGE, DROPPED, rows * (count - __popc(alive)));
            count_work(call, NORMS_STAGE, LEFT, rows * __popc(alive));
            count_work(call, NORMS_STAGE, BYTES, warp + half == 0 ? 4 : 0);
        }
        if (alive == 0) continue;
        int listed = classify_high<AT_ONCE>(call, segment, first, count, which, alive, row, list);
        listed = classify_low(call, segment, first, which, row, listed, list);
        for (int start = 0; start < listed; start += WARP) {
            const bool own = start + lane < listed;
            const int entry = own ? list.entries[start + lane] : 0;
            const long long direction = first + entry / ROWS % 4, found = row + entry % ROWS;
            const bool take = own && entry >= TAKE && call.wanted != SCORES;
            if (take) mark_hit(call, segment, direction, found);
            list_pairs(call, own && !take, pair_of(direction, chunk, (int)(found & (CHUNK - 1))));
        }
        __syncwarp();
    }
}

// Grid: x halves of the chunks in a list, y strides over the directions of all spaces. Blocks of THREADS; shared memory: 10
// bytes for each row of half a chunk.
extern "C" __global__ void __launch_bounds__(THREADS, 3) classify_cells(Call call, const int* listed) {
    extern __shared__ unsigned char dynamic_shared[];
    classify_half<1>(call, listed[blockIdx.x / 2], blockIdx.x % 2, dynamic_shared);
}

// The same for four directions at a time, which share the codes that are read; y strides over sets of four. Shared memory:
// 40 bytes for each row of half a chunk.
extern "C" __global__ void __launch_bounds__(THREADS, 3) classify_cells_of_four(Call call, const int* listed) {
    extern __shared__ unsigned char dynamic_shared[];
    classify_half<4>(call, listed[blockIdx.x / 2], blockIdx.x % 2, dynamic_shared);
}
