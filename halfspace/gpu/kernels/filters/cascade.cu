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

#define ROWS 64          // rows of a tile, which a warp tests
#define PAIRS 2          // pairs of blocks of codes among them
#define AHEAD 4          // words of each block that a lane has on their way
#define LANES 4          // lanes that share the low codes of a vector
#define TAKE 512         // in an entry of a list: a hit for certain

// The entries of a warp's list: a row, plus ROWS times which of the directions, plus TAKE.
struct List {
    double* values;
    unsigned short* entries;
};

// High codes of a warp's rows that are on their way: of 4 AHEAD words, the lane's own of each four.
//
// Fragments as mma_s8 takes them: with g = lane / 4, a lane has the four rows from 4 (g % 4) on of block 2 p + g / 4.
struct Ahead {
    uint4 codes[AHEAD][PAIRS];

    __device__ __forceinline__ void load(const Segment& segment, long long block, long long words, long long first) {
        const int g = lane_number() / 4, t = lane_number() % 4;
        const unsigned char* address = segment.high + ((block + g / 4) * words * BLOCK + 4 * (g % 4)) * 4;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const long long word = first + 4 * i + t;
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                const bool there = word < words;
                codes[i][p] = there ? stream128(address + (2 * p * words + word) * (4 * BLOCK)) : make_uint4(0, 0, 0, 0);
            }
        }
    }

    // Add products with the digits of up to four directions, whose rows these are, or null.
    __device__ __forceinline__ void multiply(const signed char* digits, long long words, long long first,
                                             int (&sums)[PAIRS][2][4]) const {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const long long word = first + 4 * i + lane_number() % 4;
            if (first + 4 * i >= words) break;
            const uint2 own = digits == nullptr ? make_uint2(0, 0) : *reinterpret_cast<const uint2*>(digits + 8 * word);
#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                const uint4 four = codes[i][p];
                mma_s8(sums[p][0], four.x & NIBBLES, four.y & NIBBLES, four.x >> 4 & NIBBLES, four.y >> 4 & NIBBLES, own.x,
                       own.y);
                mma_s8(sums[p][1], four.z & NIBBLES, four.w & NIBBLES, four.z >> 4 & NIBBLES, four.w >> 4 & NIBBLES, own.x,
                       own.y);
            }
        }
    }
};

// Which rows a warp tests: ROWS of a chunk.
struct Tile {
    bool there;
    long long chunk;
    long long which;  // the segment
    const Segment* segment;
    long long row;    // the first, in the segment

    __device__ __forceinline__ Tile(const Call& call, long long space, const int* listed, long long tiles, long long at) {
        there = at < tiles;
        if (!there) return;
        chunk = listed[at / (CHUNK / ROWS)];
        which = call.owners[chunk];
        segment = call.segments + space * call.segment_count + which;
        row = ((chunk - segment->first) << 10) + at % (CHUNK / ROWS) * ROWS;
        there = row < segment->rows;
    }
};

// Directions, up to four at once, of one space.
struct Asked {
    long long first;
    int count;
};

// What of the rows of a lane is read beside their codes.
template <int EACH>
struct Sizes {
    unsigned short scales[PAIRS][EACH], radii[PAIRS][EACH];
    float lengths[PAIRS][EACH];

    __device__ __forceinline__ void load(const Tile& tile) {
        const int g = lane_number() / 4, t = lane_number() % 4;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                const long long own = tile.row + (2 * p + g / 4) * BLOCK + 4 * (g % 4) + (EACH == 1 ? t : k);
                scales[p][k] = tile.segment->scales[own];
                radii[p][k] = tile.segment->high_radii[own];
                lengths[p][k] = length_of(tile.segment->lengths, own);
            }
        }
    }
};

// Product of the low codes of a vector with both digits of a direction, by LANES lanes, which all get it.
__device__ __forceinline__ double multiply_low(const unsigned char* low, long long words, const signed char* digits,
                                               long long stride) {
    int high_sum = 0, low_sum = 0;
    const auto add = [&](unsigned codes, long long word) {
        const uint2 high_digits = *reinterpret_cast<const uint2*>(digits + 8 * word);
        const uint2 low_digits = *reinterpret_cast<const uint2*>(digits + stride + 8 * word);
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

// The directions that any vector of a tile's chunk can reach, as bits; the rest is ruled out by norms.
__device__ unsigned reached(const Call& call, const Tile& tile, const Asked& asked) {
    unsigned alive = 0;
    const double peak = exact64(tile.segment->peaks[tile.chunk - tile.segment->first]);
    for (int query = 0; query < asked.count; query++) {
        const Plan& plan = call.plans[asked.first + query];
        const bool reached = METRIC != IP || !(longest_product(plan.norm, peak) < plan.tau);
        if (plan.bad == 0.0 && reached) alive |= 1u << query;
    }
    return alive;
}

// Test the high codes of a tile, by their products with the digits; lists the rows that are left, and returns how many
// entries there are.
//
// alive : bits of the directions that any vector of the chunk can reach
template <int AT_ONCE, int EACH>
__device__ int classify_high(const Call& call, const Tile& tile, const Asked& asked, unsigned alive,
                             const int (&sums)[PAIRS][2][4], const Sizes<EACH>& sizes, const List& list) {
    const int lane = lane_number(), g = lane / 4, t = lane % 4;
    const int query = AT_ONCE == 1 ? 0 : t;
    const bool wanted = query < asked.count && (alive >> query & 1) != 0;
    const View& view = call.views[(wanted ? asked.first + query : asked.first) * call.segment_count + tile.which];
    const double unit = 16.0 * view.unit, bias = HIGH_MIDDLE / 16.0 * view.digit_sum;
    int listed = 0, taken = 0;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
#pragma unroll
        for (int k = 0; k < EACH; k++) {
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
            bool left = wanted && tile.row + own < tile.segment->rows, take = false;
            double value = 0.0;
            if (left) {
                const double scale = widen16(sizes.scales[p][k]);
                value = scale * (unit * ((double)high * 256.0 + (double)low - bias));
                const double width = scale * view.high_slack + view.factor * widen16(sizes.radii[p][k]);
                left = !(value + width < below_of(view, view.below, sizes.lengths[p][k]));
                take = left && value - width >= above_of(view, view.above, sizes.lengths[p][k]);
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
        const long long rows = min((long long)ROWS, tile.segment->rows - tile.row), tested = rows * __popc(alive);
        count_work(call, HIGH_STAGE, TESTED, tested);
        count_work(call, HIGH_STAGE, DROPPED, tested - listed);
        count_work(call, HIGH_STAGE, TAKEN, taken);
        count_work(call, HIGH_STAGE, LEFT, listed - taken);
        count_work(call, HIGH_STAGE, BYTES, rows * ((call.dim + 7) / 8 * 4 + (METRIC == IP ? 4 : 8)));
    }
    __syncwarp();
    return listed;
}

// Test the low codes of the listed rows, and cut the list to those that are left; returns how many.
__device__ int classify_low(const Call& call, const Tile& tile, const Asked& asked, int listed, const List& list) {
    const Segment& segment = *tile.segment;
    const int lane = lane_number(), at_once = WARP / LANES;
    const long long words = (call.dim + 7) / 8;
    int kept = 0, tested = 0, dropped = 0, taken = 0;
    for (int start = 0; start < listed; start += at_once) {
        const int at = min(start + lane / LANES, listed - 1);
        const bool leads = lane % LANES == 0 && start + lane / LANES < listed;
        const int entry = list.entries[at];
        const long long own = tile.row + entry % ROWS;
        const long long seen = (asked.first + entry / ROWS % 4) * call.segment_count + tile.which;
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

// Test the chunks in a list, whose segments have cells, for AT_ONCE directions at a time.
//
// Every warp goes from tile to tile by itself. The codes of its next one are on their way while it is busy with what this
// one has left; those of its first one, while the kernel before still prepares the directions.
template <int AT_ONCE>
__device__ void classify_chunks(const Call& call, const int* listed, long long chunks, unsigned char* room) {
    constexpr int EACH = AT_ONCE == 1 ? 1 : 4;  // rows of a pair that a lane tests
    const int warp = threadIdx.x / WARP, lane = lane_number(), entries = ROWS * AT_ONCE, g = lane / 4;
    const List list = {reinterpret_cast<double*>(room) + entries * warp,
                       reinterpret_cast<unsigned short*>(room + THREADS / WARP * entries * 8) + entries * warp};
    const long long sets = (call.batch + AT_ONCE - 1) / AT_ONCE;  // of directions, in each space
    const long long words = (call.dim + 7) / 8, tiles = chunks * (CHUNK / ROWS);
    const long long begin = (long long)warp * gridDim.x + blockIdx.x, step = (long long)gridDim.x * (THREADS / WARP);
    for (long long set = blockIdx.y; set < sets * (call.count / call.batch); set += gridDim.y) {
        const long long space = set / sets, first = space * call.batch + set % sets * AT_ONCE;
        const Asked asked = {first, (int)min((long long)AT_ONCE, (space + 1) * call.batch - first)};
        Ahead ahead;
        Sizes<EACH> sizes;
        Tile next(call, space, listed, tiles, begin);
        if (next.there) {
            ahead.load(*next.segment, next.row / BLOCK, words, 0);
            sizes.load(next);
        }
        wait_for_previous();
        unsigned able = next.there ? reached(call, next, asked) : 0;
        for (long long at = begin; at < tiles; at += step) {
            const Tile tile = next;
            const unsigned alive = able;
            int sums[PAIRS][2][4] = {};
            if (alive != 0) {
                const signed char* digits = nullptr;
                if (g / 2 < asked.count)
                    digits = call.digits + (2 * ((first + g / 2) * call.segment_count + tile.which) + g % 2) * call.stride;
                ahead.multiply(digits, words, 0, sums);
                for (long long word = 4 * AHEAD; word < words; word += 4 * AHEAD) {
                    ahead.load(*tile.segment, tile.row / BLOCK, words, word);
                    ahead.multiply(digits, words, word, sums);
                }
            }
            next = Tile(call, space, listed, tiles, at + step);
            able = next.there ? reached(call, next, asked) : 0;
            if (able != 0) ahead.load(*next.segment, next.row / BLOCK, words, 0);
            if (lane == 0 && tile.there && call.work != nullptr) {
                const long long rows = min((long long)ROWS, tile.segment->rows - tile.row);
                count_work(call, NORMS_STAGE, TESTED, rows * asked.count);
                count_work(call, NORMS_STAGE, DROPPED, rows * (asked.count - __popc(alive)));
                count_work(call, NORMS_STAGE, LEFT, rows * __popc(alive));
                count_work(call, NORMS_STAGE, BYTES, tile.row % CHUNK == 0 ? 4 : 0);
            }
            int left = alive == 0 ? 0 : classify_high<AT_ONCE>(call, tile, asked, alive, sums, sizes, list);
            if (able != 0) sizes.load(next);
            if (left != 0) left = classify_low(call, tile, asked, left, list);
            for (int start = 0; start < left; start += WARP) {
                const bool own = start + lane < left;
                const int entry = own ? list.entries[start + lane] : 0;
                const long long direction = first + entry / ROWS % 4, found = tile.row + entry % ROWS;
                const bool take = own && entry >= TAKE && call.wanted != SCORES;
                if (take) mark_hit(call, *tile.segment, direction, found);
                list_pairs(call, own && !take, pair_of(direction, tile.chunk, (int)(found & (CHUNK - 1))));
            }
            __syncwarp();
        }
    }
}

// Grid: x any number of blocks, which share the chunks in a list; y strides over the directions of all spaces. Blocks of
// THREADS; shared memory: 10 bytes for each row of half a chunk.
extern "C" __global__ void __launch_bounds__(THREADS, 2) classify_cells(Call call, const int* listed, long long chunks) {
    extern __shared__ unsigned char dynamic_shared[];
    let_next_begin();
    classify_chunks<1>(call, listed, chunks, dynamic_shared);
}

// The same for four directions at a time, which share the codes that are read; y strides over sets of four. Shared memory:
// 40 bytes for each row of half a chunk.
extern "C" __global__ void __launch_bounds__(THREADS, 2) classify_cells_of_four(Call call, const int* listed,
                                                                               long long chunks) {
    extern __shared__ unsigned char dynamic_shared[];
    let_next_begin();
    classify_chunks<4>(call, listed, chunks, dynamic_shared);
}
